"""ERA5 beside ERA5T in one file, as a dimension of versions or along the times, from NetCDF and from Zarr."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.zarr_files import write as write_zarr
from tests.everyday import one_in

TIMES = np.datetime64("2024-01-01T00", "ns") + np.arange(4) * np.timedelta64(6, "h")
VALUES = 280 + np.arange(4 * 3 * 4, dtype=np.float32).reshape(4, 3, 4)
DIMS = ("valid_time", "latitude", "longitude")


def fields(values: Any, times: Any = TIMES) -> xr.Dataset:
    data = {"t2m": (DIMS, values, {"units": "K"}), "msl": (DIMS, 100000 + 0 * values, {"units": "Pa"})}
    coords = {"valid_time": times, "latitude": [50.0, 49.75, 49.5], "longitude": [0.0, 0.25, 0.5, 0.75]}
    return xr.Dataset(data, coords)


def build(dataset: xr.Dataset, folder: Path, source: str) -> Store:
    if source == "netcdf":
        path = folder / "a.nc"
        dataset.to_netcdf(path)
    else:
        path = write_zarr(dataset, folder / "a.zarr", form=int(source[-1]))
    return build_store(
        source=source.rstrip("23"), path=path, out=folder / "store", statics=("coslat",), train="2024/2024"
    )


@pytest.mark.parametrize("source", ("netcdf", "zarr2", "zarr3"))
@pytest.mark.parametrize("versions", one_in(3, ([1, 5], [5, 1], ["0005", "0001"])))
def test_a_dimension_of_versions(tmp_path: Path, source: str, versions: list[Any]) -> None:
    """Final values of the first two states, preliminary ones of all."""
    final = fields(VALUES).where(xr.DataArray([True, True, False, False], dims="valid_time"))
    parts = {1: final, 5: fields(VALUES + 1000)}
    dataset = xr.concat([parts[int(version)] for version in versions], dim="expver").assign_coords(expver=versions)
    for name, units in (("t2m", "K"), ("msl", "Pa")):
        dataset[name].attrs["units"] = units
    if source != "netcdf":
        dataset = dataset.transpose("valid_time", "expver", ...)
    store = build(dataset, tmp_path, source)
    expected = np.concatenate([VALUES[:2], VALUES[2:] + 1000])
    np.testing.assert_array_equal(store.read("2t", slice(None)), expected)
    combined = "ERA5 and ERA5T combined: preliminary values where there are no final ones"
    assert store.attributes["history"].count(combined) == 1


@pytest.mark.parametrize("source", ("netcdf", "zarr2", "zarr3"))
def test_versions_along_times_that_come_twice(tmp_path: Path, source: str) -> None:
    """The third state comes in both versions, the fourth in the preliminary one alone."""
    values = np.concatenate([VALUES[:3], VALUES[2:3] + 500, VALUES[3:] + 500])
    dataset = fields(values, TIMES[[0, 1, 2, 2, 3]])
    dataset["expver"] = ("valid_time", np.array(["0001", "0001", "0001", "0005", "0005"]))
    store = build(dataset, tmp_path, source)
    np.testing.assert_array_equal(store.read("2t", slice(None)), np.concatenate([VALUES[:3], VALUES[3:] + 500]))
    assert "2t: 1 of 4 states are preliminary (ERA5T)" in store.attributes["history"]


def in_chunks(folder: Path, form: Any, fill: float) -> Path:
    """A store in chunks of one version and two states; the second chunk of final values is absent."""
    final = fields(VALUES)["t2m"].where(xr.DataArray([True, True, False, False], dims="valid_time"))
    early = fields(VALUES + 1000)["t2m"]
    field = xr.concat([early, final], dim="expver").assign_coords(expver=[5, 1]).transpose("valid_time", ...)
    field.attrs["units"] = "K"
    encoding = {"t2m": {"_FillValue" if form == 2 else "fill_value": np.float32(fill)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        field.to_dataset().chunk(valid_time=2, expver=1).to_zarr(folder, zarr_format=form, encoding=encoding)
    chunk_at(folder, form, 1).unlink(missing_ok=True)
    return folder


def chunk_at(folder: Path, form: int, version: int) -> Path:
    """The chunk of the last two states of a version."""
    return folder / "t2m" / (f"1.{version}.0.0" if form == 2 else f"c/1/{version}/0/0")


def build_there(path: Path, out: Path) -> Store:
    return build_store(source="zarr", path=path, out=out, statics=("coslat",), train="2024/2024")


@pytest.mark.parametrize("form", (2, 3))
def test_a_chunk_may_be_absent_where_another_version_has_it(tmp_path: Path, form: int) -> None:
    path = in_chunks(tmp_path / "a.zarr", form, np.nan)
    store = build_there(path, tmp_path / "store")
    expected = np.concatenate([VALUES[:2], VALUES[2:] + 1000])
    np.testing.assert_array_equal(store.read("2t", slice(None)), expected)
    # Where no version has it, it was lost.
    chunk_at(path, form, 0).unlink()
    with pytest.raises(StoreError, match=r"chunk 1.[01].0.0 of t2m is absent at 2024-01-01T12:00 and 1 more times"):
        build_there(path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_absent_chunk_that_would_be_zeros_is_no_missing_value(tmp_path: Path) -> None:
    path = in_chunks(tmp_path / "a.zarr", 3, 0.0)
    with pytest.raises(StoreError, match=r"chunk 1/1/0/0 of t2m is absent .*fill value \(0.0\)"):
        build_there(path, tmp_path / "store")
