"""Regions: boxes, land and sea, polygons, and what is said of those that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.io.errors import SettingsError
from kit.verification.regions import ALL, BOXES, DEFAULT, regions_on

LATITUDE = np.linspace(88.75, -88.75, 72)
LONGITUDE = np.arange(0, 360, 2.5)
NORTH, EAST = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")


def inside(name: str, **options: Any) -> np.ndarray:
    found = regions_on((name,), LATITUDE, LONGITUDE, **options)
    return np.asarray(found.weights[0] > 0)


def test_default_regions_of_the_globe_and_of_a_box() -> None:
    assert regions_on(None, LATITUDE, LONGITUDE).names == DEFAULT
    # Europe lies in the northern hemisphere altogether: nothing but the whole is worth a name.
    assert regions_on(None, np.linspace(55, 45, 5), np.linspace(0, 10, 5)).names == (ALL,)
    assert regions_on(None, np.linspace(30, 10, 5), np.linspace(0, 10, 5)).names == (
        ALL, "northern-hemisphere", "tropics",
    )  # fmt: skip


@pytest.mark.parametrize("name", BOXES)
def test_boxes_by_degrees(name: str) -> None:
    north, west, south, east = BOXES[name]
    rows = (north >= NORTH) & (south <= NORTH)
    columns = (EAST - west) % 360 <= ((east - west) % 360 or 360)
    np.testing.assert_array_equal(inside(name), rows & columns)


def test_weights_are_the_cells_areas() -> None:
    found = regions_on((ALL, "tropics"), LATITUDE, LONGITUDE)
    assert found.weights[0].mean() == pytest.approx(1)
    # The sines of the edges of the rows from 18.75 degrees south to north, of 2.5 degrees each.
    assert found.weights[1].sum() / found.weights[0].sum() == pytest.approx(np.sin(np.deg2rad(20)), rel=1e-3)


def test_land_and_sea_divide_the_globe() -> None:
    land = np.where(EAST < 90, 0.5, 0.49).astype(np.float32)
    np.testing.assert_array_equal(inside("land", land=land), EAST < 90)
    np.testing.assert_array_equal(inside("sea", land=land), EAST >= 90)
    with pytest.raises(SettingsError, match="land needs a land-sea mask"):
        inside("land")


@pytest.mark.parametrize(("west", "east"), ((-10, 10), (350, 10), (-10, -350)))
def test_own_boxes_across_greenwich(west: float, east: float) -> None:
    expected = (np.abs(NORTH) <= 20) & ((EAST >= 350) | (EAST <= 10))
    np.testing.assert_array_equal(inside(f"mine=20/{west}/-20/{east}"), expected)


def polygon(*rings: list[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": rings}


def square(west: float, south: float, east: float, north: float) -> list[tuple[float, float]]:
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


@pytest.mark.parametrize("wrapped", (False, True))
def test_polygons_with_holes_in_every_form(tmp_path: Path, wrapped: bool) -> None:
    shape: dict[str, Any] = polygon(square(-21, -21, 21, 21), square(-6, -6, 6, 6))
    other = {"type": "MultiPolygon", "coordinates": [[square(101, 31, 121, 41)]]}
    document = {"type": "GeometryCollection", "geometries": [shape, other]}
    if wrapped:
        features = [{"type": "Feature", "properties": {}, "geometry": part} for part in (shape, other)]
        document = {"type": "FeatureCollection", "features": features}
    file = tmp_path / "mine.geojson"
    file.write_text(json.dumps(document))
    west = (EAST + 180) % 360 - 180
    ring = (np.abs(NORTH) < 21) & (np.abs(west) < 21) & ~((np.abs(NORTH) < 6) & (np.abs(west) < 6))
    far = (NORTH > 31) & (NORTH < 41) & (EAST > 101) & (EAST < 121)
    np.testing.assert_array_equal(inside(f"mine={file}"), ring | far)


@pytest.mark.parametrize(
    ("name", "said"),
    (
        ("europ", "did you mean europe"),
        ("", "is no region"),
        ("mine=1/2/3", "expected NAME=NORTH/WEST/SOUTH/EAST"),
        ("mine=a/b/c/d", "expected NAME=NORTH/WEST/SOUTH/EAST"),
        ("mine=-20/0/20/10", "NORTH > SOUTH"),
        ("mine=nan/0/0/10", "NORTH > SOUTH"),
        ("mine=100/0/0/10", "90 >= NORTH"),
        ("mine=0.1/0.1/0/0.2", "holds no point"),
        ("mine=missing.geojson", "cannot be read as GeoJSON"),
    ),
)
def test_what_is_no_region(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        inside(name)


@pytest.mark.parametrize(
    "document",
    (
        [], {}, {"type": "Point", "coordinates": [1, 2]}, polygon([(0, 0), (1, 1)]), polygon([(0, 0)] * 4, []),
        polygon([(0, 0), (1, 0), (1, 95), (0, 0)]), {"type": "FeatureCollection", "features": 3},
        {"type": "Polygon", "coordinates": [[[0, "a"], [1, 0], [1, 1], [0, 0]]]}, {"type": "Polygon"},
        {"type": "Feature", "geometry": None},
    ),
)  # fmt: skip
def test_files_that_hold_no_polygons(tmp_path: Path, document: Any) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=r"mine.json: (cannot be read as GeoJSON|expected GeoJSON)"):
        inside(f"mine={file}")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(SettingsError, match="europe is named twice"):
        regions_on(("europe", "europe=10/0/0/10"), LATITUDE, LONGITUDE)
