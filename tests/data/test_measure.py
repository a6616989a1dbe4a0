"""Statistics of any period of a store: those of building over the training period, and by area where asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kit.checks.run import examine, report_on
from kit.data.grid import area_weights
from kit.data.settings import Period
from kit.data.statistics import StoreStatistics
from kit.data.store.reader import Store
from kit.data.store.update_statistics import measure
from kit.data.store.writer import write_store
from kit.io.errors import StoreError
from tests.factories import synthetic_dataset, synthetic_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthetic_store(tmp_path_factory.mktemp("measure") / "store", surface=("2t", "tp"), levels=(500, 850))


def test_the_training_period_gives_what_building_wrote(store: Store) -> None:
    assert measure(store, store.statistics.train) == store.statistics


def test_a_period_counts_its_own_states_alone(store: Store) -> None:
    found = measure(store, store.splits["valid"])
    values = store.read("t", store.indices(store.splits["valid"]).tolist()).astype(np.float64)[:, 1]
    assert found.states == len(values)
    assert found.variables["t_850"].mean == pytest.approx(values.mean(), rel=1e-14)
    assert found.variables["t_850"].std == pytest.approx(values.std(), rel=1e-12)
    assert found.train == store.splits["valid"]


def test_a_period_without_states_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no state in 1999.*12 states run from 2020"):
        measure(store, Period.parse("1999-01-01/1999-01-02"))


def test_weights_by_area_are_recorded_and_measured_again(tmp_path: Path) -> None:
    dataset = synthetic_dataset(levels=(500,), times=4)
    splits = {"train": Period.parse("2020-01-01/2020-01-01T12")}
    store = write_store(dataset, tmp_path / "store", splits=splits, attributes={}, weights="area")
    assert json.loads((store.path / "stats.json").read_text())["weights"] == "area"
    weights = np.broadcast_to(area_weights(store.latitude)[:, None], (3, *dataset["2t"].shape[1:]))
    values = dataset["2t"].values[:3].astype(np.float64)
    mean = np.average(values, weights=weights)
    found = store.statistics.variables["2t"]
    assert found.mean == pytest.approx(mean, rel=1e-14)
    assert found.std == pytest.approx(np.sqrt(np.average((values - mean) ** 2, weights=weights)), rel=1e-12)
    assert measure(store, splits["train"], "area") == store.statistics
    assert measure(store, splits["train"]).variables["2t"].std != found.std


def test_statistics_of_an_earlier_version_are_read(store: Store, tmp_path: Path) -> None:
    old = json.loads((store.path / "stats.json").read_text())
    del old["weights"]
    for one in old["variables"].values():
        del one["skewness"]
    (tmp_path / "stats.json").write_text(json.dumps(old))
    loaded = StoreStatistics.load(tmp_path / "stats.json")
    assert loaded.weights == "none"
    assert np.isnan(loaded.variables["2t"].skewness)


def test_points_of_a_curvilinear_grid_weigh_by_their_own_cells(tmp_path: Path) -> None:
    dataset = synthetic_dataset(surface=("2t",), levels=(500,), times=4, curvilinear=True)
    # Warmer to the south, where the cells of Lambert's grid are not the size of those in the north.
    dataset["2t"] -= dataset["latitude"].astype("f4")
    splits = {"train": Period.parse("2020-01-01/2020-01-01T12")}
    store = write_store(dataset, tmp_path / "store", splits=splits, attributes={}, weights="area")
    weights = area_weights(store.latitude, store.longitude)
    assert weights.shape == store.latitude.shape
    values = store.read("2t", [0, 1, 2]).astype(np.float64)
    mean = np.average(values, weights=np.broadcast_to(weights, values.shape))
    assert store.statistics.variables["2t"].mean == pytest.approx(mean, rel=1e-14)
    assert store.statistics.variables["2t"].mean != pytest.approx(values.mean(), rel=1e-7)
    assert measure(store, splits["train"], "area") == store.statistics
    matched = [check for check in report_on(examine(store.path)).checks if check.name == "statistics-match"]
    assert [check.status for check in matched] == ["passed"]
