"""Chooses the fastest exact settings of memory with which a step fits.

Candidates are a ladder: each rung holds less than the one above it and takes longer. A rung is judged by a short
trace, of a model whose stages have two blocks each; a stage's further blocks are like those two, so what they hold
is added. The rung that is chosen is then traced whole, and only what that trace says counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kit.io.errors import SettingsError
from kit.memory.host_memory import available, host_available
from kit.memory.settings import MemorySettings
from kit.models.spec import ModelSpec
from kit.planning.advice import advise
from kit.planning.counter import CUDA_WORKSPACES
from kit.planning.settings import PlanSettings
from kit.planning.trace import Trace, buffered, trace
from kit.planning.workload import Subject, subject_of
from kit.settings import Settings
from kit.train.build import Job, uses_autocast

__all__ = ["CHOSEN", "Fitted", "Judge", "RESERVE_GIB", "at_most", "fit", "ladder", "preflight", "settle"]

RESERVE_GIB = 1.0
"""What a card must have besides the peak: CUDA's context and kernels (0.4 to 0.6 GiB), workspaces of cuBLAS (up to
0.1 GiB), and what the allocator rounds up and cannot reuse."""

CHOSEN = ("latitude_bands", "window_bands", "recompute", "stages", "offload", "frozen_weights")
"""Settings that ``memory.fit`` chooses. All are exact; those that are not stay the user's."""

_GIB = 2**30
_SHALLOW = 2
"""Blocks of each stage of the short trace: one with shifted windows, one without."""


@dataclass(frozen=True)
class Fitted:
    """What was chosen.

    Attributes:
        memory: settings, with ``fit`` replaced by what it came to.
        trace: of the whole step with them.
        tried: settings of rungs above, which would not have fit, with the peak that was foreseen, GiB.
    """

    memory: MemorySettings
    trace: Trace
    tried: tuple[tuple[MemorySettings, float], ...]

    def __str__(self) -> str:
        chosen = [f"{name} {_written(getattr(self.memory, name))}" for name in CHOSEN if _departs(self.memory, name)]
        return f"{', '.join(chosen) or 'nothing to save'}: a peak of {self.trace.peak.bytes / _GIB:.2f} GiB"


def settle(settings: Settings, device: torch.device) -> tuple[Settings, Fitted | None]:
    """Replace ``memory.fit`` by the settings that it comes to, for a run on a device.

    Raises:
        SettingsError: nothing fits.
    """
    if settings.memory.fit is None:
        return settings, None
    precision = "bf16" if uses_autocast(settings.train.precision, device) else "fp32"
    train = settings.train.model_copy(update={"precision": precision, "device": device.type})
    asked = PlanSettings.model_construct(**dict(settings), grid=None, card=None, forecast=False)
    asked = asked.model_copy(update={"train": train})
    fitted = fit(asked, subject_of(asked))
    return settings.model_copy(update={"memory": fitted.memory}), fitted


class Judge:
    """Traces settings of memory for one model on one grid, each once."""

    def __init__(self, settings: PlanSettings, subject: Subject) -> None:
        self._settings = settings
        self._subject = subject
        self._depths = {name: _depths(subject, name) for name in ("encoder_depths", "decoder_depths")}
        short = {name: tuple(min(depth, _SHALLOW) for depth in found) for name, found in self._depths.items()}
        spec = replace(subject.spec, arguments={**subject.spec.arguments, **short})
        self._short = replace(subject, spec=spec)
        self._foreseen: dict[MemorySettings, float] = {}
        self._traced: dict[MemorySettings, Trace] = {}

    def whole(self, memory: MemorySettings) -> Trace:
        """The whole step."""
        if memory not in self._traced:
            self._traced[memory] = self._trace(memory, self._subject)
        return self._traced[memory]

    def foresee(self, memory: MemorySettings) -> float:
        """Peak of the whole step in bytes, from a short trace."""
        if memory not in self._foreseen:
            traced = self._trace(memory, self._short)
            self._foreseen[memory] = traced.peak.bytes + self._more(traced)
        return self._foreseen[memory]

    def _trace(self, memory: MemorySettings, subject: Subject) -> Trace:
        settings = self._settings.model_copy(update={"memory": memory})
        return trace(settings, subject, forecast=settings.forecast)

    def _more(self, traced: Trace) -> float:
        """What blocks hold that the short trace leaves out."""
        held = traced.peak.breakdown
        # Bytes on the device for each parameter: itself, and what of gradient and optimiser is there at the peak.
        weight = (held["parameters"] + held["gradients"] + held["optimizer"]) / traced.parameters[1]
        more = 0.0
        for name, found in self._depths.items():
            for stage, depth in enumerate(found):
                place = f"backbone.{name.removesuffix('_depths')}_layers.{stage}.blocks."
                first, second = traced.blocks[f"{place}0"], traced.blocks[f"{place}1"]
                # What a block leaves behind for the backward pass is there when the next one begins.
                more += (depth - _SHALLOW) * (second.held - first.held + weight * second.parameters)
        return more


