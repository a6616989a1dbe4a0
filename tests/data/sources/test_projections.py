"""Angles of projected and rotated grids, against differences of pyproj's own transformations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.sources.projections import angle_of_mapping, angle_of_points, mapping_of_grib
from kit.io.errors import StoreError
from tests.everyday import one_in

SPHERE = {"earth_radius": 6371229.0}
ELLIPSOID = {"semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563}
FIGURES = st.sampled_from([SPHERE, ELLIPSOID])
MERIDIANS = st.floats(-180, 180)


def plane(mapping: dict[str, Any], *, side: float = 4e5, x: float = 0.0, y: float = 0.0) -> tuple[Any, Any]:
    """Latitudes and longitudes of 6 x 7 points around a place of a projection's plane, the northernmost row first."""
    projection = pyproj.Proj(pyproj.CRS.from_cf(mapping))
    xs, ys = np.meshgrid(x + np.linspace(-side, side, 7), y + np.linspace(side, -side, 6))
    longitude, latitude = projection(xs, ys, inverse=True)
    return latitude, longitude


def from_differences(mapping: dict[str, Any], latitude: Any, longitude: Any) -> Any:
    """How far the y axis is east of north: how far the image of a meridian is west of the y axis."""
    projection = pyproj.Proj(pyproj.CRS.from_cf(mapping))
    step = 1e-4
    south, north = projection(longitude, latitude - step), projection(longitude, latitude + step)
    return -np.degrees(np.arctan2(north[0] - south[0], north[1] - south[1]))


def check(mapping: dict[str, Any], **place: float) -> None:
    latitude, longitude = plane(mapping, **place)
    degrees, said = angle_of_mapping(mapping, latitude, longitude, "a.nc: u")
    apart = (degrees - from_differences(mapping, latitude, longitude) + 180) % 360 - 180
    np.testing.assert_allclose(np.radians(apart), 0, atol=1e-6)
    assert mapping["grid_mapping_name"] in said
    # Longitudes may come in either range.
    again, _ = angle_of_mapping(mapping, latitude, longitude % 360, "a.nc: u")
    np.testing.assert_allclose((again - degrees + 180) % 360 - 180, 0, atol=1e-9)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(FIGURES, MERIDIANS, st.floats(15, 70), st.floats(0, 15), st.sampled_from([-1, 1]), st.floats(-2e6, 2e6))
def test_cones(figure: Any, meridian: float, parallel: float, apart: float, sign: int, x: float) -> None:
    for kind in ("lambert_conformal_conic", "albers_conical_equal_area"):
        mapping = {
            "grid_mapping_name": kind,
            "standard_parallel": [sign * parallel, sign * (parallel + apart)],
            "longitude_of_central_meridian": meridian,
            "latitude_of_projection_origin": sign * parallel,
        }
        check(mapping | figure, x=x)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(FIGURES, MERIDIANS, st.sampled_from([-90.0, 90.0]), st.floats(-3e6, 3e6), st.sampled_from([-3e6, 3e6]))
def test_polar_stereographic_grids(figure: Any, meridian: float, pole: float, x: float, y: float) -> None:
    mapping = {
        "grid_mapping_name": "polar_stereographic",
        "straight_vertical_longitude_from_pole": meridian,
        "latitude_of_projection_origin": pole,
        "standard_parallel": pole * 2 / 3,
    }
    check(mapping | figure, x=x, y=y)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(FIGURES, MERIDIANS, st.floats(-75, 75), st.floats(-1e6, 1e6))
def test_transverse_and_oblique_projections(figure: Any, meridian: float, latitude: float, x: float) -> None:
    transverse = {
        "grid_mapping_name": "transverse_mercator",
        "longitude_of_central_meridian": meridian,
        "latitude_of_projection_origin": latitude,
        "scale_factor_at_central_meridian": 0.9996,
    }
    azimuthal = {
        "grid_mapping_name": "lambert_azimuthal_equal_area",
        "longitude_of_projection_origin": meridian,
        "latitude_of_projection_origin": latitude,
    }
    for mapping in (transverse, azimuthal, azimuthal | {"grid_mapping_name": "stereographic"}):
        check(mapping | figure, x=x)


def test_an_oblique_mercator_grid() -> None:
    mapping = {
        "grid_mapping_name": "oblique_mercator",
        "azimuth_of_central_line": 35.0,
        "latitude_of_projection_origin": 40.0,
        "longitude_of_projection_origin": -110.0,
        "scale_factor_at_projection_origin": 1.0,
    }
    projection = pyproj.Proj(pyproj.CRS.from_cf(mapping))
    x, y = projection(-105.0, 38.0)
    check(mapping, x=x, y=y)


@settings(max_examples=15, deadline=None)
@given(st.floats(-89, 89), MERIDIANS, st.floats(-60, 60), st.floats(-170, 170))
def test_rotated_grids(pole_latitude: float, pole_longitude: float, latitude: float, longitude: float) -> None:
    mapping = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": pole_latitude,
        "grid_north_pole_longitude": pole_longitude,
    }
    # PROJ's rotation, of which the y axis is a step in rotated latitude.
    rotation = pyproj.Proj(proj="ob_tran", o_proj="longlat", o_lon_p=0, o_lat_p=pole_latitude,
                           lon_0=180 + pole_longitude, R=6371229)  # fmt: skip
    x, y = np.meshgrid(longitude + np.linspace(-4, 4, 7), latitude + np.linspace(4, -4, 6))
    points, step = [], 1e-3
    for rows in (y, y - step, y + step):
        east, north = rotation(np.radians(x), np.radians(rows), inverse=True)
        points.append((north, east))
    (north, east), south_of, north_of = points
    eastwards = ((north_of[1] - south_of[1] + 180) % 360 - 180) * np.cos(np.radians(north))
    expected = np.degrees(np.arctan2(eastwards, north_of[0] - south_of[0]))
    degrees, said = angle_of_mapping(mapping, north, east, "a.nc: u")
    # Close to the geographic poles differences are poor.
    far = np.abs(north) < 85
    apart = np.radians((degrees - expected + 180) % 360 - 180)
    np.testing.assert_allclose(apart[far], 0, atol=1e-6)
    assert said.startswith("by the bearing of the rotated pole at ")


