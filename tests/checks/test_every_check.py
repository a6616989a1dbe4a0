"""Every check fires where it should, and stays silent where it should."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kit.checks.check import LEVELS
from kit.checks.results import QualityReport
from kit.checks.run import CHECKS
from tests.checks.cases import COSINE, FIRES, NOT_APPLICABLE, SILENT
from tests.checks.stores import Edit, dry_above, examine, failed, of, report_of
from tests.everyday import first_of_each, one_in
from tests.factories import synthetic_dataset, write_synthetic


@pytest.mark.parametrize(
    ("name", "edit", "variable", "severity", "detail"),
    first_of_each([case[0] for case in FIRES], FIRES, [f"{i}-{case[0]}" for i, case in enumerate(FIRES)]),
)
def test_fires(path: Path, name: str, edit: Edit, variable: str | None, severity: str, detail: str) -> None:
    report = examine(path, edit)
    there = [check for check in failed(report, name) if check.variable == variable]
    found = [check for check in there if re.search(detail, check.detail)]
    assert len(found) == 1, there
    assert found[0].severity == severity
    assert found[0].remedy
    assert severity != "error" or not report.passed


@pytest.mark.parametrize(("name", "edit"), one_in(2, SILENT, [f"{i}-{case[0]}" for i, case in enumerate(SILENT)]))
def test_stays_silent(path: Path, name: str, edit: Edit) -> None:
    (check,) = of(examine(path, edit), name)
    assert check.status == "passed", check


@pytest.mark.parametrize(
    ("name", "edit", "reason"), NOT_APPLICABLE, ids=[f"{i}-{case[0]}" for i, case in enumerate(NOT_APPLICABLE)]
)
def test_does_not_apply(path: Path, name: str, edit: Edit, reason: str) -> None:
    (check,) = of(examine(path, edit), name)
    assert check.status == "not-applicable"
    assert re.search(reason, check.detail), check.detail
    assert not check.remedy


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> QualityReport:
    """Of a store with something to look at for every check: all that Aurora reads, and what is held against it."""
    surface = ("2t", "2d", "10u", "10v", "msl", "sp", "tp")
    dataset = synthetic_dataset(surface=surface, levels=LEVELS, times=10)
    dataset["static_coslat"] = (("latitude", "longitude"), COSINE.astype(np.float32))
    dataset = dataset.assign({"q": dry_above(dataset["q"]), "2d": dataset["2t"] - 5})
    dataset["2t"].attrs |= {"units": "K", "lead_hours": 0}
    path = tmp_path_factory.mktemp("clean") / "store"
    write_synthetic(dataset, path)
    return report_of(path)


ELSEWHERE = {"geography": "not of this Earth", "wind-direction": "of curvilinear grids"}
"""Checks that do not apply to the clean store."""


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_fires_somewhere_and_passes_a_clean_store(name: str, clean: QualityReport) -> None:
    fires = {case[0] for case in FIRES} | {"wind-direction"}
    assert name in fires, f"tests/checks/cases.py has no store in which {name} fires"
    expected = "not-applicable" if name in ELSEWHERE else "passed"
    assert [check.status for check in of(clean, name)] == [expected]


def test_the_manual_lists_every_check() -> None:
    """In the order in which they are reported, each with what to do about it."""
    text = (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [row[0] for row in rows] == list(CHECKS)
    for name, severity, *_ in rows:
        assert severity.startswith(CHECKS[name].severity), name
