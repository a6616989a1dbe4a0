"""Climatologies as WeatherBench 2 publishes them and the kit's own, read alike; what misleads is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.climatology.build import build_climatology
from kit.data.climatology.matching import Wanted
from kit.data.climatology.reader import StoredClimatology, open_climatology
from kit.data.climatology.settings import ClimatologySettings
from kit.data.settings import Period
from kit.data.store.reader import Store
from kit.io.errors import KitError, SettingsError, StoreError
from tests.data.sources.zarr_files import serve
from tests.everyday import one_in
from tests.factories import synthetic_dataset, synthetic_store, write_synthetic
from tests.servers import serving

NAMES = ("2t", "10u", "t", "u", "v", "10ws", "ws", "tp")
LONG = {
    "2t": "2m_temperature",
    "10u": "10m_u_component_of_wind",
    "t": "temperature",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
    "10ws": "10m_wind_speed",
    "ws": "wind_speed",
    "tp": "total_precipitation_6hr",
}
UNITS = {"2t": "K", "t": "K", "tp": "m"}
DAYS = "1990-2019_6h_32x16.zarr"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two days of 2020, on 16 x 32 points, on levels of 100, 500 and 850 hPa."""
    dataset = synthetic_dataset(times=8, surface=("2t", "10u", "10v", "tp"), atmospheric=("t", "u", "v"))
    for name in dataset.data_vars:
        dataset[name].attrs["units"] = UNITS.get(str(name), "m s-1")
    return write_synthetic(dataset, tmp_path_factory.mktemp("store") / "store")


def published(**changes: Any) -> xr.Dataset:
    """A climatology as WeatherBench 2 has it: long names, longitude first, latitude increasing, more levels."""
    random = np.random.default_rng(5)
    latitude = -90 + (np.arange(16) + 0.5) * 180 / 16
    coordinates = {
        "hour": [0, 6, 12, 18],
        "dayofyear": np.arange(1, 367),
        "latitude": latitude.astype(np.float32),
        "level": [100, 300, 500, 850],
        "longitude": (np.arange(32) * 360 / 32).astype(np.float32),
    }
    data = {}
    for name in NAMES:
        levels = (4,) if name in ("t", "u", "v", "ws") else ()
        dimensions = ("hour", "dayofyear", *(["level"] if levels else []), "longitude", "latitude")
        values = random.normal(size=(4, 366, *levels, 32, 16)).astype(np.float32)
        # What WeatherBench 2 derived has no units.
        attributes = {} if name in ("10ws", "ws") else {"units": UNITS.get(name, "m s**-1")}
        data[LONG[name]] = (dimensions, values, attributes)
    return xr.Dataset(data, coords=coordinates).assign_coords(changes)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / DAYS
    chunks = {name: {"chunks": (3, 3, *array.shape[2:])} for name, array in published().data_vars.items()}
    published().to_zarr(path, zarr_format=2, encoding=chunks)
    return path


def wanted(store: Store, names: tuple[str, ...] = NAMES, **changes: Any) -> Wanted:
    facts: dict[str, Any] = {"latitude": store.latitude, "longitude": store.longitude, "levels": store.levels}
    return Wanted(store, names=names, **facts | changes)


@contextmanager
def opened(place: Path, store: Store, *, stated: str | None = None, **changes: Any) -> Iterator[StoredClimatology]:
    period = None if stated is None else Period.parse(stated)
    with open_climatology(str(place), wanted(store, **changes), period) as climatology:
        yield climatology


def refusal(place: Path, store: Store, **changes: Any) -> str:
    """What is said of a climatology that is refused when it is opened."""
    with pytest.raises(KitError) as caught, opened(place, store, **changes):
        pass
    return str(caught.value)


def own(store: Store, out: Path, **settings: Any) -> Path:
    """A climatology of all states of a store."""
    given = {"store": str(store.path), "out": out, "period": "2020/2020", **settings}
    build_climatology(ClimatologySettings.model_validate(given))
    return out


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_weatherbench_layout_is_read_as_the_store_lies(theirs: Path, store: Store) -> None:
    with opened(theirs, store) as climatology:
        found = climatology.states([at("2020-01-02T06:00"), at("2020-12-31T18:00")])
        assert climatology.period == Period.parse("1990/2019")
        assert climatology.lacking == {}
    expected = published().sel(latitude=store.latitude, level=[100, 500, 850])
    for name, tensor in found.items():
        given = expected[LONG[name]]
        order = ("level", "latitude", "longitude") if "level" in given.dims else ("latitude", "longitude")
        both = [given.sel(hour=6, dayofyear=2), given.sel(hour=18, dayofyear=366)]
        np.testing.assert_array_equal(tensor, [one.transpose(*order).values for one in both])
    assert set(found) == set(NAMES)


