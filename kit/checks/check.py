"""What a check is, and what it is given: a store that was examined, and what the store is expected to hold."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.results import Check, Severity
from kit.checks.scan import Survey
from kit.checks.store_reader import StoreReader

REBUILD = "build the store again with `kit data build`"

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels, in hPa, that upstream's weights were trained on, and for which it publishes statistics."""


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


class NotApplicable(Exception):
    """Answer of a check that a store has nothing for; the message names what is lacking."""


@dataclass(frozen=True)
class Expected:
    """What a model reads, in the names of a store.

    Attributes:
        name: Name of the model; None for upstream's in general, where nothing in particular was asked for.
        surface: Surface variables.
        atmospheric: Variables on levels.
        static: Static variables without their prefix.
        levels: Pressure levels, hPa.
        step_hours: Hours from state to state; None where any step will do.
        window_hours: Hours that accumulated variables are accumulated over; None where it is the step.
    """

    name: str | None = None
    surface: tuple[str, ...] = ("2t", "10u", "10v", "msl")
    atmospheric: tuple[str, ...] = ("z", "u", "v", "t", "q")
    static: tuple[str, ...] = ("lsm", "z", "slt")
    levels: tuple[float, ...] = LEVELS
    step_hours: float | None = None
    window_hours: float | None = None

    @property
    def label(self) -> str:
        """Name for a sentence."""
        return f"variant {self.name}" if self.name else "Aurora"


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

    def need(self, *names: str) -> tuple[Survey, ...]:
        """Return what was found in variables that a check cannot do without.

        Args:
            names: Names of the variables in the store.

        Returns:
            One survey for each name.

        Raises:
            NotApplicable: the store lacks some of them.
        """
        surveys = {name: self.found(name) for name in names}
        lacking = [name for name, found in surveys.items() if found is None]
        if lacking:
            msg = f"the store lacks {', '.join(lacking)}"
            raise NotApplicable(msg)
        return tuple(found for found in surveys.values() if found is not None)

    def all_of(self, what: str, chosen: Callable[[Survey], bool] = lambda _: True) -> dict[str, Survey]:
        """Return the variables that a check looks at, as far as they could be read.

        Args:
            what: Words for them: ``variable that cannot be negative``.
            chosen: Function that tells whether a variable is one of them.

        Returns:
            Surveys by name.

        Raises:
            NotApplicable: there is none.
        """
        found = {name: one for name, one in self.surveys.items() if one.states and chosen(one)}
        if not found:
            msg = f"no {what}"
            raise NotApplicable(msg)
        return found

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
        """Check a store: one entry for each finding, or one that says that it passed or does not apply."""
        missing = [coordinate for coordinate in self.needs if coordinate not in store.reader.coordinates]
        if missing:
            return [self._not_applicable(f"no usable coordinate {', '.join(missing)}")]
        results = []
        try:
            findings = list(self.find(store))
        except NotApplicable as reason:
            return [self._not_applicable(str(reason))]
        for finding in findings:
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

    def _not_applicable(self, reason: str) -> Check:
        return Check(self.name, "not-applicable", self.severity, None, reason)


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
