"""The choice of memory settings: the fastest exact ones with which a step fits, and whether a run will have room.

Candidates are ordered: each holds less than the one before it and takes longer. A candidate is estimated by a short
trace, of a model whose stages have two blocks each; a stage's further blocks are like those two, so what they hold
is added. The candidate that is chosen is then traced whole, and only what that trace says counts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from kit.diffusion.spec import DiffusionSpec
from kit.io.errors import SettingsError
from kit.memory.advice import Advice, advise_forecast, advise_planned
from kit.memory.device import uses_autocast
from kit.memory.host_memory import available, host_available
from kit.memory.settings import MemorySettings
from kit.planning.counter import CUDA_WORKSPACES
from kit.planning.settings import PlanSettings
from kit.planning.trace import Trace, buffered, trace
from kit.planning.workload import DEPTHS, SHALLOW, Workload, shallow, situation_of, workload_of
from kit.settings import Settings
from kit.train.build import Job

RESERVE_GIB = 1.0
"""What a card must have besides the peak: CUDA's context and kernels (0.4 to 0.6 GiB), workspaces of cuBLAS (up to
0.1 GiB), and what the allocator rounds up and cannot reuse."""

CHOSEN = ("latitude_bands", "window_bands", "recompute", "stages", "offload", "frozen_weights")
"""Settings that ``memory.fit`` chooses. All are exact; those that are not change what is learned, and stay the
user's."""

_GIB = 2**30


@dataclass(frozen=True)
class Fitted:
    """What was chosen.

    Attributes:
        memory: Settings, with ``fit`` replaced by what it came to.
        trace: Trace of the whole step with them.
    """

    memory: MemorySettings
    trace: Trace

    def __str__(self) -> str:
        chosen = []
        for name in CHOSEN:
            value = getattr(self.memory, name)
            if departs(self.memory, name):
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                chosen.append(f"{name} {text}")
        return f"{', '.join(chosen) or 'nothing to save'}: a peak of {self.trace.peak.bytes / _GIB:.2f} GiB"


def choose_memory(settings: Settings, device: torch.device) -> tuple[Settings, Fitted | None]:
    """Replace ``memory.fit`` by the settings that it comes to, for a run on a device.

    Raises:
        SettingsError: nothing fits.
    """
    if settings.memory.fit is None:
        return settings, None
    precision = "bf16" if uses_autocast(settings.train.precision, device) else "fp32"
    train = settings.train.model_copy(update={"precision": precision, "device": device.type})
    asked = PlanSettings.model_construct(**dict(settings), grid=None, card=None, calibration=None, forecast=False)
    asked = asked.model_copy(update={"train": train})
    fitted = fit(asked, workload_of(asked))
    return settings.model_copy(update={"memory": fitted.memory}), fitted


class MemoryEstimator:
    """Traces memory settings for one model on one grid, each once.

    Args:
        settings: Settings of the run; their own memory settings do not matter.
        workload: The model and what it reads.
    """

    def __init__(self, settings: PlanSettings, workload: Workload) -> None:
        self._settings = settings
        self._workload = workload
        self._short = shallow(workload)
        self._estimates: dict[MemorySettings, float] = {}
        self._traces: dict[MemorySettings, Trace] = {}

    def trace(self, memory: MemorySettings) -> Trace:
        """Trace the whole step."""
        if memory not in self._traces:
            self._traces[memory] = self._trace(memory, self._workload)
        return self._traces[memory]

    def estimate_peak(self, memory: MemorySettings) -> float:
        """Estimate the peak of the whole step from a short trace, in bytes."""
        if memory in self._estimates:
            return self._estimates[memory]
        traced = self._trace(memory, self._short)
        held = traced.peak.breakdown
        # Bytes on the device for each parameter: itself, and what of gradient and optimiser is there at the peak.
        weight = (held["parameters"] + held["gradients"] + held["optimizer"]) / traced.parameters[1]
        more = 0.0
        for name in DEPTHS:
            for stage, depth in enumerate(self._workload.spec.argument(name)):
                place = f"backbone.{name.removesuffix('_depths')}_layers.{stage}.blocks."
                first, second = traced.blocks[f"{place}0"], traced.blocks[f"{place}1"]
                # What a block leaves behind for the backward pass is there when the next one begins.
                more += (depth - SHALLOW) * (second.held - first.held + weight * second.parameters)
        self._estimates[memory] = traced.peak.bytes + more
        return self._estimates[memory]

    def _trace(self, memory: MemorySettings, workload: Workload) -> Trace:
        settings = self._settings.model_copy(update={"memory": memory})
        return trace(settings, workload, forecast=settings.forecast)


