"""Climatologies against means worked by hand and by brute force, and nothing left of those that fail."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from pydantic import ValidationError

from kit.checkpoint.verify import verify_path
from kit.data.climatology import build
from kit.data.climatology.build import build_climatology
from kit.data.climatology.calendar import listed_days, window_weights
from kit.data.climatology.seeps import weighted_quantile
from kit.data.climatology.settings import ClimatologySettings
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from tests.everyday import one_in
from tests.factories import synthetic_dataset, synthetic_store, write_synthetic
from tests.processes import Python


def store_of(path: Path, times: Sequence[Any] | pd.DatetimeIndex, **values: npt.NDArray[np.float64]) -> Store:
    """A store of surface variables that are the same everywhere, by name; a value for each time."""
    data = {}
    for name, series in values.items():
        field = np.broadcast_to(series[:, None, None], (len(times), 2, 4)).astype(np.float32)
        units = {"mwd": "degree", "2t": "K"}.get(name, "m s-1")
        data[name] = (("time", "latitude", "longitude"), field, {"units": units})
    moments = np.asarray(times, dtype="datetime64[ns]")
    coordinates = {"time": moments, "latitude": [45.0, -45.0], "longitude": [0.0, 90.0, 180.0, 270.0]}
    first, last = (str(time)[:16] for time in moments[[0, -1]])
    return write_synthetic(xr.Dataset(data, coords=coordinates), path, splits={"train": f"{first}/{last}"})


def made(store: Store, out: Path, /, **settings: Any) -> xr.Dataset:
    build_climatology(ClimatologySettings.model_validate({"store": str(store.path), "out": out, **settings}))
    found: xr.Dataset = xr.open_zarr(out, chunks=None)
    return found


def daily(first: str, last: str, freq: str = "24h") -> pd.DatetimeIndex:
    return pd.date_range(first, last, freq=freq)


def test_means_of_a_few_states(tmp_path: Path) -> None:
    """Days 1 to 4 of 2019 and 2020; of a window of five days the weights are 0, 1/2, 1, 1/2, 0."""
    times = [*daily("2019-01-01", "2019-01-04T12", "12h"), *daily("2020-01-01", "2020-01-04T12", "12h")]
    values = np.array([10.0 * time.day + time.hour / 12 + (4 if time.year == 2020 else 0) for time in times])
    found = made(store_of(tmp_path / "store", times, **{"2t": values}), tmp_path / "out.zarr", window_days=5)
    assert found["2t"].dims == ("hour", "dayofyear", "latitude", "longitude")
    assert found["2t"].dtype == np.float32
    assert (found["hour"].values.tolist(), found["dayofyear"].values.tolist()) == ([0, 12], [1, 2, 3, 4])
    # Means over both years are 12, 22, 32, 42 at midnight; day 1 has no day before it: (12 + 22 / 2) / (1 + 1 / 2).
    at_midnight = [(12 + 11) / 1.5, 22, 32, (16 + 42) / 1.5]
    np.testing.assert_allclose(found["2t"].sel(hour=0)[:, 1, 2], at_midnight, rtol=1e-6)
    np.testing.assert_allclose(found["2t"].sel(hour=12)[:, 0, 0], np.add(at_midnight, 1), rtol=1e-6)


@pytest.mark.parametrize("window", one_in(3, (5, 1, 61)))
def test_whole_years_are_averaged_as_weatherbench_does(window: int, tmp_path: Path) -> None:
    """All years side by side, day 366 filled from day 365, the year closed to a circle, then one weighted mean."""
    times = daily("2019-01-01", "2021-12-31")
    random = np.random.default_rng(3).normal(size=len(times))
    store = store_of(tmp_path / "store", times, **{"2t": 280 + random})
    found = made(store, tmp_path / "out.zarr", window_days=window)
    held = store.read("2t", slice(None))[:, 0, 0].astype(np.float64)
    years = np.full((3, 366), np.nan)
    years[times.year - 2019, times.day_of_year - 1] = held
    years[[0, 2], 365] = years[[0, 2], 364]
    half = window // 2
    weights = np.concatenate([np.linspace(0, 1, half + 1), np.linspace(1, 0, half + 1)[1:]]) if half else np.ones(1)
    around = np.pad(years, ((0, 0), (half, half)), mode="wrap")
    windows = np.lib.stride_tricks.sliding_window_view(around, window, axis=1)
    expected = (windows * weights).sum((0, 2)) / (3 * weights.sum())
    assert found["dayofyear"].values.tolist() == list(range(1, 367))
    np.testing.assert_allclose(found["2t"].values[0, :, 1, 3], expected, rtol=2e-7)


def test_speeds_and_directions_are_no_means_of_parts(tmp_path: Path) -> None:
    times = [np.datetime64(f"{year}-01-01") for year in (2019, 2020, 2021)]
    winds = {"10u": np.array([5.0, -5, 3]), "10v": np.array([0.0, 0, 4])}
    found = made(
        store_of(tmp_path / "store", times, mwd=np.array([350.0, 10, 30]), **winds), tmp_path / "out.zarr"
    ).isel(hour=0, dayofyear=0, latitude=0, longitude=0)
    assert float(found["10u"]) == 1
    assert float(found["10ws"]) == 5
    assert float(found["mwd"]) == pytest.approx(10, abs=1e-4)
    assert float(found["10v"]) == pytest.approx(4 / 3)


def test_missing_values_are_left_out(tmp_path: Path) -> None:
    times = daily("2019-01-01", "2019-01-03")
    store = store_of(tmp_path / "store", times, **{"2t": np.array([1.0, np.nan, 5])}, sst=np.full(3, np.nan))
    found = made(store, tmp_path / "out.zarr", window_days=5).isel(hour=0, latitude=0, longitude=0)
    # Of day 2 the days around it are left: (1 / 2 + 5 / 2) / (1 / 2 + 1 / 2).
    np.testing.assert_allclose(found["2t"], [1, 3, 5])
    assert np.isnan(found["sst"]).all()


def test_day_366(tmp_path: Path) -> None:
    times = daily("2019-12-30", "2020-12-31")
    store = store_of(tmp_path / "store", times, **{"2t": np.arange(len(times), dtype=np.float64)})
    both = made(store, tmp_path / "both.zarr", window_days=1)["2t"][0, :, 0, 0]
    # 31 December is day 365 of 2019 (state 1), and day 366 of 2020 (state 367).
    assert float(both.sel(dayofyear=366)) == (1 + 367) / 2
    leap = made(store, tmp_path / "leap.zarr", window_days=1, period="2020/2020")["2t"][0, :, 0, 0]
    assert float(leap.sel(dayofyear=366)) == 367


def test_rows_that_do_not_fit_into_memory_are_taken_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = synthetic_store(tmp_path / "store", times=16, surface=("2t",), atmospheric=("u", "v"))
    whole = made(store, tmp_path / "whole.zarr", window_days=3).load()
    # 3 days of 2 numbers for 3 levels of 32 points are 4608 bytes a row.
    monkeypatch.setattr(build, "MEMORY", 3 * 4608)
    parts = made(store, tmp_path / "parts.zarr", window_days=3)
    assert parts["ws"].encoding["chunks"][-2] == 3
    assert parts["2t"].encoding["chunks"][-2] == 9
    xr.testing.assert_identical(parts.drop_attrs().load(), whole.drop_attrs())


def test_a_climatology_says_what_it_was_made_of(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=12, surface=("2t",), atmospheric=())
    settings = ClimatologySettings(store=str(store.path), out=tmp_path / "out.zarr")
    result = build_climatology(settings).to_dict()
    period = str(store.splits["train"])
    assert (result["period"], result["days"], result["hours"], result["synthetic"]) == (period, 1, (0, 6, 12, 18), True)
    held = xr.open_zarr(tmp_path / "out.zarr").attrs
    assert (held["period"], held["store_fingerprint"], held["window_days"]) == (period, store.fingerprint(), 61)
    assert (held["synthetic"], held["licence"], held["store_name"]) == (True, "none", "store")
    assert "kit_version" in held


def test_every_file_of_it_is_verified(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=12, surface=("2t",), atmospheric=())
    made(store, tmp_path / "out.zarr")
    found = verify_path(tmp_path / "out.zarr")
    assert (found["kind"], found["passed"]) == ("climatology", True)
    chunk = next((tmp_path / "out.zarr" / "2t" / "c").rglob("*/0/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    (tmp_path / "out.zarr" / "hour" / "c" / "0").unlink()
    named = {problem["file"] for problem in verify_path(tmp_path / "out.zarr")["problems"]}
    assert named == {chunk.relative_to(tmp_path / "out.zarr").as_posix(), "hour/c/0"}


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"period": "1990/1991"}, r"no state in 1990-01-01T00:00/1991-12-31T23:59; the store holds 2020-01-01T00:00/"),
        ({"period": "2020-01-01T06/2020-01-02T00"}, "no day of .* has a state at each of the hours 0, 6, 12, 18 UTC"),
        ({"variables": ("2t", "msl")}, "--variables msl: the store .* has no such variable; the nearest are"),
        ({"store": "nowhere"}, "there is no such folder"),
    ),
)
def test_what_cannot_be_averaged(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=12, surface=("2t",), atmospheric=("t",))
    with pytest.raises((StoreError, SettingsError), match=message):
        made(store, tmp_path / "out.zarr", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_states_between_whole_hours(tmp_path: Path) -> None:
    times = [np.datetime64("2020-01-01T00:00"), np.datetime64("2020-01-01T00:30")]
    with pytest.raises(StoreError, match="the state of 2020-01-01T00:30:00 lies between whole hours"):
        made(store_of(tmp_path / "store", times, **{"2t": np.zeros(2)}), tmp_path / "out.zarr")


@pytest.mark.parametrize("window", (0, 2, 60, 367))
def test_windows_have_a_middle(window: int) -> None:
    with pytest.raises(ValidationError, match="window_days"):
        ClimatologySettings(store="a", out=Path("b"), window_days=window)


def test_weights_fall_linearly() -> None:
    np.testing.assert_allclose(window_weights(7), [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0])
    assert listed_days([366, 1, 2, 3, 60]) == "1 to 3, 60, 366"


def test_what_is_there_stays(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=12, surface=("2t",), atmospheric=())
    (tmp_path / "out.zarr").mkdir()
    with pytest.raises(SettingsError, match="exists already"):
        made(store, tmp_path / "out.zarr")


def test_nothing_is_left_of_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = synthetic_store(tmp_path / "store", times=12, surface=("2t", "msl"), atmospheric=())
    next((store.path / "msl" / "c" / "3").rglob("*/0")).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="msl at 2020-01-01T18"):
        made(store, tmp_path / "out.zarr", variables=("2t", "msl"))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.slow
def test_what_a_killed_one_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=1460, height=2, width=4, surface=("2t",), atmospheric=())
    out = tmp_path / "made" / "out.zarr"
    words = ["data", "climatology", "--store", str(store.path), "--out", str(out)]
    process = Python("import sys; from kit.cli.main import main; sys.exit(main(sys.argv[1:]))", *words)
    limit = time.monotonic() + 60
    while not list(tmp_path.glob("made/.out.zarr.*.part/2t")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert list(out.parent.iterdir())
    made(store, out)
    assert [path.name for path in out.parent.iterdir()] == ["out.zarr"]


def test_rain_is_sorted_as_weatherbench_does(tmp_path: Path) -> None:
    """Over years and days: the share that is dry, each alike, and a weighted quantile of the others."""
    times = [*daily("2019-01-01", "2019-01-04"), *daily("2020-01-01", "2020-01-04")]
    dataset = synthetic_dataset(times=8, height=4, width=8, surface=("tp",), atmospheric=(), step_hours=24)
    dataset = dataset.assign_coords(time=np.asarray(times, dtype="datetime64[ns]"))
    store = write_synthetic(dataset, tmp_path / "store", splits={"train": "2019/2020"})
    found = made(store, tmp_path / "out.zarr", window_days=5)
    held = store.read("tp", slice(None)).astype(np.float64)
    samples = xr.DataArray(held.reshape(2, 4, 4, 8), dims=("year", "day", "y", "x"))
    # Of day 2 the days 1 to 4 lie in the window, with the weights 1/2, 1, 1/2 and 0; a whole day is dry below 0.25 mm.
    is_dry = samples < 0.25e-3
    weights = xr.DataArray([0.5, 1, 0.5, 0], dims="day")
    heavy = samples.where(~is_dry).weighted(weights).quantile(2 / 3, dim=("year", "day"))
    at = found.sel(hour=0, dayofyear=2)
    np.testing.assert_allclose(at["tp_seeps_dry_fraction"], is_dry.mean(("year", "day")), rtol=1e-6)
    np.testing.assert_allclose(at["tp_seeps_threshold"], heavy, rtol=1e-6)
    assert 0 < float(at["tp_seeps_dry_fraction"].mean()) < 1
    assert "tp_seeps_threshold" not in made(store, tmp_path / "less.zarr", seeps=False)


def test_a_third_of_the_wet_windows_is_heavy() -> None:
    """Of 0.25, 2, 4 and 6 mm, the one that is never there aside, two thirds reach up to 4 mm."""
    samples = np.array([[6.0, np.nan], [0.25, np.nan], [np.nan, np.nan], [4.0, np.nan], [2.0, np.nan]])
    np.testing.assert_allclose(weighted_quantile(samples, np.ones(5), 2 / 3), [4, np.nan])
