"""Traces of the step that a run would take: the trainer is built and run as in training, on a simulated GPU."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from aurora import Batch, Metadata
from aurora.model.swin3d import Swin3DTransformerBlock

from kit.adapt import prompt
from kit.adapt.lora import import_packages
from kit.adapt.trainable import count
from kit.data.dataset import Pair
from kit.memory.checks import check_forecast_memory, check_training_memory
from kit.memory.device import prediction_precision, uses_autocast
from kit.memory.host_memory import empty_host
from kit.memory.settings import MemorySettings
from kit.planning.cost import Cost, Meter
from kit.planning.counter import CUDA_WORKSPACES, Counter, Peak, Phase, Workspace, tensors_in
from kit.planning.predictions import traced_prediction
from kit.planning.simulation import simulated_gpu
from kit.planning.workload import Workload, shallow
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.loss import point_weights
from kit.train.resolve import resolve_step
from kit.train.tasks.replay import ReplayBatch
from kit.train.trainer import Trainer

_GPU = torch.device("cuda")
_SIMULATED = torch.device("cpu")
_STEPS = 1000
# Batches of an accumulated step that are traced: from the second on, each holds and does the same.
_MOST_BATCHES = 2
# Members of an ensemble that are predicted one after the other, of which the same is true.
_MOST_MEMBERS = 2
_START = datetime(2020, 1, 1, tzinfo=UTC)
# Batches that are read ahead and wait to be used, however many processes read (``docs/decisions.md``).
_READ_AHEAD = 2


@dataclass(frozen=True)
class BackboneBlock:
    """A block of the backbone.

    Attributes:
        held: Bytes that the device holds when its forward pass begins.
        parameters: Number of values that it has.
    """

    held: int
    parameters: int


@dataclass(frozen=True)
class Trace:
    """What a step holds and does.

    Attributes:
        peak: Most that the device holds, of what, and where.
        phases: Most bytes that it holds in each phase.
        host_bytes: Most bytes that the host holds for the step: what is offloaded, batches, those read ahead too, and
            a replay buffer.
        blocks: Blocks of the backbone, by name.
        cost: Arithmetic and traffic.
        parameters: Number of parameters that train, and of all.
        seconds: Time that the trace took.
    """

    peak: Peak
    phases: Mapping[Phase, int]
    host_bytes: int
    blocks: Mapping[str, BackboneBlock]
    cost: Cost
    parameters: tuple[int, int]
    seconds: float


def trace(
    settings: Settings,
    workload: Workload,
    *,
    forecast: bool = False,
    workspaces: Mapping[Any, Workspace] = CUDA_WORKSPACES,
) -> Trace:
    """Trace one step in steady state, when the optimiser has its states.

    Args:
        settings: Settings of the run; ``train.device`` does not matter, a GPU is simulated. Nothing is compiled.
        workload: The model and what it reads.
        forecast: Whether to trace a prediction without gradients instead.
        workspaces: Bytes that kernels take for themselves, by operation; CUDA's by default.

    Raises:
        SettingsError: a run with these settings would be refused.
    """
    if not forecast and _members_in_turn(settings) > _MOST_MEMBERS:
        return _trace_many_members(settings, workload, workspaces)
    return _trace_step(settings, workload, forecast, workspaces)


def _trace_step(settings: Settings, workload: Workload, forecast: bool, workspaces: Mapping[Any, Workspace]) -> Trace:
    """Trace a step as it is, with all of its members."""
    started = time.perf_counter()
    autocast = uses_autocast(settings.train.precision, _GPU)
    # A forecast on a GPU has a precision of its own, unless one is asked for.
    predicted = prediction_precision(settings.train.precision, workload.spec.upstream, _GPU, settings.memory)
    if forecast:
        check_forecast_memory(settings.memory, autocast=predicted == "bf16")
    elif workload.diffusion is None:
        _check_training(settings, workload, autocast=autocast)
    # Planned without compilation, which needs less memory and less time; the plan's notes say so.
    settings = settings.model_copy(update={"memory": settings.memory.model_copy(update={"compile": False})})
    accumulated = 1 if forecast else settings.train.accumulate
    # Real ones, made here: upstream and the insolation of version 1.5 take values from them.
    latitude = torch.from_numpy(workload.latitude.astype(np.float32))
    longitude = torch.from_numpy(workload.eastwards.astype(np.float32))
    grid = workload.selection.grid
    points = point_weights(settings.loss, *grid.in_window(workload.latitude, workload.longitude))
    # Outside: a package that is first imported in there would take the simulation for the world, and keep it.
    import_packages(settings.adapt.method)
    with simulated_gpu():
        trainer: Trainer | None = None
        if forecast:
            prediction = traced_prediction(workload, settings.memory, predicted, _SIMULATED)
            model, beside = prediction.model, prediction.beside
        else:
            # Of a schedule that is tied to the steps only what the run itself would refuse may be refused.
            steps = max(settings.train.steps or 0, _STEPS)
            step = resolve_step(
                settings,
                workload.spec,
                steps,
                autocast=autocast,
                diffusion=workload.diffusion,
                operator=workload.operator,
            )
            trainer = build_trainer(step, None, _SIMULATED, window=grid.window, points=points)
            model, beside = trainer.model, trainer.task.beside
        with Counter(model) as counter:
            for held in (model, *beside):
                counter.own((*held.parameters(), *held.buffers()), "parameters")
            batches = min(accumulated, _MOST_BATCHES)
            pairs = [_pair(settings, workload, latitude, longitude, counter) for _ in range(batches)]
            if trainer is not None:
                _fill_optimizer(trainer, counter)
            # The step before only brought the optimiser to where it is: what counts begins here.
            counter.workspaces = workspaces
            counter.observer = meter = Meter()
            counter.restart()
            blocks = _watch_blocks(model, counter)
            if trainer is None:
                with torch.no_grad():
                    prediction.predict(pairs[0].inputs.to(_SIMULATED))
            else:
                trainer.step(2, pairs)
    host_bytes = counter.host_peak
    if not forecast:
        host_bytes += _READ_AHEAD * _bytes(pairs[0]) + buffered(settings, workload)
        if workload.spec.leaves_points_out:
            # All batches of a step wait on the host, as the loss looks ahead at what they score.
            host_bytes += (accumulated - batches) * _bytes(pairs[0])
    return Trace(
        counter.peak,
        dict(counter.phases),
        host_bytes,
        blocks,
        meter.cost().times(accumulated / batches),
        count(model),
        time.perf_counter() - started,
    )


def _check_training(settings: Settings, workload: Workload, *, autocast: bool) -> None:
    """Check what training would refuse of memory and prompts.

    Raises:
        SettingsError: it would.
    """
    check_training_memory(settings.memory, settings.adapt.method, _GPU, autocast=autocast)
    patch = workload.spec.patch_size
    prompt.check_prompt_cells(settings.adapt, workload.latitude, workload.longitude, patch)


def _members_in_turn(settings: Settings) -> int:
    """Count the members of a sample that are predicted one after the other."""
    if settings.task.name != "crps" or settings.task.together:
        return 1
    return settings.task.member_count


def _trace_many_members(settings: Settings, workload: Workload, workspaces: Mapping[Any, Workspace]) -> Trace:
    """Trace two members, and add what each further one holds: a model of few blocks, in one piece, shows it.

    What waits of a member while another one computes is what it predicted, whatever the depth of the model and the
    settings of memory.
    """

    def traced(members: int, memory: MemorySettings, workload: Workload) -> Trace:
        task = settings.task.model_copy(update={"members": members})
        changed = settings.model_copy(update={"task": task, "memory": memory})
        return _trace_step(changed, workload, False, workspaces)

    started = time.perf_counter()
    whole = traced(_MOST_MEMBERS, settings.memory, workload)
    fewer, more = (traced(_MOST_MEMBERS + extra, MemorySettings(), shallow(workload)) for extra in (0, 1))
    further = settings.task.member_count - _MOST_MEMBERS
    held = {phase: further * (more.phases[phase] - fewer.phases[phase]) for phase in whole.phases}
    added, peak = held[whole.peak.phase], whole.peak
    breakdown = {**peak.breakdown, "activations": peak.breakdown["activations"] + added}
    return replace(
        whole,
        peak=replace(peak, bytes=peak.bytes + added, breakdown=breakdown),
        phases={phase: size + held[phase] for phase, size in whole.phases.items()},
        cost=whole.cost.times(settings.task.member_count / _MOST_MEMBERS),
        seconds=time.perf_counter() - started,
    )


def buffered(settings: Settings, workload: Workload) -> int:
    """Count the bytes of a replay buffer in the host's memory, when all of its items hold predictions."""
    rollout, selection = settings.rollout.resolved(), workload.selection
    if rollout.buffer is None or rollout.keep != "host":
        return 0
    levels = len(selection.levels) * len(selection.atmospheric)
    states = selection.history * (len(selection.inputs) + levels) + len(selection.static)
    return 4 * rollout.buffer * states * math.prod(workload.shape)


