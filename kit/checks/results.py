"""What the checks found, as values; printing is the command line's, deciding is the reader's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from kit.config.suggestions import near_names
from kit.io.errors import SettingsError

Status = Literal["passed", "failed", "not-applicable"]
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
    """Evidence: how many, where first, which values; what the store lacks where the check does not apply."""
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
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name, the leads and windows of the values, as the store states them: ``lead_hours``, ``accumulation_hours``,
    ``averaging_hours`` and ``cell_methods``; None for what it does not state."""

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

    def named(self, status: Status) -> list[str]:
        """List the checks of one status, each once."""
        return list(dict.fromkeys(check.name for check in self.checks if check.status == status))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: ``accepted`` holds the names of accepted findings."""
        return {
            "store": self.store,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "variables": {name: dict(stated) for name, stated in self.variables.items()},
            "accepted": sorted({check.key for check in self.checks if check.accepted}),
        }


def meaning_texts(stated: Mapping[str, Any]) -> tuple[str, str, str]:
    """Write what a variable's values are of, for a table: its leads, its window and its cell methods.

    Args:
        stated: One of the entries of ``QualityReport.variables``.
    """
    leads = stated["lead_hours"]
    if isinstance(leads, int | float):
        leads = [leads]
    lead = window = "not stated"
    if isinstance(leads, list):
        lead = ", ".join(map(str, leads)) + " h"
    methods = str(stated["cell_methods"] or "")
    if stated["accumulation_hours"] is not None:
        window = f"sum of {stated['accumulation_hours']} h"
    elif stated.get("averaging_hours") is not None:
        window = f"mean of {stated['averaging_hours']} h"
    elif "point" in methods:
        window = "none"
    return lead, window, methods


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
    if known.status == "not-applicable":
        return f"it does not apply: {known.detail}"
    return f"it is no error but {known.severity}: nothing waits"
