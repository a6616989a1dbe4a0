"""What a check is: a name, a severity, and a small function that yields what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kit.checks.expected import Expected
from kit.checks.results import Check, Severity
from kit.checks.scan import Survey
from kit.checks.store_reader import Subject

__all__ = ["REBUILD", "Examined", "Finding", "Findings", "NamedCheck", "check", "few"]

REBUILD = "build the store again with `kit data build`"


@dataclass(frozen=True)
class Finding:
    """What a check found wrong."""

    variable: str | None
    detail: str
    remedy: str
    severity: Severity | None = None
    """The check's own unless given."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Figures behind the detail, for machines."""


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Examined:
    """A store, and what one pass over its values found."""

    subject: Subject
    surveys: Mapping[str, Survey]
    """By variable, under its name in the store."""
    expected: Expected = field(default_factory=Expected)
    """What the store is expected to hold."""

    def found(self, name: str) -> Survey | None:
        """What was found in a variable that the store has, if anything could be read of it."""
        survey = self.surveys.get(name)
        return survey if survey is not None and survey.states else None

    @property
    def step_hours(self) -> float | None:
        """The usual step between states; None where there is one state alone."""
        times = np.unique(self.subject.coordinates.get("time", np.empty(0, dtype="datetime64[s]")))
        if len(times) < 2:
            return None
        lengths, counts = np.unique(np.diff(times), return_counts=True)
        return float(lengths[np.argmax(counts)] / np.timedelta64(3600, "s"))


@dataclass(frozen=True)
class NamedCheck:
    """One check."""

    name: str
    severity: Severity
    clean: str
    """Said of a store in which it finds nothing."""
    needs: tuple[str, ...]
    """Coordinates without which there is nothing to check."""
    find: Callable[[Examined], Findings]

    def run(self, store: Examined) -> list[Check]:
        """Check a store: one entry for each finding, or one that says it passed or was skipped."""
        missing = [coordinate for coordinate in self.needs if coordinate not in store.subject.coordinates]
        if missing:
            return [Check(self.name, "skipped", self.severity, None, f"no usable coordinate {', '.join(missing)}")]
        found = [
            Check(
                self.name,
                "failed",
                finding.severity or self.severity,
                finding.variable,
                finding.detail,
                finding.remedy,
                evidence={key: _finite(value) for key, value in finding.evidence.items()},
            )
            for finding in self.find(store)
        ]
        return found or [Check(self.name, "passed", self.severity, None, self.clean)]


def check(
    name: str, severity: Severity, clean: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Examined], Findings]], NamedCheck]:
    """Make a named check of a function."""
    return lambda find: NamedCheck(name, severity, clean, needs, find)


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def few(names: list[str]) -> str:
    """List at most five names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