def test_a_part_of_the_grid_is_found_by_its_coordinates(theirs: Path, store: Store) -> None:
    # Across Greenwich.
    columns = np.array([30, 31, 0, 1, 2])
    part: dict[str, Any] = {
        "latitude": store.latitude[4:9],
        "longitude": store.longitude[columns] - 360 * (columns > 16),
    }
    with opened(theirs, store, **part) as climatology:
        found = climatology.states([at("2020-02-01T00:00")])["2t"][0]
    field = published()["2m_temperature"].sel(hour=0, dayofyear=32, latitude=store.latitude[4:9])
    np.testing.assert_array_equal(found, field.values.T[:, columns])


def test_the_kits_own_is_read_as_it_was_made(tmp_path: Path, store: Store) -> None:
    path = own(store, tmp_path / "own.zarr")
    with opened(path, store) as climatology:
        found = climatology.states([at("2021-01-02T12:00")])
        assert climatology.period == store.period
    held = xr.open_zarr(path).sel(hour=12, dayofyear=2)
    for name in NAMES:
        np.testing.assert_array_equal(found[name][0], held[name].values)


def test_curvilinear_grids(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=8, surface=("2t",), atmospheric=(), curvilinear=True)
    path = own(store, tmp_path / "own.zarr")
    part: dict[str, Any] = {"latitude": store.latitude[3:9, 5:20], "longitude": store.longitude[3:9, 5:20]}
    with opened(path, store, names=("2t",), **part) as climatology:
        found = climatology.states([at("2021-01-01T00:00")])["2t"][0]
    np.testing.assert_array_equal(found, xr.open_zarr(path)["2t"][0, 0, 3:9, 5:20].values)
    part["latitude"] = part["latitude"] + 0.1
    assert "has another grid: 16 x 32 points (curvilinear)" in refusal(path, store, names=("2t",), **part)


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path, store: Store) -> None:
    lacking = published().drop_vars(["10m_wind_speed", "total_precipitation_6hr"]).sel(level=[100, 500])
    lacking["total_precipitation_24hr"] = published()["total_precipitation_6hr"]
    lacking["2m_temperature"].attrs["units"] = "degC"
    lacking["10m_u_component_of_wind"].attrs["units"] = "kg"
    path = tmp_path / DAYS
    lacking.isel(dayofyear=slice(0, 3)).to_zarr(path)
    with opened(path, store, names=("2t", "10u", "10ws", "tp", "t")) as climatology:
        assert climatology.names == ("2t",)
        told = climatology.lacking
        assert (told["10ws"], told["tp"]) == ("is not in it", "is of 24 h, and the store's of 6 h")
        assert told["t"] == "lacks 850 hPa"
        assert "10u comes in 'kg'" in told["10u"]
        warm = climatology.states([at("2020-01-01T00:00")])["2t"][0]
    field = published()["2m_temperature"].sel(hour=0, dayofyear=1, latitude=store.latitude).values.T
    np.testing.assert_allclose(warm, field + 273.15, rtol=1e-6)


def test_years_that_are_tested_are_refused(theirs: Path, store: Store) -> None:
    with opened(theirs, store) as climatology:
        climatology.check([at("2020-01-01T00:00")])
        with pytest.raises(SettingsError, match=r"averaged over 1990-.*, and 2 of the 3 times .* \(2018 to 2019\)"):
            climatology.check([at("2018-06-01T00:00"), at("2019-12-31T18:00"), at("2020-01-01T00:00")])


def test_days_and_hours_that_it_lacks_are_named(tmp_path: Path, store: Store) -> None:
    with opened(own(store, tmp_path / "own.zarr"), store) as climatology:
        climatology.check([at("2021-01-02T18:00")])
        with pytest.raises(SettingsError, match="has nothing for 2021-01-03T00:00, which .* of the year 1 to 2"):
            climatology.check([at("2021-01-02T18:00"), at("2021-01-03T00:00")])
        with pytest.raises(SettingsError, match="has nothing for 2021-01-01T03:00, .* the hours 0, 6, 12, 18 UTC"):
            climatology.check([at("2021-01-01T03:00")])


def test_whoever_says_no_years_is_asked_for_them(tmp_path: Path, theirs: Path, store: Store) -> None:
    path = tmp_path / "mine.zarr"
    published().isel(dayofyear=slice(0, 2)).to_zarr(path)
    assert "does not say over which years it was averaged" in refusal(path, store)
    with opened(path, store, stated="1980/1989") as climatology:
        assert climatology.period == Period.parse("1980/1989")
    assert "says itself that it was averaged over 1990-01-01" in refusal(theirs, store, stated="1980/1989")


