"""Cases that people meet as NetCDF, written as GRIB with the same values: the same store, or a message as good."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.grib_files import eccodes, message, write
from tests.real_data import real_data

PARAMS = {
    "t2m": 167, "u10": 165, "v10": 166, "msl": 151, "sp": 134, "lsm": 172, "tp": 228, "swh": 140229, "t": 130,
    "u": 131, "v": 132, "q": 133, "z": 129, "gh": 156, "orography": 228002, "eastward_wind": 131,
    "air_temperature": 130, "northward_wind": 132, "lagrangian_tendency_of_air_pressure": 135,
}  # fmt: skip
UPPER = ("pressure_level", "level", "isobaricInhPa", "model_level")


def opened(name: str) -> xr.Dataset:
    """Read a case as xarray does, in memory, without the levels that stand for none."""
    with xr.open_dataset(real_data("field-cases") / name) as dataset:
        loaded = dataset.load()
    return loaded.squeeze("level", drop=True) if loaded.sizes.get("level") == 1 else loaded


def messages(dataset: xr.Dataset, names: tuple[str, ...], step: str = "0", **keys: Any) -> Iterator[bytes]:
    """Write fields as messages of GRIB 1, in 24 bits; times are reference times."""
    time = next(name for name in ("valid_time", "time", "forecast_reference_time") if name in dataset.dims)
    for name in names:
        array = dataset[name]
        upper = next((dim for dim in UPPER if dim in array.dims or (name in "tuvqz" and dim in array.coords)), None)
        levels = [None] if upper is None else np.atleast_1d(array[upper].values).tolist()
        for moment in dataset[time].values.astype("datetime64[h]"):
            state = array.sel({time: moment}) if time in array.dims else array
            for level in levels:
                layer = state if level is None or upper not in array.dims else state.sel({upper: level})
                layer = layer.squeeze(drop=True).transpose("latitude", "longitude").sortby("latitude", ascending=False)
                # The type of a step before its range, which it would change.
                given = {"bitsPerValue": 24} | keys | {"stepRange": step}
                yield message(
                    layer.values.astype(np.float64), param=PARAMS[name], time=str(moment),
                    level=None if level is None else int(level),
                    grid=(layer["latitude"].values, layer["longitude"].values), **given,
                )  # fmt: skip


def build(source: str, path: Path, folder: Path, **options: Any) -> Store:
    chosen = {"statics": ("coslat",), "train": "1800/2299"} | options
    return build_store(source=source, path=path, out=folder, **chosen)


def refusal(folder: Path, *content: bytes, **options: Any) -> str:
    path = write(folder / "a.grib", *content)
    with pytest.raises(StoreError) as caught:
        build("grib", path, folder / "store", **options)
    assert not (folder / "store").exists()
    return str(caught.value)


def assert_same(store: Store, other: Store, *names: str) -> None:
    """Check that two stores hold the same: times, levels, windows, leads, and values to the packing of GRIB."""
    np.testing.assert_array_equal(store.times, other.times)
    np.testing.assert_allclose(store.latitude, other.latitude, atol=1e-5)
    np.testing.assert_allclose(store.longitude, other.longitude, atol=1e-5)
    for name in names:
        one, two = store.read(name, slice(None)), other.read(name, slice(None))
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6 * float(np.ptp(two)))
        for key in ("accumulation_hours", "averaging_hours", "lead_hours", "cell_methods", "units"):
            # What states no lead is an analysis.
            absent = 0 if key == "lead_hours" else None
            mine, theirs = (side.variable_attributes(name).get(key, absent) for side in (store, other))
            assert mine == theirs, (name, key)


def test_surface_fields_without_a_level(tmp_path: Path) -> None:
    dataset = opened("met-ecmwf-sl.nc")
    path = write(tmp_path / "a.grib", *messages(dataset, ("sp",)))
    netcdf = build("netcdf", real_data("field-cases") / "met-ecmwf-sl.nc", tmp_path / "netcdf")
    assert_same(build("grib", path, tmp_path / "grib"), netcdf, "sp")


@pytest.mark.slow
def test_names_of_standards_and_numbers_of_parameters(tmp_path: Path) -> None:
    dataset = opened("met-era5-cocip1.nc")
    names = ("air_temperature", "eastward_wind", "northward_wind", "lagrangian_tendency_of_air_pressure")
    path = write(tmp_path / "a.grib", *messages(dataset, names))
    netcdf = build("netcdf", real_data("field-cases") / "met-era5-cocip1.nc", tmp_path / "netcdf")
    assert_same(build("grib", path, tmp_path / "grib"), netcdf, "t", "u", "v", "w")


@pytest.mark.slow
def test_final_before_preliminary(tmp_path: Path) -> None:
    names = ("t2m", "u10", "v10", "msl", "t", "u", "v", "q", "z")
    (tmp_path / "nc").mkdir()
    content: list[bytes] = []
    for name, version in (("s03_a_old.nc", "0005"), ("s03_b_new.nc", "0001")):
        (tmp_path / "nc" / name).write_bytes((real_data("field-cases") / name).read_bytes())
        keys: dict[str, Any] = {"setLocalDefinition": 1, "marsClass": "ea", "experimentVersionNumber": version}
        content += messages(opened(name), names, **keys)
    grib = build("grib", write(tmp_path / "a.grib", *content), tmp_path / "grib")
    assert_same(grib, build("netcdf", tmp_path / "nc", tmp_path / "netcdf"), "2t", "10u", "10v", "msl", "t", "z")
    final = "ERA5 and ERA5T combined: preliminary values where there are no final ones"
    assert any(final in note for note in grib.attributes["history"])


def test_forecasts_twelve_hours_ahead(tmp_path: Path) -> None:
    dataset = opened("s17b_cams.nc").drop_vars("valid_time")
    content = list(messages(dataset, ("t2m", "t", "z"), step="12"))
    assert "comes from forecasts 12 h ahead, and the store is to hold analyses (lead 0); choose" in refusal(
        tmp_path, *content
    )
    grib = build("grib", tmp_path / "a.grib", tmp_path / "grib", lead=(12.0, 12.0))
    netcdf = build("netcdf", real_data("field-cases") / "s17b_cams.nc", tmp_path / "netcdf", lead=(12.0, 12.0))
    assert_same(grib, netcdf, "2t", "t", "z")


def test_geopotential_beside_its_height(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", *messages(opened("s26_both.nc"), ("t2m", "gh", "z")))
    grib = build("grib", path, tmp_path / "grib")
    assert_same(grib, build("netcdf", real_data("field-cases") / "s26_both.nc", tmp_path / "netcdf"), "2t", "z")
    assert any("z taken from z; gh holds the same" in note for note in grib.attributes["history"])


def test_one_level_beside_fields_at_the_surface(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", *messages(opened("s38_scalar.nc"), ("t2m", "msl", "t", "z", "lsm")))
    grib = build("grib", path, tmp_path / "grib", statics=None)
    assert (grib.levels, grib.surface, grib.static) == ((850,), ("2t", "msl"), ("lsm",))
    assert_same(grib, build("netcdf", real_data("field-cases") / "s38_scalar.nc", tmp_path / "nc"), "2t", "t", "z")


def test_orography_in_metres(tmp_path: Path) -> None:
    """In GRIB the parameter says the unit, which the NetCDF file leaves out."""
    dataset = opened("s25_o.nc")
    path = write(tmp_path / "a.grib", *messages(dataset, ("t2m",)), *messages(dataset, ("orography",), edition=2))
    store = build("grib", path, tmp_path / "grib", statics=None)
    expected = dataset["orography"].sortby("latitude", ascending=False).values * 9.80665
    np.testing.assert_allclose(store.read_static("z"), expected, rtol=1e-5)


def test_statistics_of_days(tmp_path: Path) -> None:
    dataset = opened("s18_daily.nc")
    # Headers give the begin of a day and the hours from there.
    content = [*messages(dataset, ("t2m",), step="0-24", stepType="avg")]
    content += messages(dataset, ("tp",), step="0-24", stepType="accum")
    path = write(tmp_path / "a.grib", *content)
    store = build("grib", path, tmp_path / "grib", lead=(24.0, 24.0))
    assert store.variable_attributes("2t")["averaging_hours"] == 24
    assert store.variable_attributes("tp")["accumulation_hours"] == 24
    days = dataset["valid_time"].values.astype("datetime64[s]") + np.timedelta64(1, "D")
    np.testing.assert_array_equal(store.times, days)
    values = dataset["tp"].transpose("valid_time", "latitude", "longitude").sortby("latitude", ascending=False)
    np.testing.assert_allclose(store.read("tp", slice(None)), values, rtol=1e-6, atol=1e-8)


def test_means_of_months_are_refused(tmp_path: Path) -> None:
    content = messages(opened("s20_moda.nc"), ("t2m", "msl"), timeRangeIndicator=123)
    assert "2t is a state, but this is a mean of several analyses or forecasts" in refusal(tmp_path, *content)


@pytest.mark.parametrize(("name", "dimension"), (("met-ecmwf-ml.nc", "model_level"), ("s43d_ml.nc", "level")))
def test_model_levels_are_refused(tmp_path: Path, name: str, dimension: str) -> None:
    dataset = opened(name).rename({dimension: "model_level"})
    text = refusal(tmp_path, *messages(dataset, ("t",), typeOfLevel="hybrid"))
    assert "t lies on model levels (hybrid " in text
    assert "`grib_copy -w typeOfLevel!=hybrid a.grib NEW.grib`" in text


def test_a_meridian_given_twice(tmp_path: Path) -> None:
    content = messages(opened("s10_wrap.nc"), ("t2m", "msl"))
    text = refusal(tmp_path, *content)
    assert "2t at 0 and at 360 degrees east, which are one place, differs by up to 5." in text
    # What the message names goes on.
    store = build("grib", tmp_path / "a.grib", tmp_path / "store", region=(90.0, 30.0, -90.0, 330.0))
    assert store.longitude.tolist() == list(range(30, 331, 30))


def test_waves_on_another_grid(tmp_path: Path) -> None:
    """As in the CDS's download of two streams, ``s02_download.zip``."""
    dataset = opened("s38_scalar.nc")
    coarse = dataset.isel(latitude=slice(None, None, 2), longitude=slice(None, None, 2)).rename(msl="swh")
    content = [*messages(dataset, ("t2m",)), *messages(coarse, ("swh",))]
    assert "--leave_out swh" in refusal(tmp_path, *content)
    assert build("grib", tmp_path / "a.grib", tmp_path / "store", leave_out=("swh",)).surface == ("2t",)


