"""Ways of taking a training step, side by side: upstream's, and the kit's with its settings.

All start from the same weights, see the same pair of states, and minimise the same loss.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from aurora import Aurora

from kit.adapt.method import import_packages
from kit.bench.workload import Case
from kit.forecasting.predictor import build_prediction_space
from kit.models.space import TrainingSpace
from kit.planning.counter import Counter, Peak, tensors_in
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.resolve import resolve_step
from kit.train.loss import PaperMAE
from kit.train.updaters import After, Update, Updater

__all__ = [
    "Measured",
    "Seconds",
    "Steps",
    "Way",
    "by_kit",
    "forecast",
    "measure",
    "plain_adam",
    "plain_name",
    "upstreams_loop",
    "upstreams_model",
]

_STEPS = 1000
_TIMED = {"cpu": 1, "cuda": 5}
"""Steps that are timed each time that a way has its turn."""
_UPSTREAMS_LR = 3e-4
_WRAPPER = "_checkpoint_wrapped_module"


@dataclass(frozen=True)
class Seconds:
    """What a step took.

    Attributes:
        through_backward: forward pass, loss, backward pass, and what is done on the way.
        update: the optimiser, after them.
    """

    through_backward: float
    update: float

    @property
    def whole(self) -> float:
        """Of the step."""
        return self.through_backward + self.update


class Steps(Protocol):
    """Takes steps, one like the other."""

    space: TrainingSpace

    def step(self) -> Seconds:
        """Take one."""

    def states(self) -> Iterable[torch.Tensor]:
        """What the optimiser remembers."""


@dataclass(frozen=True)
class Way:
    """A way of taking steps.

    Attributes:
        name: for the tables.
        begin: makes ready.
        settings: of the kit; None for upstream's ways.
    """

    name: str
    begin: Callable[[Case], Steps]
    settings: Settings | None = None


@dataclass(frozen=True)
class Measured:
    """What a way took.

    Attributes:
        seconds: the best of each part.
        whole: of the best step, seconds.
        peak: most bytes held in a step, counted in one that is not timed; None where that was not asked for.
        host_bytes: the same of what was offloaded.
        cuda_bytes: most that PyTorch's allocator held on a GPU, in a step that is not counted.
    """

    seconds: Seconds
    whole: float
    peak: Peak | None
    host_bytes: int
    cuda_bytes: int | None


class _Loop:
    """A training loop as people write it, from upstream's documentation: forward, loss, backward, optimiser."""

    def __init__(self, model: Aurora, case: Case, make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]):
        self.space = TrainingSpace(model.to(case.device), case.spec)
        self._case = case
        self._optimizer = make([*model.parameters()])
        self._loss = PaperMAE()

    def step(self) -> Seconds:
        started = self._case.clock()
        self.space.model.train()
        inputs, target = (batch.to(self._case.device) for batch in (self._case.pair.inputs, self._case.pair.target))
        fields = self.space.predict_fields(self.space.inputs(inputs))
        loss = self._loss(fields, self.space.targets(target)).total
        del fields
        loss.backward()  # type: ignore[no-untyped-call]
        between = self._case.clock()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return Seconds(between - started, self._case.clock() - between)

    def states(self) -> Iterable[torch.Tensor]:
        return tensors_in(self._optimizer.state_dict())


class _Timed:
    """An updater whose ``update`` is timed."""

    def __init__(self, updater: Updater, clock: Callable[[], float]) -> None:
        self.moves_in_backward = updater.moves_in_backward
        self.groups = updater.groups
        self.begin = updater.begin
        self.backward = updater.backward
        self.state_dict = updater.state_dict
        self.load_state_dict = updater.load_state_dict
        self.seconds = 0.0
        self._update = updater.update
        self._clock = clock

    def update(self, step: int, after: After | None = None) -> Update:
        started = self._clock()
        update = self._update(step, after)
        self.seconds = self._clock() - started
        return update


class _Kits:
    """The kit's own step: the trainer that ``kit finetune`` runs."""

    def __init__(self, settings: Settings, case: Case) -> None:
        import_packages(settings.adapt.method)
        self._case = case
        self._trainer = build_trainer(
            resolve_step(settings, case.spec, _STEPS, autocast=case.autocast), case.weights, case.device
        )
        self._timed = _Timed(self._trainer.updater, case.clock)
        self._trainer.updater = self._timed
        self.space = self._trainer.space
        self._number = 0

    def step(self) -> Seconds:
        self._number += 1
        started = self._case.clock()
        self._trainer.step(self._number, [self._case.pair])
        return Seconds(self._case.clock() - started - self._timed.seconds, self._timed.seconds)

    def states(self) -> Iterable[torch.Tensor]:
        return tensors_in(self._timed.state_dict())