def _watch_blocks(model: torch.nn.Module, counter: Counter) -> dict[str, BackboneBlock]:
    """Note what is held when each block of the backbone begins; of several passes, the last."""
    blocks: dict[str, BackboneBlock] = {}
    for name, module in model.named_modules():
        if isinstance(module, Swin3DTransformerBlock):
            size = sum(parameter.numel() for parameter in module.parameters())
            module.register_forward_pre_hook(
                lambda *_, name=name, size=size: blocks.update({name: BackboneBlock(counter.device_bytes, size)})
            )
    return blocks


def _fill_optimizer(trainer: Trainer, counter: Counter) -> None:
    """Bring the optimiser to where it is after a step, by one whose gradients cost nothing."""
    updater = trainer.updater
    updater.begin(1)
    updater.backward(torch.stack([parameter.sum() for parameter in trainer.trained.parameters.values()]).sum())
    updater.update(1)
    counter.own(tensors_in(updater.state_dict()), "optimizer")
    if trainer.average is not None:
        counter.own(tensors_in(trainer.average.state_dict()), "optimizer")


class _HostBatch(Batch):  # type: ignore[misc]
    """A batch in the host's memory, of which a device gets copies."""

    counter: Counter

    def to(self, device: str | torch.device) -> Batch:
        """Copy to a device, which coordinates are read without."""

        def copied(variables: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: value.to(device, copy=True) for name, value in variables.items()}

        copies = [copied(self.surf_vars), copied(self.static_vars), copied(self.atmos_vars)]
        self.counter.own(tensors_in(copies), "batch")
        return Batch(*copies, metadata=self.metadata)


