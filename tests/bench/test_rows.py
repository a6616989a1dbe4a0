"""Rows: ratios, verdicts, and their JSON form."""

from __future__ import annotations

import pytest

from kit.bench.results import BenchRow, rounded, verdict


def test_a_row_is_a_number_beside_its_baseline() -> None:
    row = BenchRow("blocks", 3.0, "s", 4.0, exact=True, must=0.78, aim=0.65, more={"peak_gib": 1.5})
    assert row.as_dict("step", "a machine") == {
        "suite": "step",
        "name": "blocks",
        "value": 3.0,
        "unit": "s",
        "baseline": 4.0,
        "ratio": 0.75,
        "exact": True,
        "machine": "a machine",
        "must": 0.78,
        "aim": 0.65,
        "verdict": "missed",
        "peak_gib": 1.5,
    }


def test_without_targets_there_is_no_verdict() -> None:
    told = BenchRow("x", 1.0, "s").as_dict("step", "m")
    assert told["ratio"] is None
    assert "verdict" not in told


@pytest.mark.parametrize(
    ("value", "must", "aim", "expected"),
    [
        (0.60, 0.78, 0.65, "aim"),
        (0.65, 0.78, 0.65, "aim"),
        (0.70, 0.78, 0.65, "must"),
        (0.78, 0.78, 0.65, "must"),
        (0.79, 0.78, 0.65, "missed"),
        (None, 0.78, 0.65, "missed"),
        (0.10, 0.78, None, "must"),
        (0.10, None, None, None),
    ],
)
def test_the_verdict(value: float | None, must: float | None, aim: float | None, expected: str | None) -> None:
    assert verdict(value, must, aim) == expected


def test_four_digits() -> None:
    assert rounded(1.23456) == 1.235
    assert rounded(None) is None