def fit(settings: PlanSettings, workload: Workload, estimator: MemoryEstimator | None = None) -> Fitted:
    """Find the fastest settings with which a step fits into ``memory.fit``.

    Args:
        settings: Settings of the run.
        workload: The model and what it reads.
        estimator: Estimator of the same run, with what it has traced for other sizes of memory.

    Raises:
        SettingsError: nothing fits, and says by how much; or a setting that is chosen here was given too.
    """
    assert settings.memory.fit is not None
    estimator = estimator or MemoryEstimator(settings, workload)
    limit = (float(settings.memory.fit.removesuffix("GiB")) - RESERVE_GIB) * _GIB
    if workload.diffusion is not None:
        return _fit_network(settings, workload, limit)
    ordered = candidates(settings, workload)
    # Each candidate holds less than the one before it, so halving finds the first that should fit.
    low, high = 0, len(ordered) - 1
    while low < high:
        middle = (low + high) // 2
        if estimator.estimate_peak(ordered[middle]) <= limit:
            high = middle
        else:
            low = middle + 1
    # An estimate may be a little too low: the next candidates stand in then.
    for memory in ordered[low:]:
        traced = estimator.trace(memory)
        if traced.peak.bytes <= limit:
            return Fitted(memory, traced)
    lowest = estimator.trace(ordered[-1])
    peak = lowest.peak.bytes / _GIB
    advice = advise_step(settings.model_copy(update={"memory": ordered[-1]}), workload, lowest)
    msg = (
        f"memory.fit {settings.memory.fit}: the least that exact settings need is {peak + RESERVE_GIB:.1f} GiB, the "
        f"step's peak of {peak:.1f} in {lowest.peak.where} and {RESERVE_GIB} in reserve. What is left: "
        f"{'; '.join(advice) or 'a smaller grid, fewer levels or a smaller variant'}"
    )
    raise SettingsError(msg)


def candidates(settings: PlanSettings, workload: Workload) -> list[MemorySettings]:
    """List exact memory settings, from the fastest to those that hold least.

    Splitting costs launches of kernels; recomputing costs a third of the arithmetic; inputs go to the host while the
    device computes; the optimiser on the host is waited for, and so goes last.

    Raises:
        SettingsError: one of them was given together with ``memory.fit``.
    """
    given = settings.memory
    _check_not_given(given)
    splits: list[dict[str, Any]] = [{}, {"latitude_bands": 8}]
    if settings.forecast:
        splits += [{"latitude_bands": 16, "window_bands": 4}, {"latitude_bands": 36, "window_bands": 10}]
    else:
        tight = {"latitude_bands": 24, "recompute": "blocks", "window_bands": 4}
        tightest = {"latitude_bands": 36, "recompute": "blocks", "window_bands": 10}
        splits += [
            {"latitude_bands": 8, "recompute": "blocks", "stages": 1},
            {"latitude_bands": 8, "recompute": "blocks", "stages": 2},
            {"latitude_bands": 8, "recompute": "blocks"},
            {"latitude_bands": 16, "recompute": "blocks", "window_bands": 2},
            tight,
        ]
        # A CPU's own memory is the host's.
        if settings.train.device != "cpu":
            splits += [{**tight, "offload": ("inputs",)}, {**tightest, "offload": ("inputs",)}]
            if not given.step_in_backward and settings.optim.name == "adamw" and settings.adapt.method == "full":
                everything = ("inputs", "optimizer")
                splits += [{**tight, "offload": everything}, {**tightest, "offload": everything}]
    # bf16 weights are exact where each use rounds them to bf16 anyway, and change nothing where none is frozen.
    frozen = "fp32"
    if settings.forecast:
        # Forecasts are in fp32 or fp16 where nobody asks for bf16, which rounds more.
        half = settings.train.precision == "bf16"
    else:
        half = settings.train.precision != "fp32" and settings.adapt.method in ("lora", "dora", "adalora")
    if half:
        frozen = "bf16"
    rows = workload.shape[0] // workload.spec.patch_size
    found = []
    for split in splits:
        bands = min(split.get("latitude_bands", 1), rows)
        chosen = {**split, "latitude_bands": bands, "frozen_weights": frozen, "fit": None}
        found.append(given.model_copy(update=chosen))
    return list(dict.fromkeys(found))


