"""Meridians that come twice: equal ones are one, others are refused."""

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.base import Pieces, Request
from kit.io.errors import StoreError

LONGITUDES = np.arange(0.0, 361.0, 45.0)


def globe(last: float, longitudes: np.ndarray = LONGITUDES) -> xr.Dataset:
    """Temperatures around the globe, whose last column differs from the first by so much."""
    values = np.broadcast_to(250 + np.arange(9.0), (2, 3, 9)).copy()
    values[..., -1] = values[..., 0]
    values[1, 2, -1] += last
    times = np.array(["2020-01-01T00", "2020-01-01T06"], "datetime64[s]")
    coords = {"time": times, "lat": [45.0, 0.0, -45.0], "lon": longitudes}
    return xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": "K"})}, coords)


@pytest.mark.parametrize("longitudes", (LONGITUDES, LONGITUDES - 180))
def test_equal_columns_are_one(longitudes: np.ndarray) -> None:
    pieces = Pieces()
    pieces.add(globe(0.0, longitudes), "a.nc")
    (field,) = pieces.merged().values()
    assert field.sizes["longitude"] == 8
    assert "the meridian that the source gave twice was kept once" in pieces.notes


@pytest.mark.parametrize("longitudes", (LONGITUDES, LONGITUDES - 180))
def test_columns_that_differ_are_refused(longitudes: np.ndarray) -> None:
    pattern = r"a\.nc: t2m at .* differs by up to 5\.9 K \(time 2020-01-01T06.*, lat.* -45.*--region"
    with pytest.raises(StoreError, match=pattern):
        Pieces().add(globe(5.9, longitudes), "a.nc")


def test_the_step_of_packing_is_no_difference() -> None:
    dataset = globe(0.01)
    dataset["t2m"].encoding["scale_factor"] = 0.01
    Pieces().add(dataset, "a.nc")
    with pytest.raises(StoreError, match="differs by up to"):
        Pieces().add(globe(0.01), "a.nc")


def test_a_region_without_the_meridian_goes_on() -> None:
    pieces = Pieces(Request(region=(90.0, 45.0, -90.0, 315.0)))
    pieces.add(globe(5.9), "a.nc")
    (field,) = pieces.merged().values()
    assert field["longitude"].values.tolist() == [45, 90, 135, 180, 225, 270, 315]