def test_the_axes_of_a_mercator_grid_are_east_and_north() -> None:
    mapping = {"grid_mapping_name": "mercator", "longitude_of_projection_origin": 170.0}
    latitude, longitude = np.meshgrid(np.linspace(10, 0, 6), np.linspace(160, 200, 7), indexing="ij")
    degrees, _ = angle_of_mapping(mapping, latitude, (longitude + 180) % 360 - 180, "a.nc: u")
    assert not degrees.any()


LCC = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": [30.0, 60.0],
    "longitude_of_central_meridian": -100.0,
    "latitude_of_projection_origin": 45.0,
}


@pytest.mark.parametrize(("figure", "said"), [(SPHERE, "on a sphere"), (ELLIPSOID, "on the ellipsoid WGS 84")])
def test_a_mapping_without_a_figure_of_the_earth_takes_that_of_its_points(figure: Any, said: str) -> None:
    latitude, longitude = plane(LCC | figure, x=1.2e6)
    degrees, origin = angle_of_mapping(LCC, latitude, longitude, "a.nc: u")
    assert origin.endswith(said)
    np.testing.assert_allclose(np.radians(degrees - from_differences(LCC | figure, latitude, longitude)), 0, atol=1e-6)


def test_points_of_another_projection_are_refused() -> None:
    latitude, longitude = plane(LCC | SPHERE, x=1.2e6)
    other = LCC | {"longitude_of_central_meridian": -60.0}
    with pytest.raises(StoreError, match=r"a.nc: u: its points do not lie on the grid of its grid mapping lambert"):
        angle_of_mapping(other, latitude, longitude, "a.nc: u")


@pytest.mark.parametrize(
    "mapping",
    one_in(2, [{}, {"grid_mapping_name": "latitude_longitude"}, {"grid_mapping_name": "of_my_own"},
     {"grid_mapping_name": "lambert_conformal_conic"}]),
)  # fmt: skip
def test_mappings_of_no_projection_give_no_angles(mapping: dict[str, Any]) -> None:
    latitude, longitude = plane(LCC | SPHERE)
    degrees, said = angle_of_mapping(mapping, latitude, longitude, "a.nc: u")
    assert not degrees.size
    assert not said


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(MERIDIANS, st.floats(20, 65), st.sampled_from([-1, 1]), st.floats(-1e6, 1e6))
def test_angles_of_points_alone(meridian: float, parallel: float, sign: int, x: float) -> None:
    mapping = LCC | SPHERE | {
        "standard_parallel": sign * parallel, "longitude_of_central_meridian": meridian,
        "latitude_of_projection_origin": sign * parallel,
    }  # fmt: skip
    # 10 km apart.
    latitude, longitude = plane(mapping, side=3e4, x=x)
    degrees, said = angle_of_points(latitude, longitude % 360, "a.nc: u")
    np.testing.assert_allclose(degrees, from_differences(mapping, latitude, longitude), atol=1e-4)
    assert said.startswith("by the directions of the rows")


def test_grids_whose_points_give_no_angles() -> None:
    latitude, longitude = plane(LCC | SPHERE)
    with pytest.raises(StoreError, match=r"grid of \(2, 7\) points cannot be taken from them; three are needed"):
        angle_of_points(latitude[:2], longitude[:2], "a.nc: u")
    with pytest.raises(StoreError, match="rows and columns of the grid are up to .* from being at right angles"):
        angle_of_points(latitude + 0.1 * np.arange(7), longitude, "a.nc: u")


def test_keys_of_grib_are_written_as_grid_mappings() -> None:
    def mapping(kind: str, **keys: float) -> dict[str, Any]:
        return mapping_of_grib(kind, lambda key: keys.get(key, np.nan))

    cone = {"Latin1InDegrees": 30.0, "Latin2InDegrees": 60.0, "LoVInDegrees": 262.5}
    assert mapping("lambert", **cone, LaDInDegrees=45.0, radius=6371229.0) == {
        "grid_mapping_name": "lambert_conformal_conic",
        "standard_parallel": [30.0, 60.0],
        "longitude_of_central_meridian": 262.5,
        "latitude_of_projection_origin": 45.0,
        "earth_radius": 6371229.0,
    }
    flat = mapping("lambert", **cone, earthMajorAxisInMetres=6378137.0, earthMinorAxisInMetres=6356752.0)
    assert (flat["semi_major_axis"], flat["latitude_of_projection_origin"]) == (6378137.0, 30.0)
    south = mapping("polar_stereographic", orientationOfTheGridInDegrees=180.0, projectionCentreFlag=128.0)
    assert south["latitude_of_projection_origin"] == -90
    assert mapping("rotated_ll", latitudeOfSouthernPoleInDegrees=-39.25, longitudeOfSouthernPoleInDegrees=18.0) == {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0,
    }
    assert mapping("lambert", LoVInDegrees=262.5) == {}
    assert mapping("space_view", LoVInDegrees=262.5) == {}