def _fit_network(settings: PlanSettings, workload: Workload, limit: float) -> Fitted:
    """Find the fewest levels of a denoising network to recompute: they are few, and their traces short.

    Raises:
        SettingsError: nothing fits, or a prediction is asked for, of which nothing is recomputed.
    """
    _check_not_given(settings.memory)
    assert workload.diffusion is not None
    if settings.forecast:
        msg = (
            "memory.fit: has no setting to choose for what a network draws; leave it out, or choose a larger "
            "diffusion.stem"
        )
        raise SettingsError(msg)
    levels = len(workload.diffusion.settings.multiples or (1,))
    choices: list[dict[str, Any]] = [{}]
    choices += [{"recompute": "blocks", "stages": stages} for stages in range(1, levels + 1)]
    if settings.optim.name == "adamw" and settings.train.device != "cpu":
        choices.append({**choices[-1], "offload": ("optimizer",)})
    for choice in choices:
        memory = settings.memory.model_copy(update={**choice, "fit": None})
        traced = trace(settings.model_copy(update={"memory": memory}), workload)
        if traced.peak.bytes <= limit:
            return Fitted(memory, traced)
    peak = traced.peak.bytes / _GIB
    msg = (
        f"memory.fit {settings.memory.fit}: the least that exact settings need is {peak + RESERVE_GIB:.1f} GiB, the "
        f"step's peak of {peak:.1f} in {traced.peak.where} and {RESERVE_GIB} in reserve; choose a smaller "
        "diffusion.width, a larger diffusion.stem, or a smaller grid"
    )
    raise SettingsError(msg)


def _check_not_given(memory: MemorySettings) -> None:
    for name in CHOSEN:
        if departs(memory, name):
            msg = f"memory.{name} and memory.fit were both given, and memory.fit chooses it; give one"
            raise SettingsError(msg)


def departs(memory: MemorySettings, name: str) -> bool:
    """Decide whether a memory setting is not its default."""
    return bool(getattr(memory, name) != MemorySettings.model_fields[name].default)


