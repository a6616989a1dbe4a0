"""One number with what it is compared with: the rows that ``kit bench --json`` lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Row", "Verdict", "verdict"]

Verdict = str
"""The best that is met: ``aim``, ``must``, or neither: ``missed``."""


@dataclass(frozen=True)
class Row:
    """A number; smaller is better.

    Attributes:
        name: of what was measured or planned.
        value: the number; None where there is none.
        unit: of value and baseline.
        baseline: the same of upstream's documented way, from the same run.
        exact: whether the arithmetic is that of plain fine-tuning, but for the order of sums; None where that is no
            question.
        must: what the value must not exceed.
        aim: what it is hoped not to exceed.
        more: further columns.
    """

    name: str
    value: float | None
    unit: str
    baseline: float | None = None
    exact: bool | None = None
    must: float | None = None
    aim: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Of value to baseline."""
        return self.value / self.baseline if self.value is not None and self.baseline else None

    def as_dict(self, suite: str, machine: str) -> dict[str, Any]:
        """JSON form."""
        told = {
            "suite": suite,
            "name": self.name,
            "value": rounded(self.value),
            "unit": self.unit,
            "baseline": rounded(self.baseline),
            "ratio": rounded(self.ratio),
            "exact": self.exact,
            "machine": machine,
        }
        if self.must is not None:
            told |= {"must": self.must, "aim": self.aim, "verdict": verdict(self.value, self.must, self.aim)}
        return told | dict(self.more)


def verdict(value: float | None, must: float | None, aim: float | None) -> Verdict | None:
    """Say which target a value meets; None where none is set."""
    if must is None:
        return None
    if value is None or value > must:
        return "missed"
    return "aim" if aim is not None and value <= aim else "must"


def rounded(value: float | None) -> float | None:
    """Four digits, as many as any measurement here is good for."""
    return None if value is None else float(f"{value:.4g}")
