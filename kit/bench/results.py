"""The file of results: what each suite found last, and on what machine. The page is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.io.errors import SettingsError

__all__ = ["Row", "Verdict", "load", "merged", "refuse_unwritable", "verdict", "write"]

_FORMAT = 1
_NEEDED = frozenset({"command", "date", "machine", "rows"})


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Read suites by name.

    Raises:
        SettingsError: no such file, or not one of results.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"there is no file of results {str(path)!r}; kit bench writes one beside its page"
        raise SettingsError(msg) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: expected results of kit bench, as JSON: {error}; mend it, or delete it and measure again"
        raise SettingsError(msg) from None
    suites = found.get("suites") if isinstance(found, dict) and found.get("format") == _FORMAT else None
    if not isinstance(suites, dict) or not all(_is_suite(suite) for suite in suites.values()):
        msg = f"{path}: expected results of kit bench in format {_FORMAT}, got something else; delete it, or set --out"
        raise SettingsError(msg)
    return suites


def _is_suite(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= _NEEDED


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What is known after a run: its suites whole, and the others as they were."""
    return {**old, **new}


def write(path: Path, suites: Mapping[str, Any]) -> None:
    """Write suites; a reader finds the old file or the new one, whole."""
    draft = path.with_name(f"{path.name}.writing")
    text = json.dumps({"format": _FORMAT, "suites": suites}, indent=1, allow_nan=False)
    draft.write_text(f"{text}\n", encoding="utf-8")
    draft.replace(path)


def refuse_unwritable(path: Path) -> None:
    """See that a file can be written before hours are spent on what it will say.

    Raises:
        SettingsError: it cannot; says why.
    """
    probe = path.with_name(f"{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder")
    except OSError as error:
        msg = (
            f"out: cannot write {str(path)!r}: {(error.strerror or str(error)).lower()}; choose another file with --out"
        )
        raise SettingsError(msg) from None


# One number with what it is compared with: the rows that ``kit bench --json`` lists.

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
