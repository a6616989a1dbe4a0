"""What a check is: a name, a severity, and a small function that yields what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kit.qa.report import Check, Severity
from kit.qa.subject import Subject
from kit.qa.survey import Survey

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


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Examined:
    """A store, and what one pass over its values found."""

    subject: Subject
    surveys: Mapping[str, Survey]
    """By variable, under its name in the store."""


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
                self.name, "failed", finding.severity or self.severity, finding.variable, finding.detail, finding.remedy
            )
            for finding in self.find(store)
        ]
        return found or [Check(self.name, "passed", self.severity, None, self.clean)]


def check(
    name: str, severity: Severity, clean: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Examined], Findings]], NamedCheck]:
    """Make a named check of a function."""
    return lambda find: NamedCheck(name, severity, clean, needs, find)


def few(names: list[str]) -> str:
    """List at most five names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
