"""What trains: a table of the model's modules, made before the first step."""

from __future__ import annotations

import math
import re
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

__all__ = ["Pace", "Report", "Row", "Watched", "report"]


class Pace(NamedTuple):
    """How fast a parameter moves."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Row:
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
class Report:
    """What trains.

    Attributes:
        rows: in the model's order. A group of modules has one row, or as many as there are ways in which its parts
            move; what is frozen beside them counts among the first. Every parameter is in one row.
    """

    rows: tuple[Row, ...]

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
        """JSON form."""
        return {
            "groups": [asdict(row) for row in self.rows],
            "trainable_parameters": self.trains,
            "total_parameters": self.parameters,
            "share": self.share,
        }

    def text(self) -> str:
        """The table in words."""
        head = ("what trains", "parameters", "of", "share", "lr", "weight decay", "")
        body = [
            (row.group, f"{row.trains:,}", f"{row.parameters:,}", *_rates(row), "new" if row.new else "")
            for row in self.rows
        ]
        total = ("all", f"{self.trains:,}", f"{self.parameters:,}", _percent(self.share), "", "", "")
        lines = [head, *body, total]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(_line(line, widths) for line in lines)


def _rates(row: Row) -> tuple[str, str, str]:
    if row.learning_rate is None or row.weight_decay is None:
        return "frozen", "", ""
    return _percent(row.share), f"{row.learning_rate:g}", f"{row.weight_decay:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = cells
    padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
    return "  ".join(padded).rstrip()


def report(model: torch.nn.Module, paces: Mapping[str, Pace], new: Collection[str]) -> Report:
    """Say what of a model trains.

    Args:
        model: with everything in place that the method adds. A weight in 4 bits counts as one.
        paces: how fast each parameter moves that trains, by name.
        new: names of those that the base weights lack.
    """
    moving: dict[str, dict[tuple[Pace, bool], int]] = {}
    frozen: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        group = module_group(name)
        kinds = moving.setdefault(group, {})
        if name in paces:
            kind = (paces[name], name in new)
            kinds[kind] = kinds.get(kind, 0) + size(parameter)
        else:
            frozen[group] = frozen.get(group, 0) + size(parameter)
    return Report(tuple(row for group, kinds in moving.items() for row in _rows(group, kinds, frozen.get(group, 0))))


def _rows(group: str, kinds: Mapping[tuple[Pace, bool], int], frozen: int) -> list[Row]:
    if not kinds:
        return [Row(group, 0, frozen, 0.0, None, None, new=False)]
    rows: list[Row] = []
    for (pace, new), trains in kinds.items():
        of = trains + (0 if rows else frozen)
        rows.append(Row(group, trains, of, trains / of if of else 0.0, *pace, new=new))
    return rows


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
_FAINT = 1e-6
"""Of a time's sine or cosine: as good as 0. With a gradient so small, AdamW does not move."""
_ROLLOUT_LORA = re.compile(r".*\.loras\.(?P<number>\d+)\.")
_LEVEL_DECODER = re.compile(r"decoder\.(?:level_decoder(?P<alternate>_alternate)?|atmos_levels_embed)\.")
_DERIVED = re.compile(r"_(?:sin|cos|density|mod)$")


