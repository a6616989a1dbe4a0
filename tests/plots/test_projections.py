"""Projections, against pyproj; a curvilinear grid's own plane, against the projection that it was made in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import pytest

from kit.plots.projections import (
    Equirectangular,
    GridPlane,
    LambertConformal,
    PolarEqualArea,
    Projection,
    Robinson,
    suitable_projection,
)
from tests.factories import LAMBERT, synthetic_dataset


@pytest.mark.parametrize(
    ("projection", "same", "south", "north"),
    (
        (Robinson(), "+proj=robin", -90, 90),
        (Equirectangular(50.0), "+proj=eqc +lat_ts=50", -90, 90),
        (PolarEqualArea(90.0), "+proj=laea +lat_0=90", 20, 90),
        (PolarEqualArea(-90.0), "+proj=laea +lat_0=-90", -90, -20),
        (LambertConformal((40.0, 60.0), (50.0, 10.0)), "+proj=lcc +lat_1=40 +lat_2=60 +lat_0=50 +lon_0=10", 20, 85),
        (LambertConformal((-40.0, -40.0), (-40.0, 0.0)), "+proj=lcc +lat_1=-40 +lat_0=-40", -85, -20),
    ),
)
def test_projections_are_those_of_pyproj(projection: Projection, same: str, south: float, north: float) -> None:
    longitude, latitude = np.meshgrid(np.linspace(-170, 170, 35), np.linspace(south, north, 37))
    x, y = projection(longitude, latitude)
    expected_x, expected_y = pyproj.Proj(f"{same} +R=1")(longitude, latitude)
    np.testing.assert_allclose(x, expected_x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(y, expected_y, rtol=0, atol=1e-6)


def test_places_are_found_on_a_curvilinear_grid() -> None:
    """Rows and columns of a Lambert grid are straight and evenly spaced in Lambert's plane."""
    grid = synthetic_dataset(curvilinear=True, times=1)
    latitude, longitude = grid["latitude"].values, grid["longitude"].values
    plane = GridPlane(latitude, longitude)
    lambert = pyproj.Proj(pyproj.CRS.from_cf(LAMBERT))
    x, y = lambert(longitude, latitude)
    random = np.random.default_rng(0)
    rows, columns = random.uniform(-1, 16, 300), random.uniform(-1, 32, 300)
    places = lambert(x[0, 0] + columns * (x[0, 1] - x[0, 0]), y[0, 0] + rows * (y[1, 0] - y[0, 0]), inverse=True)
    found_x, found_y = plane(*places)
    # A hundred kilometres from point to point; between them the sphere is taken to be flat.
    np.testing.assert_allclose(found_x, columns, atol=3e-3)
    np.testing.assert_allclose(found_y, -plane.row_distance * rows, atol=3e-3)
    assert plane.row_distance == pytest.approx(1, abs=1e-3)


def test_places_far_from_a_curvilinear_grid_are_on_no_map() -> None:
    grid = synthetic_dataset(curvilinear=True, times=1)
    plane = GridPlane(grid["latitude"].values, grid["longitude"].values)
    x, y = plane([0.0, 100.0, 262.5, np.nan, 262.5], [0.0, -80.0, -38.5, 38.5, 38.5])
    assert np.isnan(x).tolist() == np.isnan(y).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("box", "closed", "expected"),
    (
        ((-180, -90, 180, 90), True, Robinson()),
        ((-180, 20, 180, 90), True, PolarEqualArea(90.0)),
        ((-180, -90, 180, -30), True, PolarEqualArea(-90.0)),
        ((-180, -20, 180, 20), True, Equirectangular(0.0)),
        ((0, 45, 10, 55), False, Equirectangular(50.0)),
        ((-12.5, 35, 42.5, 75), False, LambertConformal((35 + 40 / 6, 75 - 40 / 6), (55.0, 15.0))),
        ((-80, -60, -60, -10), False, LambertConformal((-60 + 50 / 6, -10 - 50 / 6), (-35.0, -70.0))),
        ((0, 70, 40, 90), False, Equirectangular(75.0)),
        ((0, -70, 40, 70), False, Equirectangular(0.0)),
    ),
)
def test_the_projection_suits_the_box(box: tuple[float, ...], closed: bool, expected: Any) -> None:
    west, south, east, north = box
    assert suitable_projection(west, south, east, north, closed=closed) == expected
