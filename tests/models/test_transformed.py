"""Transforms are fitted to training states alone, with the weights of the store's statistics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.data.settings import Period
from kit.data.statistics import Weighting
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.models.transforms import Fit, fit, parse_transform, transformed_statistics
from tests.factories import synthetic_dataset

ROOT = parse_transform("sqrt", where="")
SPLITS = {"train": Period.parse("2020-01-01/2020-01-01T18"), "valid": Period.parse("2020-01-02/2020-01-03")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))


def rainy(path: Path, *, later: float, weights: Weighting = "none") -> Store:
    """Four training states with 0 in the north and 0.04 m in the south; ``later`` everywhere afterwards."""
    dataset = synthetic_dataset(surface=("2t",), levels=(500,), times=8, height=4, width=8)
    rain = np.zeros((8, 4, 8), np.float32)
    rain[:4, 3:] = 0.04
    rain[4:] = later
    dataset["tp"] = xr.DataArray(rain, dims=("time", "latitude", "longitude"), attrs={"accumulation_hours": 6})
    return write_store(dataset, path, splits=SPLITS, attributes={}, weights=weights)


def test_validation_data_change_nothing(tmp_path: Path) -> None:
    first, second = (rainy(tmp_path / str(later), later=later) for later in (0.0, 0.9))
    assert first.fingerprint() != second.fingerprint()
    # A quarter 0.2, the rest 0: mean 0.05, variance 0.2^2 x 3 / 16, skewness (1 - 2 / 4) / sqrt(3 / 16).
    (one,) = fit(first, "tp", ROOT)
    assert one == fit(second, "tp", ROOT)[0]
    expected = Fit(0.05, 0.2 * math.sqrt(3 / 16), 0.5 / math.sqrt(3 / 16))
    assert (one.mean, one.scale, one.skewness) == pytest.approx((expected.mean, expected.scale, expected.skewness))
    assert transformed_statistics(first, "tp", None, ROOT) == (0.0, one.scale)


def test_nothing_but_training_states_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = rainy(tmp_path / "store", later=0.0)
    read = Store.read
    seen: list[int] = []

    def reading(self: Store, name: str, times: list[int]) -> np.ndarray:
        seen.extend(times)
        return read(self, name, times)

    monkeypatch.setattr(Store, "read", reading)
    fit(store, "tp", ROOT)
    assert seen == [0, 1, 2, 3]


def test_weights_by_area_are_those_of_the_statistics(tmp_path: Path) -> None:
    # The southernmost of four rows of 45 degrees covers (1 - sin 45) / 2 of the globe.
    share = (1 - math.sqrt(0.5)) / 2
    (one,) = fit(rainy(tmp_path / "store", later=0.0, weights="area"), "tp", ROOT)
    assert one.mean == pytest.approx(0.2 * share)
    assert one.scale == pytest.approx(0.2 * math.sqrt(share * (1 - share)))


@pytest.mark.slow
def test_arrays_are_transformed_without_pytorch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np, kit.checks.statistics_report\n"
        "from kit.models.transforms import parse_transform as p\n"
        "assert p('log1p:1', where='').forward(np.array([np.e - 1, -1.0])).round(9).tolist() == [1, 0]\n"
        "assert not {'torch', 'aurora'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