class _Forecasts:
    """Predictions, without gradients."""

    def __init__(self, settings: Settings, case: Case) -> None:
        space = build_prediction_space(case.spec, case.weights, settings.memory, case.device, autocast=case.autocast)
        self.space, self._case = space, case

    @torch.no_grad()
    def step(self) -> Seconds:
        started = self._case.clock()
        self.space.model.eval()
        self.space.predict(self._case.pair.inputs.to(self._case.device))
        return Seconds(self._case.clock() - started, 0.0)

    def states(self) -> Iterable[torch.Tensor]:
        return ()


def upstreams_loop() -> Way:
    """Upstream's documented way: its class, its activation checkpointing, plain AdamW."""
    return Way(
        "upstream's loop",
        lambda case: _Loop(upstreams_model(case), case, lambda p: torch.optim.AdamW(p, lr=_UPSTREAMS_LR)),
    )


def plain_adam() -> Way:
    """The way of Microsoft's vibe-kit: fp32, nothing recomputed, Adam."""
    return Way(
        "vibe-kit's way",
        lambda case: _Loop(_model(case, autocast=False), case, lambda p: torch.optim.Adam(p, lr=_UPSTREAMS_LR)),
    )


def by_kit(name: str, settings: Settings) -> Way:
    """The kit's way, with some settings."""
    return Way(name, lambda case: _Kits(settings, case), settings)


def forecast(name: str, settings: Settings) -> Way:
    """Predictions with the kit's settings of memory; with none of them, upstream's own."""
    return Way(name, lambda case: _Forecasts(settings, case), settings)


def upstreams_model(case: Case) -> Aurora:
    """Upstream's class with upstream's own activation checkpointing, which renames modules."""
    model = _model(case, autocast=case.autocast)
    model.configure_activation_checkpointing()
    return model


def plain_name(name: str) -> str:
    """Name of a module or parameter without what upstream's checkpointing puts into it."""
    return ".".join(part for part in name.split(".") if part != _WRAPPER)


def _model(case: Case, *, autocast: bool) -> Aurora:
    model = case.spec.build(autocast=autocast)
    model.load_state_dict(case.weights.state)
    return model


def measure(ways: Sequence[Way], case: Case, repeats: int, *, count: bool = True) -> dict[str, Measured]:
    """Measure ways in turns, A B C A B C: what else the machine does then meets them alike.

    Each time, a way starts anew, takes one step that makes optimiser states and warms caches, and then those that
    are timed. One more is counted, once: counting takes time.

    Args:
        ways: each with its own name.
        case: what they are given.
        repeats: turns.
        count: count bytes too.
    """
    seconds: dict[str, list[Seconds]] = {way.name: [] for way in ways}
    counted: dict[str, tuple[Peak | None, int]] = {}
    allocated: dict[str, int | None] = {}
    for turn in range(repeats):
        for way in ways:
            steps = way.begin(case)
            steps.step()
            _restart_allocator(case.device)
            seconds[way.name] += [steps.step() for _ in range(_TIMED[case.device.type])]
            if turn == 0:
                allocated[way.name] = _allocated(case.device)
                counted[way.name] = _counted(steps, case) if count else (None, 0)
            del steps
            # Trainers and models hold each other.
            gc.collect()
    return {
        name: Measured(_best(found), min(each.whole for each in found), *counted[name], allocated[name])
        for name, found in seconds.items()
    }


def _best(found: Sequence[Seconds]) -> Seconds:
    return Seconds(min(each.through_backward for each in found), min(each.update for each in found))


def _counted(steps: Steps, case: Case) -> tuple[Peak, int]:
    model = steps.space.model
    with Counter(model) as counter:
        counter.own((*model.parameters(), *model.buffers()), "parameters")
        counter.own(steps.states(), "optimizer")
        counter.own(case.tensors(), "batch")
        counter.restart()
        steps.step()
    return counter.peak, counter.host_peak


def _restart_allocator(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _allocated(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
