"""What the checks found, as values; printing is the command line's, deciding is the reader's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Check", "Report", "Severity", "Status"]

Status = Literal["passed", "failed", "skipped"]
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Check:
    """One finding of a check, or its clean bill."""

    name: str
    status: Status
    severity: Severity
    """What it means if it failed: an error makes the store unfit, a warning wants a look, info is for the record."""
    variable: str | None
    """The variable or coordinate concerned, under its name in the store; None concerns the store as a whole."""
    detail: str
    """Evidence: how many, where first, which values."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Figures behind the detail: counts, between which times, levels, latitudes and longitudes."""
    accepted: bool = False
    """An error that the user has accepted by name."""

    @property
    def key(self) -> str:
        """Name by which it is accepted: ``nan:2t``, or the check's name alone where no variable is concerned."""
        return self.name if self.variable is None else f"{self.name}:{self.variable}"


@dataclass(frozen=True)
class Report:
    """All checks of one store."""

    store: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed with severity error, but for what was accepted."""
        return not self.unresolved

    @property
    def unresolved(self) -> tuple[Check, ...]:
        """Errors that nobody has accepted."""
        return tuple(check for check in self.failed("error") if not check.accepted)

    def failed(self, severity: Severity) -> tuple[Check, ...]:
        """Failed checks of one severity."""
        return tuple(check for check in self.checks if check.status == "failed" and check.severity == severity)

    def as_dict(self) -> dict[str, Any]:
        """JSON form: ``store``, ``passed``, ``checks``, and ``accepted``, the names of accepted findings."""
        accepted = sorted({check.key for check in self.checks if check.accepted})
        checks = [asdict(check) for check in self.checks]
        return {"store": self.store, "passed": self.passed, "checks": checks, "accepted": accepted}
