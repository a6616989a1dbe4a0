"""What would lower a step's peak next, from what it is made of and where it is."""

from __future__ import annotations

import torch

from kit.memory.advice import Advice, Situation, advise_forecast
from kit.memory.advice import advise as advise_training
from kit.planning.settings import PlanSettings
from kit.planning.trace import Trace
from kit.planning.workload import Subject
from kit.train.build import uses_autocast

__all__ = ["advise"]

_WORTH = 0.05
"""Share of the peak above which it is worth a word."""


def advise(settings: PlanSettings, subject: Subject, trace: Trace, device: str = "cuda") -> list[str]:
    """Settings to try, in this order, each in addition to those before it.

    Those that would save next to nothing here are left out.
    """
    held, least = trace.peak.breakdown, _WORTH * trace.peak.bytes
    place = trace.peak.where.partition(".")[0]
    now = Situation(
        settings.memory,
        device,
        autocast=uses_autocast(settings.train.precision, torch.device(device)),
        optimizer=settings.optim.name,
        method=settings.adapt.method,
        batch_size=settings.data.batch_size,
        accumulate=settings.train.accumulate,
        graded=len(settings.rollout.graded_steps),
        rows=subject.shape[0] // subject.spec.patch_size,
    )
    if settings.forecast:
        return [str(advice) for advice in advise_forecast(now, place=place)]
    found = advise_training(now, place=place, updating=held["activations"] < least)
    moved = held["optimizer"] + held["gradients"]
    return [str(advice) for advice in found if moved > least or not _about_optimizer(advice)]


def _about_optimizer(advice: Advice) -> bool:
    return "optim" in advice.options
