"""Statistics held against a reference: verdicts at their thresholds, effects, remedies; weights by area are heeded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kit.checks.drift import compared, drift, judged, skewed
from kit.data.settings import Period
from kit.data.store.writer import write_store
from tests.checks.stores import report_of
from tests.factories import synthetic_dataset

REFERENCE = (100.0, 10.0)


@pytest.mark.parametrize(
    ("mean", "scale", "whole", "verdict"),
    (
        (139.0, 24.0, True, "ok"),
        (141.0, 10.0, True, "warning"),
        (59.0, 10.0, True, "warning"),
        (100.0, 26.0, True, "warning"),
        (201.0, 10.0, True, "error"),
        (100.0, 51.0, True, "error"),
        (100.0, 0.02, True, "ok"),
        (100.0, 0.009, True, "warning"),
        (100.0, 1.9, False, "warning"),
        (100.0, 2.1, False, "ok"),
        (100.0, 0.0, True, "ok"),
    ),
)
def test_verdicts(mean: float, scale: float, whole: bool, verdict: str) -> None:
    found = compared("2t", mean, scale, REFERENCE, whole=whole)
    assert found is not None
    assert found.verdict == verdict == judged(found.shift, found.ratio, whole=whole)
    assert bool(found.remedy) == bool(found.effect) == (verdict != "ok")


def test_shift_and_ratio_by_hand() -> None:
    found = compared("2t", 85.0, 30.0, REFERENCE)
    assert found is not None
    assert (found.shift, found.ratio) == (-1.5, 3.0)
    assert "mean 85 and scale 30, where mine has 100 and 10: 1.5 scales away, 3.00 times as wide" in found.described(
        "mine"
    )
    assert "varies 3.0 times less" in found.effect


@pytest.mark.parametrize("values", ((np.nan, 1.0, (0.0, 1.0)), (0.0, 1.0, (0.0, 0.0)), (0.0, np.inf, (0.0, 1.0))))
def test_what_is_no_number_is_not_compared(values: tuple[float, float, tuple[float, float]]) -> None:
    assert compared("2t", *values) is None
    assert compared("2t", 1.0, 1.0, None) is None


def test_what_has_long_tails_is_never_an_error() -> None:
    assert {key: skewed(key) for key in ("tp", "q_850", "go3_0_5", "w_500", "2t", "t_50", "msl", "tc_no")} == {
        "tp": True, "q_850": True, "go3_0_5": True, "w_500": True, "2t": False, "t_50": False, "msl": False,
        "tc_no": True,
    }  # fmt: skip
    found = compared("q_850", 100.0, 90.0, REFERENCE)
    assert found is not None
    assert found.verdict == "warning"


def test_zeros_among_pressures_are_suspected_by_their_share() -> None:
    # A tenth of zeros among values of 101000 +- 1332: mean 90900, scale near 0.3 * 101000.
    found = drift("msl", 90900.0, 30300.0)
    assert found is not None
    assert "10.0% of zeros" in found.remedy


def test_statistics_by_area_are_those_of_the_data_by_area(tmp_path: Path) -> None:
    splits = {"train": Period.parse("2020-01-01/2020-01-01T12"), "valid": Period.parse("2020-01-02/2020-01-03")}
    dataset = synthetic_dataset(times=6)
    # Warm at the equator, as it is: by area the mean is another.
    dataset["2t"] += (40 * np.cos(np.deg2rad(dataset["latitude"])) - 30).astype("f4")
    store = write_store(dataset, tmp_path / "store", splits=splits, attributes={}, weights="area")
    assert statuses(store.path) == {"passed"}
    path = store.path / "stats.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "none"}))
    assert statuses(store.path) == {"failed"}


def statuses(path: Path) -> set[str]:
    return {check.status for check in report_of(path).checks if check.name == "statistics-match"}
