"""WRF's own output files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr

from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.zarr_files import write as write_zarr
from tests.everyday import one_in
from tests.real_data import real_data

HOURS = np.arange(0, 24, 6)
SPHERE = 6370000.0


def wrfout(number: int = 1) -> tuple[xr.Dataset, Any, Any]:
    """A file of WRF, and its winds to east and north, [T, H, W]; of a Lambert or a polar stereographic grid."""
    common = {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [30.0, 60.0],
              "longitude_of_central_meridian": -100.0, "latitude_of_projection_origin": 45.0}  # fmt: skip
    if number == 2:
        common = {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": -100.0,
                  "latitude_of_projection_origin": 90.0, "standard_parallel": 60.0}  # fmt: skip
    projection = pyproj.Proj(pyproj.CRS.from_cf({**common, "earth_radius": SPHERE}))
    x, y = projection(-85.0, 42.0)
    xs, ys = np.meshgrid(x + 3e4 * np.arange(7), y + 3e4 * np.arange(6))
    longitude, latitude = projection(xs, ys, inverse=True)
    south, north = (projection(longitude, latitude + step) for step in (-1e-4, 1e-4))
    # The x axis points alpha north of east.
    alpha = np.arctan2(north[0] - south[0], north[1] - south[1])
    random = np.random.default_rng(number)
    east, to_north = random.normal(0, 10, (2, len(HOURS), *xs.shape))
    grid, dims = ("south_north", "west_east"), ("Time", "south_north", "west_east")

    def every(values: Any) -> Any:
        return np.repeat(values[None], len(HOURS), axis=0).astype(np.float32)

    times = [f"2020-01-01_{hour:02}:00:00".encode() for hour in HOURS]
    data: dict[str, Any] = {
        "Times": ("Time", np.array(times, dtype="S19")),
        "U10": (dims, east * np.cos(alpha) + to_north * np.sin(alpha), {"units": "m s-1", "description": "U at 10 M"}),
        "V10": (dims, to_north * np.cos(alpha) - east * np.sin(alpha), {"units": "m s-1", "description": "V at 10 M"}),
        "T2": (dims, 280 + random.random(east.shape), {"units": "K", "description": "TEMP at 2 M"}),
        "PSFC": (dims, 1e5 + random.random(east.shape), {"units": "Pa", "description": "SFC PRESSURE"}),
        "HGT": (dims, every(100 + 10 * random.random(xs.shape)), {"units": "m", "description": "Terrain Height"}),
        "LANDMASK": (dims, every(np.round(random.random(xs.shape))), {"units": "", "description": "LAND MASK"}),
        "E": (dims, every(np.cos(np.radians(latitude))), {"units": "s-1", "description": "Coriolis cosine"}),
        "RAINNC": (dims, random.random(east.shape), {"units": "mm", "description": "ACCUMULATED TOTAL RAIN"}),
        "T": (("Time", "bottom_top", *grid), random.random((4, 3, *xs.shape)), {"units": "K"}),
        "U": (("Time", "bottom_top", "south_north", "west_east_stag"), random.random((4, 3, 6, 8)), {"units": "m s-1"}),
        "COSALPHA": (dims, every(np.cos(alpha))),
        "SINALPHA": (dims, every(np.sin(alpha))),
        "XLAT": (dims, every(latitude)),
        "XLONG": (dims, every(longitude)),
    }
    attributes = {"TITLE": " OUTPUT FROM WRF V4.5 MODEL", "MAP_PROJ": number, "TRUELAT1": 30.0 * number,
                  "TRUELAT2": 60.0, "STAND_LON": -100.0, "SIMULATION_START_DATE": "2019-12-31_12:00:00"}  # fmt: skip
    return xr.Dataset(data, attrs=attributes), east, to_north


def build(dataset: xr.Dataset, folder: Path, lead: str | None = "0h/48h", **options: Any) -> Store:
    path = folder / "wrfout_d01_2020-01-01_00:00:00"
    dataset.to_netcdf(path)
    return build_store(BuildSettings(source="netcdf", path=str(path), out=folder / "store", lead=lead, **options))


@pytest.mark.parametrize("number", one_in(2, [1, 2]))
@pytest.mark.parametrize("without", [(), ("COSALPHA", "SINALPHA")])
def test_surface_fields_are_taken_and_winds_turned(tmp_path: Path, number: int, without: tuple[str, ...]) -> None:
    dataset, east, north = wrfout(number)
    store = build(dataset.drop_vars(without), tmp_path)
    assert sorted(store.surface) == ["10u", "10v", "2t", "sp"]
    assert store.atmospheric == ()
    assert sorted(store.static) == ["lsm", "z"]
    assert store.times.tolist() == np.array([f"2020-01-01T{hour:02}" for hour in HOURS], "datetime64[s]").tolist()
    # Points and angles of the file are in single precision.
    np.testing.assert_allclose(store.read("10u", range(4)), east[:, ::-1], atol=2e-5)
    np.testing.assert_allclose(store.read("10v", range(4)), north[:, ::-1], atol=2e-5)
    np.testing.assert_allclose(store.read("2t", range(4)), dataset["T2"].values[:, ::-1], rtol=1e-6)
    np.testing.assert_allclose(store.read_static("z"), 9.80665 * dataset["HGT"].values[0, ::-1], rtol=1e-6)
    said = " ".join(store.attributes["history"])
    assert "left out, on WRF's model levels: T, U; interpolate them to pressure levels first" in said
    assert "left out, totals since the start of WRF's run: RAINNC; take differences between output times" in said
    assert "left out, of no use as they are in WRF's output: E" in said
    assert "a simulation with WRF that starts at 2019-12-31T12:00:00" in said
    assert store.variable_attributes("2t")["lead_hours"] == [12, 18, 24, 30]
    turned = "by the file's COSALPHA and SINALPHA"
    if without:
        turned = f"by the convergence of meridians in its {'lambert_conformal_conic' if number == 1 else 'polar_'}"
    assert f"10u and 10v turned from the grid's axes to east and north, {turned}" in said


def test_states_are_forecasts_where_the_start_is_stated(tmp_path: Path) -> None:
    """Noon of the day before: 12 h to 30 h ahead."""
    dataset, _, _ = wrfout()
    with pytest.raises(StoreError, match=r"comes from forecasts 12, 18, 24, 30 h ahead, .*--lead 12h"):
        build(dataset, tmp_path, lead=None)
    store = build(dataset, tmp_path, lead="18h", variables=("2t",), statics=("lsm",), train="2020/2020")
    np.testing.assert_allclose(store.read("2t", [0]), dataset["T2"].values[1:2, ::-1], rtol=1e-6)
    assert store.times.astype(str).tolist() == ["2020-01-01T06:00:00"]
    # A file that says only when its own run was started, and one that says nothing.
    (tmp_path / "start").mkdir()
    alone = dataset.assign_attrs(START_DATE="2020-01-01_00:00:00")
    del alone.attrs["SIMULATION_START_DATE"]
    store = build(alone, tmp_path / "start", lead=None, variables=("2t",), statics=("lsm",), train="2020/2020")
    assert store.times.astype(str).tolist() == ["2020-01-01T00:00:00"]
    assert store.variable_attributes("2t")["lead_hours"] == 0
    (tmp_path / "none").mkdir()
    del alone.attrs["START_DATE"]
    assert len(build(alone, tmp_path / "none", lead=None, variables=("2t",), statics=("lsm",)).times) == 4


def test_times_come_from_xtime_where_there_is_no_text(tmp_path: Path) -> None:
    dataset, _, _ = wrfout()
    minutes = ("Time", 60.0 * HOURS, {"units": "minutes since 2020-01-01 00:00:00"})
    store = build(dataset.drop_vars("Times").assign(XTIME=minutes), tmp_path)
    assert store.times.tolist() == np.array([f"2020-01-01T{hour:02}" for hour in HOURS], "datetime64[s]").tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    one_in(
        3,
        [
            (lambda d: d.drop_vars("Times"), "WRF output without Times, and without an XTIME that says since when"),
            (
                lambda d: d.assign(Times=("Time", np.array([b"2020-01-01 06:00   "] * 4))),
                "Times holds '2020-01-01 06:00",
            ),
            (lambda d: d.assign_attrs(SIMULATION_START_DATE="yesterday"), "start of the simulation holds 'yesterday'"),
            (lambda d: d.drop_vars("XLAT"), "WRF output without XLAT and XLONG"),
            (lambda d: d.assign(XLAT=d["XLAT"] + 0.1 * xr.DataArray(HOURS, dims="Time")), "on a nest that moves"),
            (
                lambda d: d.assign(COSALPHA=d["COSALPHA"] * 0),
                "COSALPHA and SINALPHA are no cosine and sine of an angle",
            ),
            (lambda d: d.drop_vars(("COSALPHA", "SINALPHA")).assign_attrs(MAP_PROJ=6), "the file says nothing of them"),
        ],
    ),
)
def test_files_that_cannot_be_read(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        build(change(wrfout()[0]), tmp_path)
    assert not (tmp_path / "store").exists()


def test_fields_on_model_levels_are_refused_by_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"lack the variables t; .* on WRF's model levels: T, U; interpolate them"):
        build(wrfout()[0], tmp_path, variables=("t",))


def test_zarr_stores_of_wrf_are_sent_to_netcdf(tmp_path: Path) -> None:
    write_zarr(wrfout()[0].drop_vars("Times"), tmp_path / "wrf.zarr", form=3)
    with pytest.raises(StoreError, match=r"WRF's own output as a Zarr store, .* give the wrfout files"):
        build_store(BuildSettings(source="zarr", path=str(tmp_path / "wrf.zarr"), out=tmp_path / "store"))


def test_a_real_looking_file(tmp_path: Path) -> None:
    path = real_data("field-cases") / "s22_wrfout_d01_2020-01-01.nc"
    store = build_store(BuildSettings(source="netcdf", path=str(path), out=tmp_path / "s", statics=("coslat",)))
    with xr.open_dataset(path, decode_timedelta=False) as file:
        cosine, sine = file["COSALPHA"].values.astype(float), file["SINALPHA"].values.astype(float)
        east, north = file["U10"].values * cosine - file["V10"].values * sine, file["V10"] * cosine + file["U10"] * sine
        np.testing.assert_allclose(store.read("10u", range(8)), east[:, ::-1], rtol=1e-6, atol=3e-6)
        np.testing.assert_allclose(store.read("10v", range(8)), north.values[:, ::-1], rtol=1e-6, atol=3e-6)
        np.testing.assert_array_equal(store.latitude, file["XLAT"].values[0, ::-1])
    assert str(store.times[1]) == "2020-01-01T06:00:00"
