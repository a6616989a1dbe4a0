"""Traces the step that a run would take: the trainer is built and run as in training, on a simulated GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from aurora import Aurora, Batch, Metadata
from aurora.model.swin3d import Swin3DTransformerBlock

from kit.adapt import method as extras
from kit.adapt import prompt
from kit.adapt.trainable import count
from kit.data.dataset import Pair
from kit.forecasting.predictor import build_prediction_space
from kit.memory.checks import refuse_in_forecast, refuse_without_effect
from kit.memory.host_memory import empty_host
from kit.models.space import TrainingSpace
from kit.planning.cost import Cost, Meter
from kit.planning.counter import CUDA_WORKSPACES, Counter, Peak, Phase, Workspace, tensors_in
from kit.planning.simulation import simulated_gpu
from kit.planning.workload import Subject
from kit.settings import Settings
from kit.memory.device import uses_autocast
from kit.train.build import build_trainer
from kit.train.resolve import resolve_step
from kit.train.loss import point_weights
from kit.train.tasks.replay import ReplayBatch
from kit.train.trainer import Trainer

__all__ = ["Trace", "buffered", "trace"]

_GPU = torch.device("cuda")
_SIMULATED = torch.device("cpu")
_STEPS = 1000
_MOST_BATCHES = 2
"""Batches of an accumulated step that are traced: from the second on, each holds and does the same."""
_START = datetime(2020, 1, 1, tzinfo=UTC)
_READ_AHEAD = 2
"""Batches that wait to be used, for each process that reads (``kit.data.dataset``)."""


@dataclass(frozen=True)
class Block:
    """A block of the backbone.

    Attributes:
        held: what the device holds when its forward pass begins, bytes.
        parameters: how many values it has.
    """

    held: int
    parameters: int


@dataclass(frozen=True)
class Trace:
    """What a step holds and does.

    Attributes:
        peak: most that the device holds, of what, and where.
        phases: most that it holds in each phase, bytes.
        host_bytes: most that the host holds for the step: what is offloaded, batches, those read ahead too, and a
            replay buffer.
        blocks: those of the backbone, by name.
        cost: arithmetic and traffic.
        parameters: how many train, and how many there are.
        seconds: that the trace took.
    """

    peak: Peak
    phases: Mapping[Phase, int]
    host_bytes: int
    blocks: Mapping[str, Block]
    cost: Cost
    parameters: tuple[int, int]
    seconds: float


def trace(
    settings: Settings,
    subject: Subject,
    *,
    forecast: bool = False,
    workspaces: Mapping[Any, Workspace] = CUDA_WORKSPACES,
) -> Trace:
    """Trace one step in steady state, when the optimiser has its states.

    Args:
        settings: of the run; ``train.device`` does not matter, a GPU is simulated. Nothing is compiled.
        subject: the model and what it reads.
        forecast: trace a prediction without gradients instead.
        workspaces: what kernels take for themselves; CUDA's by default.

    Raises:
        SettingsError: a run with these settings would be refused.
    """
    started = time.perf_counter()
    autocast = uses_autocast(settings.train.precision, _GPU)
    if forecast:
        refuse_in_forecast(settings.memory, autocast=autocast)
    else:
        refuse_without_effect(settings.memory, settings.adapt.method, _GPU, autocast=autocast)
        patch = subject.spec.patch_size
        prompt.refuse_finer_than_patches(settings.adapt, subject.latitude, subject.longitude, patch)
    settings = settings.model_copy(update={"memory": settings.memory.model_copy(update={"compile": False})})
    accumulated = 1 if forecast else settings.train.accumulate
    # Real ones, made here: upstream and the insolation of version 1.5 take values from them.
    axes = tuple(torch.from_numpy(axis.astype(np.float32)) for axis in (subject.latitude, subject.eastwards))
    grid = subject.selection.grid
    points = point_weights(settings.loss, *grid.in_window(subject.latitude, subject.longitude))
    # Outside: a package that is first imported in there would take the simulation for the world, and keep it.
    extras.load(settings.adapt.method)
    with simulated_gpu():
        predictor, trainer = _compose(settings, subject, points, forecast=forecast, autocast=autocast)
        model = predictor.model
        with Counter(model) as counter:
            counter.own((*model.parameters(), *model.buffers()), "parameters")
            pairs = [_pair(settings, subject, axes, counter) for _ in range(min(accumulated, _MOST_BATCHES))]
            if trainer is not None:
                _settle(trainer, counter)
            counter.workspaces = workspaces
            counter.observer = meter = Meter()
            counter.restart()
            blocks = _watch_blocks(model, counter)
            if trainer is None:
                _predict(predictor, pairs[0])
            else:
                trainer.step(2, pairs)
    waiting = _READ_AHEAD * _bytes(pairs[0])
    return Trace(
        counter.peak,
        dict(counter.phases),
        counter.host_peak + (0 if forecast else waiting + buffered(settings, subject)),
        blocks,
        meter.cost().times(accumulated / len(pairs)),
        count(model),
        time.perf_counter() - started,
    )


def buffered(settings: Settings, subject: Subject) -> int:
    """Bytes of a replay buffer in the host's memory, when all of its items hold predictions."""
    rollout, selection = settings.rollout.resolved(), subject.selection
    if rollout.buffer is None or rollout.keep != "host":
        return 0
    levels = len(selection.levels) * len(selection.atmospheric)
    states = selection.history * (len(selection.inputs) + levels) + len(selection.static)
    return 4 * rollout.buffer * states * math.prod(subject.shape)


