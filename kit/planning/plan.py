"""A plan: what a run would need, and which cards have it, before there is any data, weights or GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kit.planning.advice import advise
from kit.planning.cost import CARDS, Card, card_named
from kit.planning.fit import RESERVE_GIB, fit
from kit.planning.settings import PlanSettings
from kit.planning.trace import Trace, trace
from kit.planning.workload import Subject, subject_of

__all__ = ["Plan", "inexact", "plan"]

_SIZES = (8, 12, 16, 24, 32, 40, 48, 80, 140)
_GIB = 2**30
_KEPT = ("data", "model", "adapt", "memory", "optim", "train", "rollout")


@dataclass(frozen=True)
class Plan:
    """What a run would need.

    Attributes:
        settings: of the run.
        subject: the model and what it reads.
        trace: of one step.
        card: to estimate the time for.
        inexact: what makes the run depart from the arithmetic of plain fine-tuning.
        notes: where the plan departs from the run.
        advice: settings that would lower the peak, each with its reason.
    """

    settings: PlanSettings
    subject: Subject
    trace: Trace
    card: Card | None
    inexact: tuple[str, ...]
    notes: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def needed_gib(self) -> float:
        """Peak and reserve."""
        return self.trace.peak.bytes / _GIB + RESERVE_GIB

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        trace, spec = self.trace, self.subject.spec
        settings = self.settings.model_dump(mode="json", include=set(_KEPT))
        if self.settings.grid is not None:
            del settings["data"]["store"]
        trains, every = trace.parameters
        return {
            "variant": spec.variant,
            "grid": list(self.subject.shape),
            "levels": list(self.subject.selection.levels),
            "method": self.settings.adapt.method,
            "forecast": self.settings.forecast,
            "settings": settings,
            "peak_gib": _gib(trace.peak.bytes),
            "reserve_gib": RESERVE_GIB,
            "host_gib": _gib(trace.host_bytes),
            "exact": not self.inexact,
            "inexact": list(self.inexact),
            "notes": list(self.notes),
            "breakdown": {name: _gib(size) for name, size in trace.peak.breakdown.items()},
            "workspace_gib": _gib(trace.peak.workspace),
            "peak_at": {"module": trace.peak.where, "phase": trace.peak.phase},
            "phases": {name: _gib(size) for name, size in trace.phases.items()},
            "trainable_parameters": trains,
            "total_parameters": every,
            "flops_per_step": trace.cost.flops,
            "fits": {f"{size}GiB": self.needed_gib <= size for size in _SIZES},
            "cards": {card.name: self._on(card) for card in CARDS.values()},
            "card": self.card and self.card.name,
            "step_seconds": self.card and self._on(self.card)["step_seconds"],
            "advice": list(self.advice),
            "trace_seconds": round(trace.seconds, 2),
        }

    def _on(self, card: Card) -> dict[str, Any]:
        fits = self.needed_gib <= card.memory_gib
        return {"fits": fits, "step_seconds": float(f"{self.trace.cost.seconds(card):.3g}")}


def plan(settings: PlanSettings) -> Plan:
    """Trace the step that training with these settings would take.

    Raises:
        KitError: training would be refused, or the card is unknown.
    """
    card = card_named(settings.card) if settings.card else None
    subject = subject_of(settings)
    notes = list(_notes(settings))
    if settings.memory.fit is None:
        traced = trace(settings, subject, forecast=settings.forecast)
    else:
        fitted = fit(settings, subject)
        notes.append(f"memory.fit {settings.memory.fit} chose {fitted}")
        settings, traced = settings.model_copy(update={"memory": fitted.memory}), fitted.trace
    return Plan(
        settings,
        subject,
        traced,
        card,
        tuple(inexact(settings)),
        tuple(notes),
        tuple(advise(settings, subject, traced)),
    )


def inexact(settings: PlanSettings) -> Iterator[str]:
    """Say what makes a run depart from the arithmetic of plain fine-tuning."""
    if settings.forecast:
        return
    if settings.memory.saved_inputs == "bf16":
        yield "memory.saved_inputs bf16 recomputes from rounded inputs"
    if settings.optim.name == "adamw-8bit":
        yield "optim.name adamw-8bit rounds the optimiser's moments"
    if settings.optim.name == "adafactor":
        yield "optim.name adafactor replaces the optimiser's moments by sums over rows and columns"
    if settings.adapt.method == "qlora":
        yield "adapt.method qlora rounds the frozen weights to 4 bits"


def _notes(settings: PlanSettings) -> Iterator[str]:
    if settings.memory.compile and not settings.forecast:
        yield "memory.compile is planned without compilation, which needs less memory and less time"
    if settings.optim.name == "adamw-8bit" and not settings.forecast:
        yield "optim.name adamw-8bit is planned without compilation, with a few copies of one parameter at a time"
    if settings.train.device == "cpu":
        yield "train.device cpu: the plan is that of a GPU"


def _gib(size: int) -> float:
    return round(size / _GIB, 3)
