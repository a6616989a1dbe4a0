"""What a check is: a name, a severity, and a small function that yields what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.expected import Expected
from kit.checks.results import Check, Severity
from kit.checks.scan import Survey
from kit.checks.store_reader import StoreReader

__all__ = ["REBUILD", "Examined", "Finding", "Findings", "NamedCheck", "check", "few", "usual_step"]

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

    reader: StoreReader
    surveys: Mapping[str, Survey]
    """By variable, under its name in the store."""
    expected: Expected = field(default_factory=Expected)
    """What the store is expected to hold."""

    def found(self, name: str) -> Survey | None:
        """Return what was found in a variable; None where the store lacks it or nothing could be read of it."""
        survey = self.surveys.get(name)
        if survey is None or not survey.states:
            return None
        return survey

    @property
    def step_hours(self) -> float | None:
        """The usual step between states; None where there is one state alone."""
        times = np.unique(self.reader.coordinates.get("time", np.empty(0, dtype="datetime64[s]")))
        if len(times) < 2:
            return None
        return float(usual_step(np.diff(times)) / np.timedelta64(3600, "s"))

    @property
    def spans_globe(self) -> bool:
        """Whether latitudes and longitudes reach nearly around the Earth."""
        latitude, longitude = self.reader.coordinates["latitude"], self.reader.coordinates["longitude"]
        return bool(np.ptp(latitude) > 150 and np.ptp(longitude) > 300)


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
        missing = [coordinate for coordinate in self.needs if coordinate not in store.reader.coordinates]
        if missing:
            return [Check(self.name, "skipped", self.severity, None, f"no usable coordinate {', '.join(missing)}")]
        results = []
        for finding in self.find(store):
            evidence = dict(finding.evidence)
            for key, value in finding.evidence.items():
                # JSON knows no NaN and no infinity.
                if isinstance(value, float) and not math.isfinite(value):
                    evidence[key] = None
            severity = finding.severity or self.severity
            results.append(
                Check(self.name, "failed", severity, finding.variable, finding.detail, finding.remedy, evidence)
            )
        return results or [Check(self.name, "passed", self.severity, None, self.clean)]


def check(
    name: str, severity: Severity, clean: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Examined], Findings]], NamedCheck]:
    """Make a named check of a function."""
    return lambda find: NamedCheck(name, severity, clean, needs, find)


def usual_step(steps: npt.NDArray[Any]) -> Any:
    """Return the most frequent of the steps between times, the shortest of those that are equally frequent."""
    lengths, counts = np.unique(steps, return_counts=True)
    return lengths[np.argmax(counts)]


def few(names: list[str]) -> str:
    """List at most five names."""
    shown = ", ".join(names[:5])
    if len(names) > 5:
        shown += f" and {len(names) - 5} more"
    return shown