def _compose(
    settings: Settings, subject: Subject, points: torch.Tensor | None, *, forecast: bool, autocast: bool
) -> tuple[TrainingSpace, Trainer | None]:
    """What a run would compose: with a trainer where it trains."""
    if forecast:
        return build_prediction_space(subject.spec, None, settings.memory, _SIMULATED, autocast=autocast), None
    window = subject.selection.grid.window
    # Of a schedule that is tied to the steps only what the run itself would refuse may be refused.
    steps = max(settings.train.steps or 0, _STEPS)
    step = resolve_step(settings, subject.spec, steps, autocast=autocast)
    trainer = build_trainer(step, None, _SIMULATED, window=window, points=points)
    return trainer.space, trainer


def _watch_blocks(model: Aurora, counter: Counter) -> dict[str, Block]:
    """Note what is held when each block of the backbone begins; of several passes, the last."""
    blocks: dict[str, Block] = {}
    for name, module in model.named_modules():
        if isinstance(module, Swin3DTransformerBlock):
            size = sum(parameter.numel() for parameter in module.parameters())
            module.register_forward_pre_hook(
                lambda *_, name=name, size=size: blocks.update({name: Block(counter.device_bytes, size)})
            )
    return blocks


def _settle(trainer: Trainer, counter: Counter) -> None:
    """Bring the optimiser to where it is after a step, by one whose gradients cost nothing."""
    updater = trainer.updater
    updater.begin(1)
    updater.backward(torch.stack([parameter.sum() for parameter in trainer.trained.parameters.values()]).sum())
    updater.update(1)
    counter.own(tensors_in(updater.state_dict()), "optimizer")


@torch.no_grad()
def _predict(space: TrainingSpace, pair: Pair) -> None:
    space.predict(pair.inputs.to(_SIMULATED))


class _OnHost(Batch):  # type: ignore[misc]
    """A batch in the host's memory, of which a device gets copies."""

    counter: Counter

    def to(self, device: str | torch.device) -> Batch:
        """Copy to a device, which coordinates are read without."""
        copies = [
            {name: value.to(device, copy=True) for name, value in variables.items()}
            for variables in (self.surf_vars, self.static_vars, self.atmos_vars)
        ]
        self.counter.own(tensors_in(copies), "batch")
        return Batch(*copies, metadata=self.metadata)


def _pair(settings: Settings, subject: Subject, axes: tuple[torch.Tensor, ...], counter: Counter) -> Pair:
    """A batch of pairs of states, on the host."""
    selection, samples = subject.selection, settings.data.batch_size
    grid = subject.shape
    static = _empty(selection.static, grid)

    def states(surface: Sequence[str], count: int, moment: datetime) -> Batch:
        batch = _OnHost(
            _empty(surface, (samples, count, *grid)),
            static,
            _empty(selection.atmospheric, (samples, count, len(selection.levels), *grid)),
            Metadata(*axes, (moment,) * samples, selection.levels),
        )
        batch.counter = counter
        return batch

    graded = [_START + step * selection.timestep for step in settings.rollout.loss_steps]
    *between, target = (states(selection.targets, 1, moment) for moment in graded)
    # What goes back into a replay buffer is made on the host, and counted by itself.
    kind = Pair if settings.rollout.buffer is None else ReplayBatch
    return kind(states(selection.inputs, selection.history, _START), target, tuple(between))


def _empty(names: Sequence[str], shape: Sequence[int]) -> dict[str, torch.Tensor]:
    return {name: empty_host(shape, torch.float32) for name in names}


def _bytes(pair: Pair) -> int:
    """What a pair holds; static variables are shared by all."""
    batches = (pair.inputs, *pair.targets)
    return sum(tensor.nbytes for batch in batches for tensor in tensors_in([batch.surf_vars, batch.atmos_vars]))
