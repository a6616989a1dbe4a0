"""The file of results: the rows that each suite found last, and on what machine. The page is made from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.io.atomic import write_atomically
from kit.io.documents import DocumentError, read_json
from kit.io.errors import SettingsError

_FORMAT = 1
_NEEDED = frozenset({"command", "date", "machine", "rows"})

Verdict = str
"""The best target that is met: ``aim``, ``must``, or neither: ``missed``."""


@dataclass(frozen=True)
class BenchRow:
    """One number with what it is compared with; smaller is better.

    Attributes:
        name: Thing that was measured or planned.
        value: The number; None where there is none.
        unit: Unit of value and baseline.
        baseline: The same of upstream's documented way, from the same run.
        exact: Whether the arithmetic is that of plain fine-tuning, but for the order of sums; None where that is no
            question.
        must: Limit that the value must not exceed.
        aim: Limit that it is hoped not to exceed.
        more: Further columns.
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
        """Ratio of value to baseline."""
        return None if self.value is None or not self.baseline else self.value / self.baseline

    def as_dict(self, suite: str, machine: str) -> dict[str, Any]:
        """Return what ``kit bench --json`` lists."""
        row = {
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
            row |= {"must": self.must, "aim": self.aim, "verdict": verdict(self.value, self.must, self.aim)}
        return row | dict(self.more)


def verdict(value: float | None, must: float | None, aim: float | None) -> Verdict | None:
    """Judge which target a value meets; None where none is set."""
    if must is None:
        return None
    if value is None or value > must:
        return "missed"
    if aim is not None and value <= aim:
        return "aim"
    return "must"


def rounded(value: float | None) -> float | None:
    """Round to four digits, as many as any measurement here is good for."""
    return None if value is None else float(f"{value:.4g}")


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Read suites by name.

    Raises:
        SettingsError: no such file, or not one of results.
    """
    try:
        found = read_json(path)
    except FileNotFoundError:
        msg = f"there is no file of results {str(path)!r}; kit bench writes one beside its page"
        raise SettingsError(msg) from None
    except DocumentError as error:
        msg = f"{path}: expected results of kit bench, as JSON: {error}; mend it, or delete it and measure again"
        raise SettingsError(msg) from None
    suites = None
    if isinstance(found, dict) and found.get("format") == _FORMAT:
        suites = found.get("suites")
    known = isinstance(suites, dict) and all(
        isinstance(suite, dict) and suite.keys() >= _NEEDED for suite in suites.values()
    )
    if suites is None or not known:
        msg = f"{path}: expected results of kit bench in format {_FORMAT}, got something else; delete it, or set --out"
        raise SettingsError(msg)
    return dict(suites)


def write(path: Path, suites: Mapping[str, Any]) -> None:
    """Write suites; a reader finds the old file or the new one, whole."""
    # NaN is no JSON; a number that there is not is null.
    text = json.dumps({"format": _FORMAT, "suites": suites}, indent=1, allow_nan=False)
    write_atomically(path, f"{text}\n")


def check_writable(path: Path) -> None:
    """Check that a file can be written, before hours are spent on its content.

    Raises:
        SettingsError: it cannot; says why.
    """
    # Not the file itself: what is there of other suites stays.
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
