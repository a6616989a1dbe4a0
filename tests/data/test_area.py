"""Areas of rows; ``kit.metrics`` takes the same."""

from __future__ import annotations

import numpy as np
import pytest

from kit.data.grid import area_weights, cell_areas, corners
from kit.metrics import scores
from tests.factories import LAMBERT, synthetic_dataset


def test_rows_weigh_what_they_cover() -> None:
    # Edges at 90, 60, 0, -60 and -90 degrees: areas 1 - sin 60, sin 60, sin 60, 1 - sin 60, which sum to 2.
    sine = np.sqrt(3) / 2
    found = area_weights([90, 30, -30, -90])
    np.testing.assert_allclose(found, 2 * np.array([1 - sine, sine, sine, 1 - sine]), rtol=1e-14)
    assert area_weights([45.0]).tolist() == [1.0]


def test_scores_weigh_alike() -> None:
    rows = np.linspace(80, -60, 29)
    assert scores.area_weights(rows).tolist() == area_weights(rows).tolist()


def test_matrices_of_a_regular_grid_weigh_as_its_rows_do() -> None:
    for rows in (np.linspace(90, -90, 19), np.linspace(60, 20, 9)):
        latitude, longitude = np.meshgrid(rows, np.arange(0, 360, 10.0), indexing="ij")
        found = area_weights(latitude, longitude)
        np.testing.assert_allclose(found, np.broadcast_to(area_weights(rows)[:, None], found.shape), rtol=1e-12)
        assert scores.area_weights(latitude, longitude).tolist() == found.tolist()


def test_cells_of_a_globe_cover_it() -> None:
    latitude, longitude = np.meshgrid(np.linspace(85, -85, 18), np.arange(0, 360, 10.0) + 5, indexing="ij")
    assert cell_areas(latitude, longitude).sum() == pytest.approx(4 * np.pi, rel=1e-12)


def test_cells_of_a_conformal_grid_shrink_with_the_square_of_its_scale() -> None:
    """Snyder (1987), 15-4 with one standard parallel p: k = cos p / cos lat (tan(45 + p/2) / tan(45 + lat/2))^sin p."""
    dataset = synthetic_dataset(curvilinear=True, times=1, height=32, width=64)
    latitude = np.deg2rad(dataset["latitude"].values)
    middle = np.deg2rad(LAMBERT["standard_parallel"])
    ratio = np.tan(np.pi / 4 + middle / 2) / np.tan(np.pi / 4 + latitude / 2)
    scale = np.cos(middle) / np.cos(latitude) * ratio ** np.sin(middle)
    expected = scale**-2 / (scale**-2).mean()
    found = area_weights(dataset["latitude"], dataset["longitude"])
    # Edges are halved in degrees, and the outermost cells are drawn on.
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=2e-4)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    # Steradians: squares of 50 km on a sphere, were the map true to scale.
    areas = cell_areas(dataset["latitude"].values, dataset["longitude"].values) * LAMBERT["earth_radius"] ** 2
    np.testing.assert_allclose(areas[1:-1, 1:-1], (50e3 / scale[1:-1, 1:-1]) ** 2, rtol=2e-4)


def test_corners_lie_between_centres() -> None:
    found = corners(np.array([[2.0, 4.0], [0.0, 2.0]]))
    assert found.tolist() == [[2, 4, 6], [0, 2, 4], [-2, 0, 2]]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    (
        ([], "not empty"),
        ([[[1.0]]], "a vector or a matrix"),
        ([[1.0]], "longitudes of the latitudes' shape"),
        ([91, 0], "lie in"),
        ([0, 1], "strictly decrease, but row 1"),
    ),
)
def test_other_rows_are_refused(rows: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        area_weights(rows)
