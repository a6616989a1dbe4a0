"""Small files in the shapes that people meet: a store with the right values, or one message with what to do."""

import re
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.everyday import one_in
from tests.real_data import real_data


def build(name: str, out: Path, **options: Any) -> Store:
    path = real_data("field-cases") / name
    source = "grib" if path.suffix.startswith(".grib") else "netcdf"
    chosen = {"statics": ("coslat",), "train": "1800/2299"} | options
    return build_store(source=source, path=path, out=out / "store", **chosen)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    (
        ("met-ecmwf-ml.nc", {}, "t lies on 11 model levels, model_level .*interpolate"),
        ("t_year_missing.grib", {}, "a date without a year .*the file is whole"),
        ("global.grib2", {}, "forecast steps -28587 .*the file is whole"),
        ("CMC_glb_TMP_ISBL_1015_ps30km_2013052000_P006.grib2", {}, "6 h ahead, .*--lead 6h"),
        ("CMC_glb_TMP_ISBL_1015_ps30km_2013052000_P006.grib2", {"lead": "6h"}, "take a part of the gr.*--region"),
        ("s02_download.zip", {}, r"tp is accumulated, .*--product \(era5, .*--window tp=WINDOW"),
        ("s02_download.zip", {"product": "era5"}, "stream-wave.* for swh; .*stream-oper.*--leave_out swh"),
        ("s10_wrap.nc", {}, "at 0 and at 360 degrees east.*--region"),
        ("s17b_cams.nc", {}, "comes from forecasts 12 h ahead, .*--lead 12h"),
        ("s20_moda.nc", {}, "a mean over many days"),
        ("s21_groups.nc", {}, "groups, data; .*--group data"),
        ("s25_o.nc", {"statics": None}, "orography states no units"),
        ("s40_nolevel.nc", {}, "does not say on which it lies; .*--at_level 850"),
        ("s43d_ml.nc", {}, "level 60, 96, 137; .*look like model levels.*--levels_are pressure"),
    ),
)
def test_what_is_refused_says_what_goes_on(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"(?s){message}"):
        build(name, tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "sources"),
    one_in(
        3,
        (
            ("met-era5-cocip1.nc", {}, {"t": "air_temperature", "w": "lagrangian_tendency_of_air_pressure"}),
            ("met-ecmwf-sl.nc", {}, {"sp": "sp"}),
            ("s03_a_old.nc", {}, {"2t": "t2m", "z": "z"}),
            ("s05_t.nc", {}, {"2t": "t2m"}),
            ("s17_cams.nc", {}, {"2t": "t2m", "t": "t"}),
            ("s17b_cams.nc", {"lead": "12h"}, {"2t": "t2m", "t": "t"}),
            ("s17c_cams.nc", {}, {"2t": "t2m"}),
            ("s18_daily.nc", {"variables": ("2t", "tp")}, {"2t": "t2m", "tp": "tp"}),
            ("s26_both.nc", {}, {"z": "z"}),
            ("s38_scalar.nc", {}, {"2t": "t2m", "t": "t", "z": "z"}),
            ("s40_nolevel.nc", {"at_level": 850.0, "variables": ("2t", "t")}, {"2t": "t2m", "t": "t"}),
            ("s43d_ml.nc", {"levels_are": "pressure"}, {"t": "t"}),
            ("s45_cmip.nc", {}, {"2t": "tas", "10u": "uas", "msl": "psl", "t": "ta", "q": "hus"}),
        ),
    ),
)
def test_values_are_those_of_the_file(
    name: str, options: dict[str, Any], sources: dict[str, str], tmp_path: Path
) -> None:
    """Against xarray, whatever the order of dimensions, to the packing's step."""
    store = build(name, tmp_path, **options)
    with xr.open_dataset(real_data("field-cases") / name, decode_times=False) as opened:
        for ours, theirs in sources.items():
            expected = np.sort(opened[theirs].values.astype(np.float64).ravel())
            found = np.sort(store.read(ours, slice(None)).astype(np.float64).ravel())
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_times_and_windows_that_are_meant(tmp_path: Path) -> None:
    hourly = build("s05_t.nc", tmp_path / "a").times
    assert (np.diff(hourly) == np.timedelta64(1, "h")).all()
    assert (hourly == hourly.astype("datetime64[h]")).all()
    daily = build("s18_daily.nc", tmp_path / "b")
    assert daily.variable_attributes("tp")["accumulation_hours"] == 24
    assert daily.variable_attributes("2t")["averaging_hours"] == 24
    # Means and sums of days end at the midnight after; states of that moment stand beside them.
    with xr.open_dataset(real_data("field-cases") / "s18_daily.nc") as opened:
        np.testing.assert_array_equal(daily.times, opened["valid_time"].values[1:].astype("datetime64[s]"))
        for ours, theirs in (("2t", opened["t2m"][:-1]), ("tp", opened["tp"][:-1]), ("msl", opened["msl"][1:])):
            np.testing.assert_allclose(daily.read(ours, slice(None)), theirs.values, rtol=1e-6)
    ahead = build("s17b_cams.nc", tmp_path / "c", lead="12h")
    assert ahead.variable_attributes("t")["lead_hours"] == 12
    assert ahead.times[0] == np.datetime64("2020-01-01T12:00:00")
    scalar = build("s38_scalar.nc", tmp_path / "d")
    assert (scalar.levels, scalar.surface) == ((850,), ("10u", "10v", "2t", "msl"))


def test_the_final_version_stands(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    for name in ("s03_a_old.nc", "s03_b_new.nc"):
        (folder / name).write_bytes((real_data("field-cases") / name).read_bytes())
    store = build_store(source="netcdf", path=folder, out=tmp_path / "store", statics=("coslat",))
    with netCDF4.Dataset(folder / "s03_b_new.nc") as final:
        np.testing.assert_array_equal(store.read("2t", slice(None)), final["t2m"][:])
    assert any("ERA5 and ERA5T combined" in note for note in store.attributes["history"])


@pytest.mark.slow
def test_orography_without_units_can_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        build("s25_o.nc", tmp_path, statics=None)
    named = re.search(r"--leave_out (\S+)", str(caught.value))
    assert named is not None
    store = build("s25_o.nc", tmp_path, statics=None, leave_out=(named[1],))
    assert (store.static, "z" in store.atmospheric) == (("lsm",), True)


def test_the_region_that_a_message_names_goes_on(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        build("s10_wrap.nc", tmp_path)
    named = re.search(r"--region (\S+)", str(caught.value))
    assert named is not None
    store = build("s10_wrap.nc", tmp_path, region=tuple(map(float, named[1].split(","))))
    assert store.longitude.tolist() == list(range(30, 331, 30))
