"""Two arrays of one variable in a file: one is taken if they are equal, and both are named if they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.base import Request, SourceData
from kit.data.sources.netcdf import open_source
from kit.data.sources.zarr.source import open_source as open_zarr
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form, write
from tests.data.sources.test_levels import read

G = 9.80665


def both(*, packed: bool = False, noise: float = 0.0) -> xr.Dataset:
    """Geopotential in m2 s-2 and as a height, in single precision or in 16 bits each."""
    dataset = new_form(("z",), levels=(500, 850))
    truth = 14000 + 40000 * np.random.default_rng(1).random(dataset["z"].shape)
    dataset["z"] = dataset["z"].copy(data=truth.astype(np.float32))
    dataset["gh"] = (dataset["z"].astype(np.float64) / G + noise).astype(np.float32).assign_attrs(units="gpm")
    if packed:
        for name in ("z", "gh"):
            low, high = float(dataset[name].min()), float(dataset[name].max())
            dataset[name].encoding = {
                "dtype": "int16",
                "_FillValue": -32768,
                "scale_factor": (high - low) / 65000,
                "add_offset": (low + high) / 2,
            }
    return dataset


def zarr(dataset: xr.Dataset, path: Path) -> SourceData:
    dataset.to_zarr(path, zarr_format=2)
    with open_zarr([path], Request()) as source:
        return source


@pytest.mark.parametrize("packed", (False, True))
def test_what_is_equal_is_taken_once(tmp_path: Path, packed: bool) -> None:
    write(both(packed=packed), tmp_path / "a.nc")
    source = read(tmp_path)
    with xr.open_dataset(tmp_path / "a.nc", engine="netcdf4") as original:
        np.testing.assert_array_equal(source.fields["z"], original["z"].astype(np.float32))
    assert "z taken from z; gh holds the same" in source.notes


def test_a_contradiction_names_both(tmp_path: Path) -> None:
    write(both(noise=3.0), tmp_path / "a.nc")
    with pytest.raises(
        StoreError, match=r"a.nc: z and gh are both z, and differ by up to 29.4\d* m2 s-2; keep one .* gh IN"
    ):
        read(tmp_path)
    # Nobody asks for it.
    with open_source([tmp_path], Request(variables=frozenset())) as source:
        assert source.fields == {}


def test_zarr_compares_as_well(tmp_path: Path) -> None:
    dataset = both().drop_vars(["expver", "number"])
    assert "z taken from z; gh holds the same" in zarr(dataset, tmp_path / "a.zarr").notes
    with pytest.raises(StoreError, match="z and gh are both z, and differ"):
        zarr(both(noise=3.0).drop_vars(["expver", "number"]), tmp_path / "b.zarr")


def test_a_name_comes_before_a_description(tmp_path: Path) -> None:
    dataset = new_form(("t", "smoothed"), levels=(500, 850))
    dataset["smoothed"].attrs = {"units": "K", "standard_name": "air_temperature"}
    write(dataset, tmp_path / "a.nc")
    source = read(tmp_path)
    np.testing.assert_array_equal(source.fields["t"], dataset["t"])
    assert "t taken from t; smoothed, which is described as the same, left out" in source.notes
    # Alone it is what it says.
    write(dataset.drop_vars("t"), tmp_path / "a.nc")
    np.testing.assert_array_equal(read(tmp_path).fields["t"], dataset["smoothed"])


def test_extremes_and_rates_are_no_states(tmp_path: Path) -> None:
    dataset = new_form(("msl", "tasmax", "rsds", "tas"))
    dataset["tasmax"].attrs = {"units": "K", "standard_name": "air_temperature", "cell_methods": "time: maximum"}
    dataset["rsds"].attrs = {"units": "W m-2", "standard_name": "surface_downwelling_shortwave_flux_in_air"}
    dataset["tas"].attrs = {"units": "K", "standard_name": "air_temperature"}
    write(dataset.assign_coords(height=2.0), tmp_path / "a.nc")
    source = read(tmp_path)
    assert sorted(source.fields) == ["2t", "msl"]
    np.testing.assert_array_equal(source.fields["2t"], dataset["tas"])


def test_a_temperature_of_no_height_is_none_at_2_metres(tmp_path: Path) -> None:
    dataset = new_form(("msl", "temp"))
    dataset["temp"].attrs = {"units": "K", "standard_name": "air_temperature"}
    write(dataset, tmp_path / "a.nc")
    with pytest.raises(StoreError, match="temp is a field on pressure levels, and the file does not say on which"):
        read(tmp_path)
    write(dataset.assign_coords(height=2.0), tmp_path / "a.nc")
    np.testing.assert_array_equal(read(tmp_path).fields["2t"], dataset["temp"])
    dataset["temp"].attrs["long_name"] = "2 metre temperature"
    write(dataset, tmp_path / "a.nc")
    np.testing.assert_array_equal(read(tmp_path).fields["2t"], dataset["temp"])