def fit(settings: PlanSettings, subject: Subject, judge: Judge | None = None) -> Fitted:
    """Find the fastest settings with which a step fits into ``memory.fit``.

    Args:
        settings: of the run.
        subject: the model and what it reads.
        judge: of the same run, with what it has traced for other sizes of memory.

    Raises:
        SettingsError: nothing fits, and says by how much; or a setting that is chosen here was given too.
    """
    assert settings.memory.fit is not None
    judge = judge or Judge(settings, subject)
    limit = (float(settings.memory.fit.removesuffix("GiB")) - RESERVE_GIB) * _GIB
    rungs = ladder(settings, subject)
    tried: list[tuple[MemorySettings, float]] = []
    lowest: Trace | None = None
    for rung in rungs[_first(rungs, judge, limit, tried) :]:
        lowest = judge.whole(rung)
        if lowest.peak.bytes <= limit:
            return Fitted(rung, lowest, tuple(tried))
        tried.append((rung, lowest.peak.bytes / _GIB))
    assert lowest is not None
    raise SettingsError(_impossible(settings, subject, rungs[-1], lowest))


def ladder(settings: PlanSettings, subject: Subject) -> list[MemorySettings]:
    """Exact settings, from the fastest to those that hold least.

    Splitting costs launches of kernels; recomputing costs a third of the arithmetic; inputs go to the host while the
    device computes; the optimiser on the host is waited for, and so goes last.

    Raises:
        SettingsError: one of them was given beside ``memory.fit``.
    """
    given = settings.memory
    for name in CHOSEN:
        if _departs(given, name):
            msg = f"memory.{name} and memory.fit were both given, and memory.fit chooses it; give one"
            raise SettingsError(msg)
    rows = subject.shape[0] // subject.spec.patch_size
    frozen = "bf16" if _halves(settings) else "fp32"
    splits: list[dict[str, object]] = [
        {},
        {"latitude_bands": 8},
        {"latitude_bands": 8, "recompute": "blocks", "stages": 1},
        {"latitude_bands": 8, "recompute": "blocks", "stages": 2},
        {"latitude_bands": 8, "recompute": "blocks"},
        {"latitude_bands": 16, "recompute": "blocks", "window_bands": 2},
        {"latitude_bands": 24, "recompute": "blocks", "window_bands": 4},
    ]
    tight = splits[-1]
    tightest = {**tight, "latitude_bands": 36, "window_bands": 10}
    places: list[tuple[str, ...]] = [("inputs",)]
    if not settings.memory.step_in_backward and settings.optim.name == "adamw" and settings.adapt.method == "full":
        places.append(("inputs", "optimizer"))
    if settings.train.device == "cpu":
        places = []
    if settings.forecast:
        splits = [{}, {"latitude_bands": 8}, {"latitude_bands": 16, "window_bands": 4}]
        splits.append({"latitude_bands": 36, "window_bands": 10})
    else:
        splits += [{**split, "offload": place} for place in places for split in (tight, tightest)]
    rungs = []
    for split in splits:
        bands = min(int(str(split.get("latitude_bands", 1))), rows)
        chosen = {**split, "latitude_bands": bands, "frozen_weights": frozen, "fit": None}
        rungs.append(given.model_copy(update=chosen))
    return list(dict.fromkeys(rungs))


def _departs(memory: MemorySettings, name: str) -> bool:
    """Whether a setting is not its default."""
    return bool(getattr(memory, name) != MemorySettings.model_fields[name].default)


