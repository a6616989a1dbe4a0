"""Whether a run will have room: asked before its first step, answered by a trace where the answer is not plain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from kit.job import Job
from kit.memory.available import available, host_available
from kit.models.spec import ModelSpec
from kit.plan.advice import advise
from kit.plan.fit import RESERVE_GIB
from kit.plan.settings import PlanSettings
from kit.plan.subject import Subject
from kit.plan.trace import Trace, buffered, trace
from kit.plan.workspace import CUDA_WORKSPACES
from kit.settings import Settings

__all__ = ["at_most", "preflight"]

_GIB = 2**30
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
