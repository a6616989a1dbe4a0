"""What the checks found, as values; printing is the command line's, deciding is the reader's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from kit.config.suggestions import near_names
from kit.io.errors import SettingsError

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
class QualityReport:
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


# Accept findings by name: what is left unresolved keeps a store from being trained on.


def accept(report: QualityReport, names: Sequence[str], setting: str = "data.accept") -> QualityReport:
    """Mark errors as accepted.

    Args:
        report: Report on a store.
        names: Names of the errors, as ``Check.key`` has them: ``nan:2t``.
        setting: Setting that the names come from, for the message.

    Returns:
        The report with these errors marked.

    Raises:
        SettingsError: a name is none of the errors that were found, so that accepting it has no effect.
    """
    errors = {check.key for check in report.failed("error")}
    for name in names:
        # Refused, so that no acceptance outlives its reason.
        if name not in errors:
            near = near_names(name, errors, cutoff=0.4) or sorted(errors)[:8]
            msg = (
                f"{setting}: {name} has no effect on {report.store}: {_reason(report, name)}; leave it out. Errors "
                f"that were found: {', '.join(near) or 'none'}"
            )
            raise SettingsError(msg)
    checks = list(report.checks)
    for place, check in enumerate(checks):
        if check.key in names and check.status == "failed" and check.severity == "error":
            checks[place] = replace(check, accepted=True)
    return replace(report, checks=tuple(checks))


def _reason(report: QualityReport, name: str) -> str:
    """Say why there is nothing to accept under a name."""
    # A check has several results where it found several things; the last one speaks for it.
    known = {check.key: check for check in report.checks}.get(name)
    if known is None:
        return "nothing of that name was found"
    if known.status == "passed":
        return "it passed"
    return f"it is no error but {known.severity}: nothing waits"