class Watched:
    """What a model read and predicted in the forward passes that were for training.

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
        self._awake: dict[str, dict[str, torch.Tensor]] = {"surf": {}, "atmos": {}}
        self._handles = [
            model.encoder.register_forward_pre_hook(self._read),
            model.decoder.register_forward_hook(self._predict),
        ]

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _read(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        batch: Batch = args[0]
        self._rollout_steps.add(batch.metadata.rollout_step)
        self._times |= set(batch.metadata.time)
        self._note("surf", {**batch.static_vars, **batch.surf_vars})
        self._note(
            "atmos", {**{f"static_{name}": value for name, value in batch.static_vars.items()}, **batch.atmos_vars}
        )

    def _note(self, kind: str, values: Mapping[str, torch.Tensor]) -> None:
        _add(self._awake[kind], values)

    def see(self, target: Fields) -> None:
        """Look at what a loss is taken against.

        Args:
            target: in training space.
        """
        if torch.is_grad_enabled():
            _add(self._scored, target.masks)

    def _predict(self, module: torch.nn.Module, _args: Any, output: Batch) -> None:
        if module.training and torch.is_grad_enabled():
            self._levels |= {level_to_str(level) for level in output.metadata.atmos_levels}
            self._predicted |= {*output.surf_vars, *output.atmos_vars}
            self._atmospheric |= set(output.atmos_vars)

    def reason(self, name: str) -> str | None:
        """Why a parameter has no gradient, or one too small to move it; None where there is no reason for that.

        Args:
            name: of the parameter, by upstream's names.
        """
        if found := _EMBEDDING.match(name):
            return self._of_level(found["level"]) or self._of_embedding(found["kind"], found["name"])
        if found := _COMBINER.match(name):
            return None if found["name"] in self._awake[found["kind"]] else "its variable is not read"
        if found := _HEAD.match(name):
            return self._of_level(found["level"]) or self._of_head(found["name"])
        if found := _ROLLOUT_LORA.match(name):
            return None if self._uses(int(found["number"])) else "its roll-out step is not trained"
        if found := _LEVEL_DECODER.match(name):
            return self._of_level_decoder(name, alternate=found["alternate"] is not None)
        return None

    def _of_level_decoder(self, name: str, *, alternate: bool) -> str | None:
        """Upstream decodes some variables apart from the others; both share the encoding of levels."""
        shared = "atmos_levels_embed" in name
        decoded = {variable for variable in self._atmospheric if shared or (variable in self._separate) == alternate}
        if not decoded:
            return "no variable that it decodes is predicted"
        return (
            None
            if any(self._weighs(variable) for variable in decoded)
            else "what it decodes weighs nothing in the loss"
        )

    def _weighs(self, variable: str) -> bool:
        return {variable, _DERIVED.sub("", variable)}.isdisjoint(self._unscored)

    def _of_level(self, level: str | None) -> str | None:
        return None if level is None or level in self._levels else "the data lack its level"

    def _uses(self, number: int) -> bool:
        """Whether upstream's roll-out LoRA of a number took part (``aurora/model/lora.py``)."""
        if self._rollout_mode == "all":
            return number in self._rollout_steps
        return self._rollout_mode == "single" or any(step > 0 for step in self._rollout_steps)

    def _of_embedding(self, kind: str, variable: str | None) -> str | None:
        if variable is None:
            return None
        if clock := _CLOCK.match(variable):
            faint = all(abs(_phase(time, clock["cycle"], clock["wave"])) < _FAINT for time in self._times)
            return "its sine or cosine was as good as 0 at every time that was read" if faint else None
        if variable not in self._awake[kind]:
            return "its variable is not read"
        return None if bool(self._awake[kind][variable]) else "its variable was 0 everywhere in what was read"

    def _of_head(self, variable: str) -> str | None:
        if variable not in self._predicted:
            return "its variable is not predicted"
        if not self._weighs(variable):
            return "its variable weighs nothing in the loss"
        scored = self._scored.get(variable)
        return None if scored is None or bool(scored) else "no point of it was to be scored in what was read"


def _add(seen: dict[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Note which of some variables have a value other than 0, besides those that had one before."""
    for name, value in values.items():
        awake = value.detach().any()
        seen[name] = seen[name] | awake if name in seen else awake


def _phase(time: datetime, cycle: str, wave: str) -> float:
    """What upstream's encoder reads of a time (``aurora/model/encoder.py``)."""
    turns = {"tod": time.hour / 24, "dow": time.weekday() / 7, "doy": time.day / 365.25}[cycle]
    return math.sin(2 * math.pi * turns) if wave == "sin" else math.cos(2 * math.pi * turns)
