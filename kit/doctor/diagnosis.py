"""Diagnoses: what was looked at, what it came to, on what evidence, and what to do about it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Diagnosis:
    """One check of the machine.

    Attributes:
        name: Thing that was looked at, such as ``driver``.
        status: ``error`` stops runs, ``warning`` slows or endangers some, ``skipped`` says why nothing is known.
        detail: The evidence in words.
        remedy: What to do; empty where nothing is to be done.
        evidence: The figures behind it.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """All diagnoses of one machine."""

    diagnoses: tuple[Diagnosis, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found that stops a run."""
        return all(diagnosis.status != "error" for diagnosis in self.diagnoses)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit doctor --json`` prints: ``passed``, how many of each status, ``checks``."""
        # Statuses that did not occur are there too, as 0.
        counts: dict[str, int] = dict.fromkeys(("ok", "warning", "error", "skipped"), 0)
        for diagnosis in self.diagnoses:
            counts[diagnosis.status] += 1
        return {"passed": self.passed, "counts": counts, "checks": list(map(asdict, self.diagnoses))}


def ok(name: str, detail: str, /, **evidence: Any) -> Diagnosis:
    """Report that all is well."""
    return Diagnosis(name, "ok", detail, "", evidence)


def warning(name: str, detail: str, remedy: str, /, **evidence: Any) -> Diagnosis:
    """Report what works, but slowly, not everywhere, or not for long."""
    return Diagnosis(name, "warning", detail, remedy, evidence)


def error(name: str, detail: str, remedy: str, /, **evidence: Any) -> Diagnosis:
    """Report what would make a run fail."""
    return Diagnosis(name, "error", detail, remedy, evidence)


def skipped(name: str, detail: str, /, **evidence: Any) -> Diagnosis:
    """Report that nothing is known, and why."""
    return Diagnosis(name, "skipped", detail, "", evidence)
