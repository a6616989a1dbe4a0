from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.coordinates import canonical_coordinates
from kit.data.sources.fields import canonical_name, canonical_values
from kit.io.errors import StoreError


def field(
    *,
    latitude: Any = (10.0, 0.0, -10.0),
    longitude: Any = (0.0, 90.0, 180.0, 270.0),
    names: tuple[str, str] = ("latitude", "longitude"),
    **extra: Any,
) -> xr.Dataset:
    """One field whose values are 10 x row + column."""
    values = 10.0 * np.arange(len(latitude))[:, None] + np.arange(len(longitude))
    return xr.Dataset(
        {"t2m": (names, values, {"units": "K"})},
        coords={names[0]: np.asarray(latitude), names[1]: np.asarray(longitude), **extra},
    )


def canonical(dataset: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    notes: list[str] = []
    return canonical_coordinates(dataset, "a.nc", notes.append), notes


def test_a_field_in_order_stays_as_it_is() -> None:
    dataset, notes = canonical(field())
    assert notes == []
    np.testing.assert_array_equal(dataset["t2m"], field()["t2m"])


def test_latitudes_are_flipped_with_their_values() -> None:
    dataset, notes = canonical(field(latitude=(-10.0, 0.0, 10.0)))
    assert notes == ["latitudes flipped to decrease"]
    assert dataset["latitude"].values.tolist() == [10, 0, -10]
    assert dataset["t2m"].values[:, 0].tolist() == [20, 10, 0]


def test_longitudes_are_shifted_with_their_values() -> None:
    dataset, notes = canonical(field(longitude=(-180.0, -90.0, 0.0, 90.0), names=("lat", "lon")))
    assert notes == ["longitudes shifted to [0, 360)"]
    assert dataset["longitude"].values.tolist() == [0, 90, 180, 270]
    assert dataset["t2m"].values[0].tolist() == [2, 3, 0, 1]


def test_a_western_box_is_shifted() -> None:
    dataset, _ = canonical(field(longitude=(-125.0, -120.0, -115.0)))
    assert dataset["longitude"].values.tolist() == [235, 240, 245]


def test_the_meridian_given_twice_is_kept_once() -> None:
    dataset, notes = canonical(field(longitude=(0.0, 90.0, 180.0, 270.0, 360.0)))
    assert dataset["longitude"].values.tolist() == [0, 90, 180, 270]
    assert any("kept once" in note for note in notes)


def test_a_box_across_greenwich_has_its_west_last() -> None:
    dataset, notes = canonical(field(longitude=(-10.0, -5.0, 0.0, 5.0, 10.0)))
    assert dataset["longitude"].values.tolist() == [0, 5, 10, 350, 355]
    assert dataset["t2m"].values[0].tolist() == [2, 3, 4, 0, 1]
    assert notes[1:] == ["the box crosses Greenwich: columns from 350 degrees east stand last"]


def test_two_boxes_are_refused() -> None:
    with pytest.raises(StoreError, match=r"a.nc: longitudes 0 to 60 have a hole between 10 and 50 degrees east"):
        canonical(field(longitude=(0.0, 5.0, 10.0, 50.0, 55.0, 60.0)))


def test_single_precision_coordinates_mean_their_decimals() -> None:
    latitude = np.array([10.3, 10.2, 10.1], dtype=np.float32)
    dataset, _ = canonical(field(latitude=latitude, longitude=np.array([359.8, 359.9], dtype=np.float32)))
    assert dataset["latitude"].values.tolist() == [10.3, 10.2, 10.1]
    assert dataset["longitude"].values.tolist() == [359.8, 359.9]


def test_dimensions_come_in_the_order_of_the_store() -> None:
    coords = {"latitude": [1.0, 0.0], "longitude": [0.0, 1.0], "level": [850.0, 500.0]}
    source = xr.Dataset({"t": (("level", "longitude", "latitude"), np.arange(8.0).reshape(2, 2, 2))}, coords=coords)
    dataset, notes = canonical(source)
    assert dataset["t"].dims == ("level", "latitude", "longitude")
    assert dataset["level"].values.tolist() == [500, 850]
    assert notes == []
    # Level 500 was the second one; its first column of longitudes becomes the row of latitudes.
    assert dataset["t"].values[0].tolist() == [[4, 6], [5, 7]]


@pytest.mark.parametrize("level", ([500.0, 500.0], [50000.0, 85000.0], [0.0, 500.0]))
def test_levels_are_distinct_pressures(level: list[float]) -> None:
    with pytest.raises(StoreError, match="a.nc: levels must be distinct pressures between 0 and 1100 hPa, found"):
        canonical(field(level=("level", level, {"units": "hPa"})))


def test_other_coordinates_are_dropped() -> None:
    dataset, _ = canonical(field(heightAboveGround=2.0, surface=0.0))
    assert set(dataset.coords) == {"latitude", "longitude"}


def test_other_calendars_are_refused() -> None:
    with pytest.raises(StoreError, match="times of the type int64"):
        canonical(field(time=("time", [1, 2])))


def test_names_and_units() -> None:
    notes: list[str] = []
    source = xr.DataArray([[20.0]], dims=("latitude", "longitude"), name="VAR_2T", attrs={"units": "degC"})
    name, variable = canonical_name(source)
    assert name == "2t"
    values = canonical_values(source, name, variable, "a.nc", notes.append)
    assert values.dtype == np.float32
    assert values.item() == pytest.approx(293.15)
    assert values.attrs["units"] == "K"
    assert values.attrs["standard_name"] == "air_temperature"
    assert notes == ["2t converted from degC to K"]


def test_a_static_in_disguise_and_a_stranger() -> None:
    dims = ("latitude", "longitude")
    assert canonical_name(xr.DataArray([[0.0]], dims=dims, name="z"))[0] == "static_z"
    assert canonical_name(xr.DataArray([[0.0]], dims=dims, name="static_lsm"))[0] == "static_lsm"
    assert canonical_name(xr.DataArray([[[0.0]]], dims=("level", *dims), name="z"))[0] == "z"
    assert canonical_name(xr.DataArray([[0.0]], dims=dims, name="my-index")) == ("my_index", None)
    named = xr.DataArray([[0.0]], dims=dims, name="var167", attrs={"GRIB_shortName": "2t"})
    assert canonical_name(named)[0] == "2t"
