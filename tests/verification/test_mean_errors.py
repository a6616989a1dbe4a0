"""Mean errors at every grid point: right numbers, as many start dates as there are, and none of them counted twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kit.data.store.reader import Store
from kit.io.errors import SettingsError
from kit.verification import mean_errors
from kit.verification.archive import archiving
from kit.verification.evaluation import sum_up
from kit.verification.mean_errors import BIAS, DATES, RMSE, maps_of, newest_maps, read_mean_errors
from kit.verification.sums import MODEL, PERSISTENCE
from tests.factories import synthetic_store
from tests.verification.test_evaluation import SHARE, Weakened, scoring_of

CHECKPOINT = "c" * 64
MADE_OF = {"store_name": "s", "checkpoint_sha256": CHECKPOINT}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("maps")
    surface = ("2t", "10u", "10v", "tp")
    return synthetic_store(folder / "s", surface=surface, atmospheric=("z",), levels=(500,), times=12)


def mapped(store: Store, folder: Path, starts: range, channels: Sequence[str] = ("headline",), **made_of: Any) -> Path:
    """Evaluate forecasts that have less rain and wind than came, two steps from each start."""
    scoring = scoring_of(store, starts)
    maps = maps_of(scoring, 2, channels)
    assert maps is not None
    with archiving(folder / "sums.zarr", scoring.axes([MODEL, PERSISTENCE]), {}) as writer:
        sum_up(Weakened(store), scoring, writer, maps=maps)
    return maps.write(folder, MADE_OF | made_of)


def test_errors_are_averaged_point_by_point(store: Store, tmp_path: Path) -> None:
    found = read_mean_errors(mapped(store, tmp_path, range(5)))
    # Of the leads of 1, 3, 5 and 10 days there is none, so that the last one stands alone.
    assert found.leads == [12.0]
    assert list(found.channels) == ["z_500", "2t", "10ws", "tp"]
    assert found.channels["z_500"] == {"name": "z_500", "variable": "z", "level": 500.0, "units": ""}
    assert found.channels["tp"]["accumulation_hours"] == 6
    rain = store.read("tp", range(2, 7)).astype(np.float64)
    np.testing.assert_allclose(found.read(BIAS, 12.0, MODEL, "tp"), (SHARE - 1) * rain.mean(axis=0), rtol=1e-5)
    expected = np.sqrt(((SHARE - 1) ** 2 * rain**2).mean(axis=0))
    np.testing.assert_allclose(found.read(RMSE, 12.0, MODEL, "tp"), expected, rtol=1e-5)
    heights = store.read("z", range(7)).astype(np.float64)[:, 0]
    apart = heights[:5] - heights[2:]
    np.testing.assert_allclose(found.read(BIAS, 12.0, PERSISTENCE, "z_500"), apart.mean(axis=0), rtol=1e-5, atol=1e-3)
    wind = np.hypot(store.read("10u", range(2, 7)), store.read("10v", range(2, 7)))
    np.testing.assert_allclose(
        found.read(BIAS, 12.0, MODEL, "10ws"), (SHARE - 1) * wind.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    assert (found.read(DATES, 12.0, MODEL, "2t") == 5).all()
    np.testing.assert_array_equal(found.latitude, store.latitude)
    assert found.land is not None
    assert found.attributes["starts"]["count"] == 5


def test_points_without_a_target_are_left_out(store: Store) -> None:
    scoring = scoring_of(store, range(1))
    maps = maps_of(scoring, 1, ("2t", "tp"))
    assert maps is not None
    came = torch.zeros(2, *store.shape)
    came[1, 0, 0] = torch.nan
    values = {"2t": came + 1.0, "tp": torch.ones_like(came)}
    maps.add(MODEL, 12.0, values, {"2t": came, "tp": came}, (500,), frozenset({"tp"}))
    dates, errors, squares = maps._sums[MODEL, 12.0, "tp"]
    assert (dates[0, 0], errors[0, 0], squares[0, 0]) == (1, 1, 1)
    assert (dates[0, 1], errors[0, 1]) == (2, 2)
    # What nobody expects to be missing shows.
    assert np.isnan(maps._sums[MODEL, 12.0, "2t"][1, 0, 0])


def test_evaluations_lie_beside_each_other(store: Store, tmp_path: Path) -> None:
    long = mapped(store, tmp_path, range(6), ("2t",))
    assert mapped(store, tmp_path, range(6), ("2t",)) == long
    short = mapped(store, tmp_path, range(2, 5), ("2t", "tp"))
    assert sorted((tmp_path / "maps").iterdir()) == sorted([long, short])
    best = newest_maps(tmp_path, CHECKPOINT)
    assert {place: found.path for place, found in best.items()} == {("2t", 12.0): long, ("tp", 12.0): short}
    assert newest_maps(tmp_path, "d" * 64) == {}
    # Those on other data are others, and the newest data count.
    other = mapped(store, tmp_path, range(2), ("2t",), store_name="other")
    assert {found.path for found in newest_maps(tmp_path, CHECKPOINT).values()} == {other}


def test_what_is_mapped_can_be_chosen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = scoring_of(store, range(2))
    assert maps_of(scoring, 2, None) is None
    chosen = maps_of(scoring, 2, ("z", "tp"))
    assert chosen is not None
    assert chosen.channels == ["z_500", "tp"]
    everything = maps_of(scoring, 2, ("all",))
    assert everything is not None
    assert everything.channels == ["2t", "10u", "10v", "tp", "z_500", "10ws"]
    with pytest.raises(SettingsError, match="maps: '2m' is not scored; expected headline, all, none, or some of .*2t"):
        maps_of(scoring, 2, ("2m",))
    # Four channels of 16 x 32 points at one lead, three numbers each for two forecasts.
    monkeypatch.setattr(mean_errors, "_MOST_BYTES", 24 * 16 * 32 * 4 * 2 - 1)
    assert maps_of(scoring, 2, ("headline",)) is None
    assert maps_of(scoring, 1, ("headline",)) is not None
    assert maps_of(scoring, 2, ("z", "tp", "2t", "10u", "10v")) is not None


def test_what_is_damaged_is_said(store: Store, tmp_path: Path) -> None:
    path = mapped(store, tmp_path, range(2), ("2t",))
    described = json.loads((path / "zarr.json").read_text())
    described["attributes"]["format"] = 2
    (path / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(SettingsError, match="expected mean errors of format 1, found 2; evaluate anew"):
        read_mean_errors(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(SettingsError, match="expected the mean errors that `kit evaluate` keeps"):
        newest_maps(tmp_path, CHECKPOINT)
