"""NetCDF and GRIB files that make up one data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.grib_files import LATITUDE, LONGITUDE, field, message
from tests.data.sources.grib_files import write as write_grib

TIMES = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12"], "datetime64[ns]")
STAMPS = [str(time)[:13] for time in TIMES]
ERA5: dict[str, Any] = {"setLocalDefinition": 1, "marsClass": "ea"}


def netcdf(path: Path, *, latitude: Any = LATITUDE, **fields: tuple[str, Any]) -> None:
    """A file with rows northwards; fields by name, with their units, [T, H, W] southwards."""
    dims = ("time", "latitude", "longitude")
    data = {name: (dims, np.asarray(values)[:, ::-1], {"units": units}) for name, (units, values) in fields.items()}
    path.parent.mkdir(exist_ok=True)
    xr.Dataset(data, {"time": TIMES, "latitude": latitude[::-1], "longitude": LONGITUDE}).to_netcdf(path)


def states(base: float) -> Any:
    return np.stack([field(base + index) for index in range(3)])


def build(folder: Path, out: Path, **options: Any) -> Store:
    chosen = {"statics": ("coslat",), "train": "2020/2020"} | options
    return build_store(source="files", path=folder, out=out / "store", **chosen)


def test_fields_of_both_kinds_make_one_store(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    netcdf(folder / "a.nc", t2m=("K", states(250)), msl=("Pa", states(100000)))
    waves = [message(field(index), param=140229, time=stamp) for index, stamp in enumerate(STAMPS)]
    # By its first bytes, as MARS names files after whatever the user says.
    write_grib(folder / "waves", *waves)
    store = build(folder, tmp_path)
    assert store.surface == ("2t", "msl", "swh")
    np.testing.assert_array_equal(store.read("2t", slice(None)), states(250))
    np.testing.assert_array_equal(store.read("swh", slice(None)), states(0))
    assert sorted(file["name"] for file in store.attributes["source_files"]) == ["a.nc", "waves"]


@pytest.mark.parametrize("kind", ("netcdf", "grib"))
def test_one_kind_alone_is_read_as_by_its_own_source(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    if kind == "netcdf":
        netcdf(folder / "a.nc", t2m=("K", states(250)))
    else:
        write_grib(folder / "a.grib", *(message(field(250 + i), time=stamp) for i, stamp in enumerate(STAMPS)))
    (tmp_path / "own").mkdir()
    chosen: dict[str, Any] = {"statics": ("coslat",), "train": "2020/2020"}
    own = build_store(source=kind, path=folder, out=tmp_path / "own" / "store", **chosen)
    store = build(folder, tmp_path)
    np.testing.assert_array_equal(store.read("2t", slice(None)), own.read("2t", slice(None)))
    assert store.attributes["history"] == own.attributes["history"]


def test_headers_of_grib_name_the_product_of_grib_alone(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    rain = [
        message(field(0) / 4096, param=228, time=stamp, edition=2, stepRange="0-1", stepType="accum", **ERA5)
        for stamp in ("2019-12-31T23", "2020-01-01T05", "2020-01-01T11")
    ]
    write_grib(folder / "rain.grib", *rain)
    netcdf(folder / "a.nc", t2m=("K", states(250)))
    store = build(folder, tmp_path)
    assert store.variable_attributes("tp")["accumulation_hours"] == 1
    assert store.variable_attributes("tp")["lead_hours"] == 0
    netcdf(folder / "b.nc", cp=("m", states(0) / 4096))
    with pytest.raises(StoreError, match=r"b\.nc: cp is accumulated.*--product"):
        build(folder, tmp_path / "again")


@pytest.mark.parametrize("apart", (0, 2))
def test_a_variable_of_both_kinds_is_taken_once_or_refused(apart: int, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    netcdf(folder / "a.nc", t2m=("K", states(250)))
    write_grib(folder / "a.grib", *(message(field(250 + i + apart), time=stamp) for i, stamp in enumerate(STAMPS)))
    if apart:
        with pytest.raises(StoreError, match=r"a\.grib and a\.nc both hold 2t at .*up to 2 apart"):
            build(folder, tmp_path)
        assert not (tmp_path / "store").exists()
    else:
        np.testing.assert_array_equal(build(folder, tmp_path).read("2t", slice(None)), states(250))


def test_grids_of_both_kinds_are_compared(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    netcdf(folder / "a.nc", latitude=LATITUDE + 1, t2m=("K", states(250)), msl=("Pa", states(100000)))
    write_grib(folder / "waves.grib", *(message(field(0), param=140229, time=stamp) for stamp in STAMPS))
    with pytest.raises(StoreError, match=r"waves\.grib has .* for swh; a\.nc has .* for .*--leave_out swh"):
        build(folder, tmp_path)
    assert build(folder, tmp_path, leave_out=("swh",)).surface == ("2t", "msl")


def test_a_folder_of_neither_kind(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("nothing")
    with pytest.raises(StoreError, match=r"no NetCDF or GRIB files \(.*files there end in \['\.txt'\]"):
        build(tmp_path / "in", tmp_path)


def test_files_of_the_other_kind_are_named_where_one_kind_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    netcdf(folder / "a.nc", t2m=("K", states(250)))
    write_grib(folder / "waves.grib", *(message(field(0), param=140229, time=stamp) for stamp in STAMPS))
    chosen: dict[str, Any] = {"statics": ("coslat",), "train": "2020/2020", "variables": ("2t", "swh")}
    with pytest.raises(StoreError, match=r"lack the variables swh.*waves\.grib.*--source files"):
        build_store(source="netcdf", path=folder, out=tmp_path / "store", **chosen)
    with pytest.raises(StoreError, match=r"lack the variables 2t.*a\.nc.*--source files"):
        build_store(source="grib", path=folder, out=tmp_path / "store", **chosen)