def _pair(
    settings: Settings, workload: Workload, latitude: torch.Tensor, longitude: torch.Tensor, counter: Counter
) -> Pair:
    """Allocate a batch of pairs of states on the host."""
    selection, samples, grid = workload.selection, settings.data.batch_size, workload.shape
    static = _empty(selection.static, grid)

    def states(surface: Sequence[str], count: int, moment: datetime) -> Batch:
        batch = _HostBatch(
            _empty(surface, (samples, count, *grid)),
            static,
            _empty(selection.atmospheric, (samples, count, len(selection.levels), *grid)),
            Metadata(latitude, longitude, (moment,) * samples, selection.levels),
        )
        batch.counter = counter
        return batch

    moments = [_START + step * selection.timestep for step in settings.rollout.loss_steps]
    targets = [states(selection.targets, 1, moment) for moment in moments]
    # What goes back into a replay buffer is made on the host, and counted by itself.
    kind = Pair if settings.rollout.buffer is None else ReplayBatch
    return kind(states(selection.inputs, selection.history, _START), targets[-1], tuple(targets[:-1]))


def _empty(names: Sequence[str], shape: Sequence[int]) -> dict[str, torch.Tensor]:
    return {name: empty_host(shape, torch.float32) for name in names}


def _bytes(pair: Pair) -> int:
    """Count the bytes of a pair; static variables are shared by all pairs."""
    total = 0
    for batch in (pair.inputs, *pair.targets):
        total += sum(tensor.nbytes for tensor in tensors_in([batch.surf_vars, batch.atmos_vars]))
    return total