def test_other_climatologies_have_other_fingerprints(tmp_path: Path, theirs: Path, store: Store) -> None:
    found = set()
    other = tmp_path / DAYS
    (published() + 1).to_zarr(other, zarr_format=2)
    for place in (theirs, other):
        with opened(place, store, names=("2t",)) as climatology:
            found.add(climatology.fingerprint)
    for window in (1, 5):
        out = own(store, tmp_path / f"{window}.zarr", window_days=window, variables=("2t",))
        # The kit's own are known by the hashes of all files, whatever is taken of them.
        for names in (("2t",), ()):
            with opened(out, store, names=names) as climatology:
                found.add(climatology.fingerprint)
    assert len(found) == 4


def test_synthetic_ones_are_not_for_real_data(tmp_path: Path, store: Store) -> None:
    path = own(store, tmp_path / "own.zarr")
    real = Store.open(store.path)
    real.attributes["synthetic"] = False
    assert "was made of synthetic data" in refusal(path, real)


@pytest.mark.parametrize(
    ("changes", "message"),
    one_in(
        3,
        (
            ({"latitude": np.linspace(-80, 80, 16)}, "has another grid: 16 x 32 points, -80 to 80 degrees north"),
            ({"longitude": np.arange(32) * 11.25 + 1}, "has another grid: 16 x 32 points, -84.375 to 84.375"),
            ({"hour": [0.0, 6.5, 12, 18]}, "expected a climatology with whole numbers for its coordinates hour and"),
        ),
        ("rows", "columns", "hours"),
    ),
)
def test_other_coordinates(changes: dict[str, Any], message: str, tmp_path: Path, store: Store) -> None:
    path = tmp_path / DAYS
    published(**changes).isel(dayofyear=slice(0, 2)).to_zarr(path)
    assert message in refusal(path, store)


def test_what_is_no_climatology(tmp_path: Path, store: Store) -> None:
    assert "found the dimensions time (8)" in refusal(store.path, store)
    assert "no climatology of the registry, which has weatherbench2" in refusal(tmp_path / "nothing", store)
    (tmp_path / "empty").mkdir()
    assert "not readable as a Zarr store" in refusal(tmp_path / "empty", store)


def test_registry_names_are_addresses(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("KIT_OFFLINE", "1")
    told = "gs://weatherbench2/datasets/era5-hourly-climatology/1990-2019_6h_1440x721.zarr: is read over the network"
    assert refusal(Path("weatherbench2-climatology"), store).startswith(told)


def test_one_at_an_address_is_asked_for_what_is_needed(theirs: Path, store: Store) -> None:
    with serving() as server:
        address = serve(server, theirs, f"/{DAYS}")
        with open_climatology(address, wanted(store, ("2t",))) as climatology:
            states = [climatology.states([at(f"2020-01-0{day}T00:00")])["2t"][0] for day in (1, 2, 3, 1)]
        asked = [request.path for request in server.requests if request.path.startswith(f"/{DAYS}/2m_temperature/0")]
        # Three days and hours are in one chunk, which is kept.
        assert asked == [f"/{DAYS}/2m_temperature/0.0.0.0"]
    field = published()["2m_temperature"].sel(hour=0, dayofyear=[1, 2, 3, 1], latitude=store.latitude)
    np.testing.assert_array_equal(states, field.transpose("dayofyear", "latitude", "longitude").values)


def test_damage_is_named(tmp_path: Path, store: Store) -> None:
    out = own(store, tmp_path / "own.zarr", variables=("2t",))
    chunk = out / "2t" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with opened(out, store, names=("2t",)) as climatology:
        climatology.states([at("2021-01-01T00:00")])
        with pytest.raises(StoreError, match="own.zarr: chunk 1/0/0/0 of 2t for day 1 at 6 UTC cannot be unpacked"):
            climatology.states([at("2021-01-01T06:00")])
        chunk.unlink()
        with pytest.raises(StoreError, match="chunk 1/0/0/0 of 2t is absent, which holds day 1 at 6 UTC"):
            climatology.states([at("2021-01-01T06:00")])


def test_what_is_always_missing_stays_missing(tmp_path: Path) -> None:
    dataset = synthetic_dataset(times=8, surface=("2t", "sst"), atmospheric=())
    dataset["sst"][:, :4] = np.nan
    store = write_synthetic(dataset, tmp_path / "store")
    with opened(own(store, tmp_path / "own.zarr"), store, names=("sst",)) as climatology:
        found = climatology.states([at("2021-01-01T00:00")])["sst"][0].numpy()
    np.testing.assert_array_equal(np.isnan(found).any(1), np.arange(16) < 4)