def test_winds_along_a_lambert_grid(tmp_path: Path) -> None:
    with xr.open_dataset(real_data("field-cases") / "s22b_cf_lcc.nc") as dataset:
        dataset.load()
    content = []
    for moment in dataset["time"].values.astype("datetime64[h]"):
        for name, level in (("u10", 10), ("v10", 10), ("t2m", 2)):
            handle = eccodes.codes_grib_new_from_samples("GRIB2")
            date, clock = str(moment).split("T")
            keys = {
                "gridType": "lambert", "shapeOfTheEarth": 1, "scaleFactorOfRadiusOfSphericalEarth": 0,
                "scaledValueOfRadiusOfSphericalEarth": 6370000, "Nx": 12, "Ny": 10, "DxInMetres": 60000,
                "DyInMetres": 60000, "Latin1InDegrees": 30, "Latin2InDegrees": 60, "LaDInDegrees": 45,
                "LoVInDegrees": 260, "latitudeOfFirstGridPointInDegrees": round(float(dataset["lat"][0, 0]), 6),
                "longitudeOfFirstGridPointInDegrees": round(float(dataset["lon"][0, 0]) % 360, 6),
                "scanningMode": 64, "resolutionAndComponentFlags": 56, "dataDate": int(date.replace("-", "")),
                "dataTime": int(clock) * 100, "typeOfLevel": "heightAboveGround", "level": level,
                "paramId": PARAMS[name], "bitsPerValue": 24,
            }  # fmt: skip
            for key, value in keys.items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set_values(handle, dataset[name].sel(time=moment).values.astype(np.float64).ravel())
            content.append(bytes(eccodes.codes_get_message(handle)))
            eccodes.codes_release(handle)
    grib = build("grib", write(tmp_path / "a.grib", *content), tmp_path / "grib")
    netcdf = build("netcdf", real_data("field-cases") / "s22b_cf_lcc.nc", tmp_path / "netcdf")
    np.testing.assert_array_equal(grib.times, netcdf.times)
    for name in ("10u", "10v", "2t"):
        np.testing.assert_allclose(grib.read(name, slice(None)), netcdf.read(name, slice(None)), atol=2e-4)
    # The winds were turned by tens of degrees at most, and not left as they were.
    assert np.abs(grib.read("10u", slice(None)) - dataset["u10"].values[:, ::-1]).max() > 0.1
