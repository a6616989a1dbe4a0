"""The table of what trains, and the parameters that get no gradient for a reason that can be named."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import torch
from aurora import Aurora, Batch
from aurora.model.lora import LoRARollout
from aurora.normalisation import level_to_str

from kit.adapt.trainable import module_group, size
from kit.models.space import Fields


class GroupSchedule(NamedTuple):
    """How fast a parameter moves."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class TrainableRow:
    """Some parameters of one group of modules.

    Attributes:
        group: of modules, such as ``encoder.surf_token_embeds``.
        trains: values that train.
        parameters: of how many.
        share: what part of them that is.
        learning_rate: its peak; None where nothing trains.
        weight_decay: decoupled; None where nothing trains.
        new: whether the base weights lack what trains.
    """

    group: str
    trains: int
    parameters: int
    share: float
    learning_rate: float | None
    weight_decay: float | None
    new: bool


@dataclass(frozen=True)
class TrainableReport:
    """What trains.

    Attributes:
        rows: in the model's order. A group of modules has one row, or as many as there are ways in which its parts
            move; what is frozen beside them counts among the first. Every parameter is in one row.
    """

    rows: tuple[TrainableRow, ...]

    @property
    def trains(self) -> int:
        """Values that train."""
        return sum(row.trains for row in self.rows)

    @property
    def parameters(self) -> int:
        """All values."""
        return sum(row.parameters for row in self.rows)

    @property
    def share(self) -> float:
        """What part of all values trains."""
        return self.trains / self.parameters

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "groups": [asdict(row) for row in self.rows],
            "trainable_parameters": self.trains,
            "total_parameters": self.parameters,
            "share": self.share,
        }

    def text(self) -> str:
        """Render the table as text."""
        lines: list[tuple[str, ...]] = [("what trains", "parameters", "of", "share", "lr", "weight decay", "")]
        for row in self.rows:
            rates = ("frozen", "", "")
            if row.learning_rate is not None and row.weight_decay is not None:
                rates = (_percent(row.share), f"{row.learning_rate:g}", f"{row.weight_decay:g}")
            mark = "new" if row.new else ""
            lines.append((row.group, f"{row.trains:,}", f"{row.parameters:,}", *rates, mark))
        lines.append(("all", f"{self.trains:,}", f"{self.parameters:,}", _percent(self.share), "", "", ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text: list[str] = []
        for first, *rest in lines:
            cells = [first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]
            text.append("  ".join(cells).rstrip())
        return "\n".join(text)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def report(model: torch.nn.Module, schedules: Mapping[str, GroupSchedule], new: Collection[str]) -> TrainableReport:
    """Tabulate what of a model trains.

    Args:
        model: with everything in place that the method adds. A weight in 4 bits counts as one.
        schedules: learning rate and weight decay of each parameter that trains, by name.
        new: names of those that the base weights lack.
    """
    # In the order in which the model has the groups, and each group its ways of moving.
    moving: dict[str, Counter[tuple[GroupSchedule, bool]]] = {}
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        group = module_group(name)
        kinds = moving.setdefault(group, Counter())
        if name in schedules:
            kinds[schedules[name], name in new] += size(parameter)
        else:
            frozen[group] += size(parameter)
    rows: list[TrainableRow] = []
    for group, kinds in moving.items():
        still = frozen[group]
        if not kinds:
            rows.append(TrainableRow(group, 0, still, 0.0, None, None, new=False))
        for (schedule, is_new), trains in kinds.items():
            total = trains + still
            rows.append(TrainableRow(group, trains, total, trains / max(total, 1), *schedule, new=is_new))
            # What is frozen beside them counts among the first row alone.
            still = 0
    return TrainableReport(tuple(rows))


# Structural zeros: parameters that get no gradient for a reason that can be named.
#
# The reasons are not taken on trust. What the encoder reads and the decoder predicts is watched while gradients are,
# and a reason holds only where that bears it out.

_EMBEDDING = re.compile(
    r"encoder\.(?P<kind>surf|atmos)_token_embeds\.(?:layers\.(?P<level>[^.]+)\.)?(?:weights\.(?P<name>.+)|bias)$"
)
_HEAD = re.compile(r"decoder\.(?:surf|atmos|light)_heads\.(?P<name>[^.]+)\.(?:layers\.(?P<level>[^.]+)\.)?")
_COMBINER = re.compile(r"(?P<kind>surf|atmos)_feature_combiner\.(?P<name>[^.]+)\.")
_CLOCK = re.compile(r"(?:static_)?(?P<cycle>tod|dow|doy)_(?P<wave>sin|cos)$")
# Of a time's sine or cosine: as good as 0. With a gradient so small, AdamW does not move.
_FAINT = 1e-6
_ROLLOUT_LORA = re.compile(r".*\.loras\.(?P<number>\d+)\.")
_LEVEL_DECODER = re.compile(r"decoder\.(?:level_decoder(?P<alternate>_alternate)?|atmos_levels_embed)\.")
_DERIVED = re.compile(r"_(?:sin|cos|density|mod)$")


class ForwardObserver:
    """Observes what a model reads and predicts in the forward passes that are for training.

    Args:
        model: gets a hook before its encoder and one after its decoder, until ``close``.
        unscored: variables that weigh nothing in the loss.
    """

    def __init__(self, model: Aurora, unscored: Collection[str] = ()) -> None:
        self._unscored = frozenset(unscored)
        self._separate = frozenset(model.decoder.separate_perceiver)
        modes = {module.mode for module in model.modules() if isinstance(module, LoRARollout)}
        self._rollout_mode = next(iter(modes), "single")
        self._rollout_steps: set[int] = set()
        self._times: set[datetime] = set()
        self._levels: set[str] = set()
        self._predicted: set[str] = set()
        self._atmospheric: set[str] = set()
        # Whether any point of a variable was to be scored, where that depends on the data.
        self._scored: dict[str, torch.Tensor] = {}
        # Whether a variable had a value other than 0; on the device, so that nobody waits for the answer. By kind,
        # because "z" at the surface is another variable than "z" aloft.
        self._nonzero: dict[str, dict[str, torch.Tensor]] = {"surf": {}, "atmos": {}}
        self._handles = [
            model.encoder.register_forward_pre_hook(self._note_input),
            model.decoder.register_forward_hook(self._note_output),
        ]

    def close(self) -> None:
        """Stop observing."""
        for handle in self._handles:
            handle.remove()

    def _note_input(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        batch: Batch = args[0]
        self._rollout_steps.add(batch.metadata.rollout_step)
        self._times.update(batch.metadata.time)
        # The air-pollution model reads static variables on levels too, under names of their own.
        static = {f"static_{name}": value for name, value in batch.static_vars.items()}
        _note_values(self._nonzero["surf"], {**batch.static_vars, **batch.surf_vars})
        _note_values(self._nonzero["atmos"], {**static, **batch.atmos_vars})

    def _note_output(self, module: torch.nn.Module, _args: Any, output: Batch) -> None:
        if module.training and torch.is_grad_enabled():
            self._levels.update(map(level_to_str, output.metadata.atmos_levels))
            self._predicted.update(output.surf_vars, output.atmos_vars)
            self._atmospheric.update(output.atmos_vars)

    def note_target(self, target: Fields) -> None:
        """Note what a loss is taken against.

        Args:
            target: in training space.
        """
        if torch.is_grad_enabled():
            _note_values(self._scored, target.masks)

    def reason(self, name: str) -> str | None:
        """Explain why a parameter has no gradient, or one too small to move it; None where there is no reason for that.

        Args:
            name: of the parameter, by upstream's names.
        """
        found = _EMBEDDING.match(name) or _HEAD.match(name)
        if found and found["level"] is not None and found["level"] not in self._levels:
            return "the data lack its level"
        if found := _EMBEDDING.match(name):
            return self._of_embedding(found["kind"], found["name"])
        if found := _HEAD.match(name):
            return self._of_head(found["name"])
        if found := _LEVEL_DECODER.match(name):
            return self._of_level_decoder(name, alternate=found["alternate"] is not None)
        if (found := _COMBINER.match(name)) and found["name"] not in self._nonzero[found["kind"]]:
            return "its variable is not read"
        if found := _ROLLOUT_LORA.match(name):
            # Which LoRA takes part in a step: aurora/model/lora.py.
            used = self._rollout_mode == "single" or max(self._rollout_steps, default=0) > 0
            if self._rollout_mode == "all":
                used = int(found["number"]) in self._rollout_steps
            if not used:
                return "its roll-out step is not trained"
        return None

    def _of_level_decoder(self, name: str, *, alternate: bool) -> str | None:
        """Upstream decodes some variables apart from the others; both share the encoding of levels."""
        decoded = self._atmospheric
        if alternate:
            decoded = self._atmospheric & self._separate
        elif "atmos_levels_embed" not in name:
            decoded = self._atmospheric - self._separate
        if not decoded:
            return "no variable that it decodes is predicted"
        if not any(map(self._weighs, decoded)):
            return "what it decodes weighs nothing in the loss"
        return None

    def _weighs(self, variable: str) -> bool:
        return {variable, _DERIVED.sub("", variable)}.isdisjoint(self._unscored)

    def _of_embedding(self, kind: str, variable: str | None) -> str | None:
        if variable is None:
            return None
        if clock := _CLOCK.match(variable):
            if all(abs(_phase(time, clock["cycle"], clock["wave"])) < _FAINT for time in self._times):
                return "its sine or cosine was as good as 0 at every time that was read"
        elif variable not in self._nonzero[kind]:
            return "its variable is not read"
        elif not bool(self._nonzero[kind][variable]):
            return "its variable was 0 everywhere in what was read"
        return None

    def _of_head(self, variable: str) -> str | None:
        if variable not in self._predicted:
            return "its variable is not predicted"
        if not self._weighs(variable):
            return "its variable weighs nothing in the loss"
        if variable in self._scored and not bool(self._scored[variable]):
            return "no point of it was to be scored in what was read"
        return None


def _note_values(noted: dict[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Note which of some variables have a value other than 0, besides those that had one before."""
    for name, value in values.items():
        nonzero = value.detach().any()
        noted[name] = noted[name] | nonzero if name in noted else nonzero


def _phase(time: datetime, cycle: str, wave: str) -> float:
    """What upstream's encoder reads of a time (``aurora/model/encoder.py``)."""
    turns = {"tod": time.hour / 24, "dow": time.weekday() / 7, "doy": time.day / 365.25}[cycle]
    return math.sin(2 * math.pi * turns) if wave == "sin" else math.cos(2 * math.pi * turns)
