"""Configurations of a training step, side by side: upstream's, and the kit's with its settings.

All start from the same weights, see the same pair of states, and minimise the same loss.
"""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from aurora import Aurora

from kit.adapt.lora import import_packages
from kit.bench.workload import Case
from kit.memory.prediction import build_prediction_space
from kit.models.space import TrainingSpace
from kit.planning.counter import Counter, Peak, tensors_in
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.loss import PaperMAE
from kit.train.resolve import resolve_step
from kit.train.updaters import After, Update, Updater

# Shapes the schedule of the learning rate alone: no measurement takes so many.
_STEPS = 1000
_TIMED = {"cpu": 1, "cuda": 5}
"""Steps that are timed each time that a configuration has its turn."""
_UPSTREAMS_LR = 3e-4
_WRAPPER = "_checkpoint_wrapped_module"


@dataclass(frozen=True)
class Seconds:
    """Time of a step.

    Attributes:
        through_backward: Seconds of forward pass, loss, backward pass, and what is done on the way.
        update: Seconds of the optimiser, after them.
    """

    through_backward: float
    update: float

    @property
    def whole(self) -> float:
        """Seconds of the whole step."""
        return self.through_backward + self.update


class StepRunner(Protocol):
    """Runner of steps, one like the other."""

    space: TrainingSpace

    def step(self) -> Seconds:
        """Take one step, and time it."""

    def states(self) -> Iterable[torch.Tensor]:
        """Return the tensors that the optimiser remembers."""


@dataclass(frozen=True)
class Configuration:
    """A way of taking steps.

    Attributes:
        name: Name in the tables.
        begin: Function that builds model and optimiser.
        settings: The kit's settings; None for upstream's ways.
    """

    name: str
    begin: Callable[[Case], StepRunner]
    settings: Settings | None = None


@dataclass(frozen=True)
class StepMeasurement:
    """Time and memory of a configuration's steps.

    Attributes:
        seconds: The best time of each part.
        whole: Seconds of the best step.
        peak: Most bytes held in a step, counted in one that is not timed; None where that was not asked for.
        host_bytes: The same of what was offloaded.
        cuda_bytes: Most bytes that PyTorch's allocator held on a GPU, in a step that is not counted.
    """

    seconds: Seconds
    whole: float
    peak: Peak | None
    host_bytes: int
    cuda_bytes: int | None


class _UpstreamRunner:
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


class _TimedUpdater:
    """An updater whose ``update`` is timed."""

    def __init__(self, updater: Updater, clock: Callable[[], float]) -> None:
        # All that the trainer asks an updater for.
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


class _KitRunner:
    """The kit's own step: the trainer that ``kit finetune`` runs."""

    def __init__(self, settings: Settings, case: Case) -> None:
        import_packages(settings.adapt.method)
        self._case = case
        self._trainer = build_trainer(
            resolve_step(settings, case.spec, _STEPS, autocast=case.autocast), case.weights, case.device
        )
        self._timed = _TimedUpdater(self._trainer.updater, case.clock)
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


class _ForecastRunner:
    """Predictions, without gradients."""

    def __init__(self, settings: Settings, case: Case) -> None:
        self._case = case
        self.space = build_prediction_space(
            case.spec, case.weights, settings.memory, case.device, "bf16" if case.autocast else "fp32"
        )

    @torch.no_grad()
    def step(self) -> Seconds:
        started = self._case.clock()
        self.space.model.eval()
        self.space.predict(self._case.pair.inputs.to(self._case.device))
        return Seconds(self._case.clock() - started, 0.0)

    def states(self) -> Iterable[torch.Tensor]:
        return ()


def upstreams_loop() -> Configuration:
    """Return upstream's documented way: its class, its activation checkpointing, plain AdamW."""
    return Configuration(
        "upstream's loop",
        lambda case: _UpstreamRunner(upstreams_model(case), case, lambda p: torch.optim.AdamW(p, lr=_UPSTREAMS_LR)),
    )


def plain_adam() -> Configuration:
    """Return the way of Microsoft's vibe-kit: fp32, nothing recomputed, Adam."""
    return Configuration(
        "vibe-kit's way",
        lambda case: _UpstreamRunner(
            _model(case, autocast=False), case, lambda p: torch.optim.Adam(p, lr=_UPSTREAMS_LR)
        ),
    )


def by_kit(name: str, settings: Settings) -> Configuration:
    """Return the kit's way under some settings."""
    return Configuration(name, partial(_KitRunner, settings), settings)


def forecast(name: str, settings: Settings) -> Configuration:
    """Return predictions under the kit's settings of memory; with none of them, upstream's own."""
    return Configuration(name, partial(_ForecastRunner, settings), settings)


def upstreams_model(case: Case) -> Aurora:
    """Build upstream's class with upstream's own activation checkpointing, which renames modules."""
    # As in upstream's documentation of fine-tuning.
    model = _model(case, autocast=case.autocast)
    model.configure_activation_checkpointing()
    return model


def plain_name(name: str) -> str:
    """Return the name of a module or parameter without what upstream's checkpointing puts into it."""
    return ".".join(part for part in name.split(".") if part != _WRAPPER)


def _model(case: Case, *, autocast: bool) -> Aurora:
    model = case.spec.build(autocast=autocast)
    model.load_state_dict(case.weights.state)
    return model


def measure(
    configurations: Sequence[Configuration], case: Case, repeats: int, *, count: bool = True
) -> dict[str, StepMeasurement]:
    """Measure configurations in turns, A B C A B C: what else the machine does then meets them alike.

    Each time, a configuration begins from the same weights, takes one step that makes optimiser states and warms
    caches, and then those that are timed. One more is counted, once: counting takes time.

    Args:
        configurations: Configurations, each with its own name.
        case: Model, weights and states for all of them.
        repeats: Number of turns.
        count: Whether to count bytes, too.

    Returns:
        Measurements by name.
    """
    seconds: dict[str, list[Seconds]] = {each.name: [] for each in configurations}
    counted: dict[str, tuple[Peak | None, int]] = dict.fromkeys(seconds, (None, 0))
    allocated: dict[str, int | None] = dict.fromkeys(seconds)
    on_gpu = case.device.type == "cuda"
    for turn in range(repeats):
        for configuration in configurations:
            name = configuration.name
            runner = configuration.begin(case)
            runner.step()
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(case.device)
            seconds[name] += [runner.step() for _ in range(_TIMED[case.device.type])]
            # Before the counted step, whose counting allocates, too.
            if turn == 0 and on_gpu:
                allocated[name] = torch.cuda.max_memory_allocated(case.device)
            if turn == 0 and count:
                counted[name] = _count_step(runner, case)
            del runner
            # Trainers and models hold each other.
            gc.collect()
    found = {}
    for name, steps in seconds.items():
        # Each part has its own best step: what disturbs one need not disturb the other.
        best = Seconds(min(step.through_backward for step in steps), min(step.update for step in steps))
        found[name] = StepMeasurement(best, min(step.whole for step in steps), *counted[name], allocated[name])
    return found


def _count_step(runner: StepRunner, case: Case) -> tuple[Peak, int]:
    """Count the bytes that tensors hold in a step: on the device, and on the host."""
    model = runner.space.model
    with Counter(model) as counter:
        counter.own((*model.parameters(), *model.buffers()), "parameters")
        counter.own(runner.states(), "optimizer")
        counter.own(case.tensors(), "batch")
        counter.restart()
        runner.step()
    return counter.peak, counter.host_peak
