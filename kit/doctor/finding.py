"""One finding: what was looked at, what it came to, on what evidence, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Examination", "Finding", "Status", "error", "ok", "skipped", "warning"]

Status = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        name: what was looked at.
        status: an error stops runs, a warning slows or endangers some; skipped says why nothing is known.
        detail: the evidence in words.
        remedy: what to do; empty where nothing is to be done.
        evidence: the figures behind it.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """All findings on one machine."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found that stops a run."""
        return all(finding.status != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """JSON form: ``passed``, how many of each status, ``checks``."""
        known: tuple[Status, ...] = ("ok", "warning", "error", "skipped")
        counts = {status: sum(finding.status == status for finding in self.findings) for status in known}
        return {"passed": self.passed, "counts": counts, "checks": [asdict(finding) for finding in self.findings]}


def ok(name: str, detail: str, /, **evidence: Any) -> Finding:
    """All is well."""
    return Finding(name, "ok", detail, "", evidence)


def warning(name: str, detail: str, remedy: str, /, **evidence: Any) -> Finding:
    """It works, but slowly, not everywhere, or not for long."""
    return Finding(name, "warning", detail, remedy, evidence)


def error(name: str, detail: str, remedy: str, /, **evidence: Any) -> Finding:
    """A run would fail."""
    return Finding(name, "error", detail, remedy, evidence)


def skipped(name: str, detail: str, /, **evidence: Any) -> Finding:
    """Nothing is known, and why."""
    return Finding(name, "skipped", detail, "", evidence)