def advise_step(settings: PlanSettings, workload: Workload, traced: Trace, device: str = "cuda") -> list[str]:
    """List settings that lower a step's peak, in the order in which to try them, each in addition to those before it.

    Args:
        settings: Settings of the run.
        workload: The model and what it reads.
        traced: Trace of the step.
        device: ``cuda`` or ``cpu``.
    """
    if workload.diffusion is not None:
        return list(_advise_network(settings))
    now = situation_of(settings, torch.device(device), workload.shape[0] // workload.spec.patch_size)
    place = traced.peak.where.partition(".")[0]
    if settings.forecast:
        now = replace(now, autocast=settings.train.precision == "bf16")
        return list(map(str, advise_forecast(now, place=place)))
    return list(map(str, advise_planned(now, traced.peak.breakdown, place)))


def _advise_network(settings: PlanSettings) -> Iterator[str]:
    if settings.data.batch_size > 1:
        batches = settings.data.batch_size * settings.train.accumulate
        options = f"--data.batch_size 1 --train.accumulate {batches}"
        yield str(Advice(options, "the same pairs in a step, one after the other"))
    if settings.memory.recompute == "none" and not settings.forecast:
        yield str(Advice("--memory.recompute blocks", "blocks are computed again in the backward pass"))
    yield str(Advice("--diffusion.stem 4", "one point of 4 x 4 behind the stem; another network"))


# Whether a run will have room: asked before its first step, answered by a trace where the answer is not plain.

# CUDA's context: part of the reserve, and there already when a run asks.
_STARTED_GIB = 0.5
# Share of what is to be had that a plain bound may take without a closer look.
_LARGER = 0.5

# Bytes for each parameter, at most: weight, gradient, two moments, and a copy of some.
_PER_PARAMETER = 24
# Values that a step keeps for each token and channel of each layer, at most. Traces of all variants, with all that a
# forward pass computes kept, have up to 22.
_PER_TOKEN = 40
# Bytes that a denoising network keeps for each feature of its finest level, at most: U-Nets have up to 350.
_PER_FEATURE = 600
# Bytes for each value of a batch and its targets, at most: copies, encodings and differences in fp32.
_PER_VALUE = 40


def preflight(job: Job) -> str | None:
    """Compare what a step will take with what there is, before it is taken.

    A step that cannot take more than half of what there is, whatever the settings of memory, is not traced.

    Args:
        job: Run that is ready to start; its model is on its device already.

    Returns:
        A warning that says how much is missing and what would help; None where there is room.
    """
    grid, device = job.selection.grid, job.trainer.device
    diffusion = job.run.step.diffusion
    workload = Workload(job.spec, job.selection, grid.latitude(job.store), grid.longitude(job.store), diffusion)
    on_gpu, room = device.type == "cuda", available(device)
    # The model is on its device already, and a trace counts it again.
    for tensor in (*job.model.parameters(), *job.model.buffers()):
        if tensor.device.type == device.type:
            room += tensor.nbytes
    bound = upper_bound(job.settings, workload, sum(parameter.numel() for parameter in job.model.parameters()))
    buffer = buffered(job.settings, workload)
    if on_gpu:
        plenty = bound <= _LARGER * room and buffer <= _LARGER * host_available()
    else:
        plenty = bound + buffer <= _LARGER * room
    if plenty:
        return None
    settings = PlanSettings.model_validate(job.settings.model_dump())
    missing = []
    if on_gpu:
        traced, owner = trace(settings, workload, workspaces=CUDA_WORKSPACES), "the GPU"
        needs = traced.peak.bytes + round((RESERVE_GIB - _STARTED_GIB) * _GIB)
    else:
        traced, owner = trace(settings, workload, workspaces={}), "memory"
        needs = traced.peak.bytes + traced.host_bytes
    if needs > room:
        missing.append(
            f"a step will take about {needs / _GIB:.1f} GiB of {owner} (most of it in {traced.peak.where}, "
            f"{traced.peak.phase}), and {room / _GIB:.1f} are to be had"
        )
    if on_gpu and traced.host_bytes > (free := host_available()):
        host = traced.host_bytes / _GIB
        missing.append(
            f"a step will take about {host:.1f} GiB of the host's memory, and {free / _GIB:.1f} are to be had"
        )
    if not missing:
        return None
    lines = [f"{'; '.join(missing)}. Settings that save memory, each in addition to those before it:"]
    lines += [f"  {advice}" for advice in advise_step(settings, workload, traced, device.type)]
    return "\n".join(lines)


def upper_bound(settings: Settings, workload: Workload, parameters: int) -> int:
    """Bound the bytes of a step whatever the settings of memory, without tracing it.

    Args:
        settings: Settings of the run.
        workload: The model and what it reads.
        parameters: Number of values in the model, adapters included.
    """
    if workload.diffusion is not None:
        return _bound_of_network(settings, workload, workload.diffusion, parameters)
    spec, selection = workload.spec, workload.selection
    points = settings.data.batch_size * math.prod(workload.shape)
    levels, states = len(selection.levels), selection.history + len(settings.rollout.loss_steps)
    channels = len(spec.surface) + len(spec.static) + levels * len(selection.atmospheric)
    blocks = sum(spec.argument("encoder_depths")) + sum(spec.argument("decoder_depths"))
    layers = blocks * spec.argument("latent_levels") + levels + len(spec.surface)
    tokens: int = points // spec.patch_size**2 * layers * spec.argument("embed_dim")
    return _PER_PARAMETER * parameters + 4 * _PER_TOKEN * tokens + _PER_VALUE * points * states * channels


def _bound_of_network(settings: Settings, workload: Workload, diffusion: DiffusionSpec, parameters: int) -> int:
    """Bound the bytes of a step of a denoising network: features of its finest level hold most."""
    sizes = diffusion.settings
    side = sizes.stem or sizes.patch or 1
    points = settings.data.batch_size * math.prod(workload.shape)
    # A tile is no larger than the grid, whose states are read in full before one is cut out.
    read = points if sizes.crop is None else settings.data.batch_size * sizes.crop**2
    features: int = read // side**2 * (sizes.width or 1) * (sizes.depth or 1)
    values = points * (len(diffusion.channels) + diffusion.conditions)
    return _PER_PARAMETER * parameters + _PER_FEATURE * features + _PER_VALUE * values