def _written(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _halves(settings: PlanSettings) -> bool:
    """Whether keeping frozen weights in bf16 is exact, and does something."""
    if settings.train.precision == "fp32":
        return False
    return settings.forecast or settings.adapt.method in ("lora", "dora", "adalora")


def _first(
    rungs: Sequence[MemorySettings], judge: Judge, limit: float, tried: list[tuple[MemorySettings, float]]
) -> int:
    """The first rung that should fit, by halving the ladder; the last where none should."""
    low, high = 0, len(rungs) - 1
    while low < high:
        middle = (low + high) // 2
        foreseen = judge.foresee(rungs[middle])
        if foreseen <= limit:
            high = middle
        else:
            tried.append((rungs[middle], foreseen / _GIB))
            low = middle + 1
    return low


def _depths(subject: Subject, name: str) -> tuple[int, ...]:
    found: tuple[int, ...] = subject.spec.arguments.get(name, subject.spec.upstream.default(name))
    return found


def _impossible(settings: PlanSettings, subject: Subject, memory: MemorySettings, lowest: Trace) -> str:
    least = lowest.peak.bytes / _GIB + RESERVE_GIB
    final = settings.model_copy(update={"memory": memory})
    advice = "; ".join(advise(final, subject, lowest)) or "a smaller grid, fewer levels or a smaller variant"
    limit = settings.memory.fit
    return (
        f"memory.fit {limit}: the least that exact settings need is {least:.1f} GiB, the step's peak of "
        f"{lowest.peak.bytes / _GIB:.1f} in {lowest.peak.where} and {RESERVE_GIB} in reserve. What is left: {advice}"
    )


# Whether a run will have room: asked before its first step, answered by a trace where the answer is not plain.

_STARTED_GIB = 0.5
"""CUDA's context: part of the reserve, and there already when a run asks."""
_LARGER = 0.5
"""Share of what is to be had that a plain bound may take without a closer look."""

_PER_PARAMETER = 24
"""Bytes for each parameter, at most: weight, gradient, two moments, and a copy of some."""
_PER_TOKEN = 40
"""Values that a step keeps for each token and channel of each layer, at most. Traces of all variants, with all that a
forward pass computes kept, have up to 22."""
_PER_VALUE = 40
"""Bytes for each value of a batch and its targets, at most: copies, encodings and differences in fp32."""


def preflight(job: Job) -> str | None:
    """Compare what a step will take with what there is, before it is taken.

    A step that cannot take more than half of what there is, whatever the settings of memory, is not traced.

    Args:
        job: ready to start; its model is on its device already.

    Returns:
        A warning that says how much is missing and what would help; None where there is room.
    """
    device, subject = job.trainer.device, _subject(job)
    room = available(device) + sum(_held(job.model, device))
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    buffer, on_gpu = buffered(job.settings, subject), device.type == "cuda"
    bound = at_most(job.settings, subject, parameters)
    if on_gpu:
        settled = bound <= _LARGER * room and buffer <= _LARGER * host_available()
    else:
        settled = bound + buffer <= _LARGER * room
    if settled:
        return None
    settings = PlanSettings.model_validate(job.settings.model_dump())
    traced = trace(settings, subject, workspaces=CUDA_WORKSPACES if on_gpu else {})
    reserve = (RESERVE_GIB - _STARTED_GIB) * _GIB if on_gpu else 0
    missing = list(_missing(traced, on_gpu=on_gpu, room=room, reserve=round(reserve)))
    if not missing:
        return None
    lines = [f"{'; '.join(missing)}. Settings that save memory, each in addition to those before it:"]
    return "\n".join([*lines, *(f"  {advice}" for advice in advise(settings, subject, traced, device.type))])


def at_most(settings: Settings, subject: Subject, parameters: int) -> int:
    """Bytes that a step cannot exceed whatever the settings of memory, by a bound that takes no time.

    Args:
        settings: of the run.
        subject: the model and what it reads.
        parameters: values in the model, adapters included.
    """
    spec, selection = subject.spec, subject.selection
    points = settings.data.batch_size * math.prod(subject.shape)
    levels, states = len(selection.levels), selection.history + len(settings.rollout.graded_steps)
    channels = len(spec.surface) + len(spec.static) + levels * len(selection.atmospheric)
    blocks = sum(sum(_argument(spec, name)) for name in ("encoder_depths", "decoder_depths"))
    layers = blocks * _argument(spec, "latent_levels") + levels + len(spec.surface)
    tokens: int = points // spec.patch_size**2 * layers * _argument(spec, "embed_dim")
    return _PER_PARAMETER * parameters + 4 * _PER_TOKEN * tokens + _PER_VALUE * points * states * channels


def _argument(spec: ModelSpec, name: str) -> Any:
    """A setting of upstream's model class."""
    return spec.arguments.get(name, spec.upstream.default(name))


def _held(model: torch.nn.Module, device: torch.device) -> Iterator[int]:
    """Bytes of the model on its device: a trace counts them again."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == device.type:
            yield tensor.nbytes


def _subject(job: Job) -> Subject:
    grid = job.selection.grid
    return Subject(job.spec, job.selection, grid.latitude(job.store), grid.longitude(job.store))


def _missing(traced: Trace, *, on_gpu: bool, room: int, reserve: int) -> Iterator[str]:
    """What there will be too little of."""
    needs = traced.peak.bytes + reserve + (0 if on_gpu else traced.host_bytes)
    if needs > room:
        where = f"most of it in {traced.peak.where}, {traced.peak.phase}"
        what = "the GPU" if on_gpu else "memory"
        yield f"a step will take about {needs / _GIB:.1f} GiB of {what} ({where}), and {room / _GIB:.1f} are to be had"
    if on_gpu and traced.host_bytes > (free := host_available()):
        host = traced.host_bytes / _GIB
        yield f"a step will take about {host:.1f} GiB of the host's memory, and {free / _GIB:.1f} are to be had"
