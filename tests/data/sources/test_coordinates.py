"""Latitudes and longitudes by name, by CF's standard names or by their units; what is not in degrees is refused."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.coordinates import canonical_coordinates, coordinate_names
from kit.io.errors import StoreError

ROWS, COLUMNS = np.array([50.0, 49.75, 49.5]), np.array([5.0, 5.25])


def grid(rows: str, columns: str, of_rows: Any = None, of_columns: Any = None) -> xr.Dataset:
    values = np.arange(6.0).reshape(3, 2)
    coords = {rows: (rows, ROWS, of_rows or {}), columns: (columns, COLUMNS, of_columns or {})}
    return xr.Dataset({"t2m": ((rows, columns), values)}, coords)


@pytest.mark.parametrize(
    "dataset",
    (
        grid("Lat", "LON"),
        grid("lat_0", "lon_0", {"units": "degrees_north"}, {"units": "degrees_east"}),
        grid("g0_lat_1", "g0_lon_2", {"units": "degree_N"}, {"units": "degreesE"}),
        grid("south_north", "west_east", {"standard_name": "latitude"}, {"standard_name": "longitude"}),
        grid("y", "x", {"standard_name": "latitude", "units": "degrees"}, {"units": "degrees east"}),
        grid("lat", "lon", {"units": "degrees_north"}, {"units": "degrees_north"}),
    ),
)
def test_names_and_descriptions(dataset: xr.Dataset) -> None:
    ordered = canonical_coordinates(dataset, "a.nc", lambda _: None)
    assert ordered["t2m"].dims == ("latitude", "longitude")
    np.testing.assert_array_equal(ordered["latitude"], ROWS)
    np.testing.assert_array_equal(ordered["longitude"], COLUMNS)


@pytest.mark.parametrize(
    "dataset",
    (
        grid("rlat", "rlon", {"standard_name": "grid_latitude", "units": "degrees"}, {"units": "degrees"}),
        grid("y", "x", {"units": "m"}, {"units": "m"}),
        grid("y", "x"),
    ),
)
def test_what_is_no_latitude_is_not_taken_for_one(dataset: xr.Dataset) -> None:
    assert coordinate_names(dataset) == {}
    with pytest.raises(StoreError, match="latitude is needed as a vector"):
        canonical_coordinates(dataset, "a.nc", lambda _: None)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    (
        ({"units": "radians"}, {}, "latitude comes in 'radians', degrees north are expected; convert it"),
        ({}, {"units": "degrees_west"}, "longitude comes in 'degrees_west', degrees east are expected"),
        ({"units": "m"}, {"units": "m"}, "latitude comes in 'm', degrees north"),
        ({"units": "degrees_south"}, {}, "latitude comes in 'degrees_south'"),
    ),
)
def test_what_is_not_in_degrees_is_refused(rows: Any, columns: Any, message: str) -> None:
    with pytest.raises(StoreError, match=f"a.nc: {message}"):
        canonical_coordinates(grid("lat", "lon", rows, columns), "a.nc", lambda _: None)
