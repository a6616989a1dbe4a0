"""Splits held against each other: the index by hand, units that change, seasons that change, what is zero."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.checks.stability import SplitDrift, split_drift, stability_index
from tests.factories import synthetic_dataset, write_synthetic

SPLITS = {
    "train": "2020-01-01T00/2020-01-05T18",
    "valid": "2020-01-06T00/2020-01-07T18",
    "test": "2020-01-08T00/2020-01-09T18",
}


def test_the_index_by_hand() -> None:
    # Shares 1/2, 1/2 and 1/4, 3/4: (1/4) ln 2 - (1/4) ln (2/3).
    expected = 0.25 * math.log(2) - 0.25 * math.log(2 / 3)
    assert stability_index(np.array([5, 5]), np.array([10, 30])) == pytest.approx(expected)
    assert stability_index(np.array([3, 1]), np.array([3000, 1000])) == 0
    # An empty class counts as a share of 1e-4.
    assert stability_index(np.array([1, 0]), np.array([0, 1])) == pytest.approx(2 * (1 - 1e-4) * math.log(1e4))
    assert math.isnan(stability_index(np.array([0, 0]), np.array([1, 1])))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], SplitDrift]:
    """``10u`` stays as it is; ``2t`` is in Celsius, and ``10v`` stronger, from the test split on; ``tp`` is rain."""
    rng = np.random.default_rng(0)
    dataset = synthetic_dataset(surface=("2t", "10u", "10v", "msl", "tp"), levels=(500,), times=36)
    shape = dataset["2t"].shape
    test = (dataset["time"] >= np.datetime64("2020-01-08")).values[:, None, None]
    values = {
        "10u": rng.normal(0, 5, shape),
        "2t": rng.normal(280, 15, shape) - 273.15 * test,
        "10v": rng.normal(0, 5, shape) + 5 * test,
        "tp": np.where(rng.random(shape) < 0.6, 0, rng.exponential(1e-3, shape)),
        "msl": np.full(shape, 101325.0),
    }
    for name, field in values.items():
        dataset[name] = xr.DataArray(field.astype("f4"), dims=dataset["2t"].dims, attrs=dataset[name].attrs)
    dataset["10u"][30, 0, 0] = np.nan
    store = write_synthetic(dataset, tmp_path_factory.mktemp("stability") / "store", splits=SPLITS)
    return {(one.key, one.split): one for one in split_drift(store, 8)}


def test_what_is_of_one_distribution_agrees(found: dict[tuple[str, str], SplitDrift]) -> None:
    for key in ("10u", "tp"):
        for split in ("valid", "test"):
            assert found[key, split].psi < 0.02
            assert found[key, split].ratio == pytest.approx(1, abs=0.1)
            assert (found[key, split].verdict, found[key, split].remedy) == ("ok", "")


def test_another_unit_is_an_error_and_another_regime_a_warning(found: dict[tuple[str, str], SplitDrift]) -> None:
    celsius, windy = found["2t", "test"], found["10v", "test"]
    assert found["2t", "valid"].verdict == found["10v", "valid"].verdict == "ok"
    assert celsius.shift == pytest.approx(-273.15 / 15, rel=0.05)
    assert celsius.verdict == "error"
    assert "other units" in celsius.remedy
    assert windy.shift == pytest.approx(1, abs=0.1)
    assert windy.psi > 0.5
    assert windy.verdict == "warning"
    assert "seasons" in windy.remedy


def test_what_never_varies_has_no_shift(found: dict[tuple[str, str], SplitDrift]) -> None:
    flat = found["msl", "test"]
    assert math.isnan(flat.shift)
    assert flat.verdict == "ok"


def test_there_is_nothing_to_compare_without_other_splits(tmp_path: Path) -> None:
    store = write_synthetic(synthetic_dataset(times=4), tmp_path / "s", splits={"train": SPLITS["train"]})
    assert split_drift(store, 8) == []


def test_states_of_any_hour_are_taken() -> None:
    from kit.checks.stability import _spread

    chosen = _spread(np.arange(224), 8)
    assert len(chosen) == 8
    assert (chosen // 28).tolist() == list(range(8))
    assert len(set((chosen % 4).tolist())) > 1
    assert _spread(np.arange(5), 8).tolist() == [0, 1, 2, 3, 4]
