"""Grids whose rows and columns are no parallels and meridians, and winds along them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest

from kit.data.sources.base import Request, SourceData
from kit.data.sources.grib.scan import scan
from kit.data.sources.grib.source import open_source
from kit.data.sources.grib.winds import angle_of_cone
from kit.io.errors import StoreError
from tests.data.sources.grib_files import eccodes, write
from tests.data.sources.hrrr_files import CONE, HEIGHT, WIDTH, lambert
from tests.real_data import real_data

HOURS = tuple(np.datetime64("2024-06-01T00") + np.arange(2) * np.timedelta64(1, "h"))
UNITY = np.ones((HEIGHT, WIDTH))
PLANE = pyproj.Proj(proj="lcc", lat_1=38.5, lat_2=38.5, lat_0=38.5, lon_0=262.5, R=6371229)


def read(path: Path, *wanted: str) -> SourceData:
    with open_source([path], Request(variables=frozenset(wanted) if wanted else None)) as source:
        for array in source.fields.values():
            array.load()
        return source


def refusal(path: Path, *wanted: str) -> str:
    with pytest.raises(StoreError) as caught:
        read(path, *wanted)
    return str(caught.value)


def test_points_of_a_lambert_grid(tmp_path: Path) -> None:
    values = np.arange(HEIGHT * WIDTH, dtype=np.float64).reshape(HEIGHT, WIDTH)
    content = [lambert("TMP:2 m above ground", time, values=values) for time in HOURS]
    source = read(write(tmp_path / "a.grib2", *content))
    field = source.fields["2t"]
    assert field.dims == ("time", "y", "x")
    assert field["latitude"].dims == field["longitude"].dims == ("y", "x")
    # HRRR's rows go north; the store's do not.
    np.testing.assert_array_equal(field.values[1], values[::-1])
    west, south = PLANE(237.280472, 21.138123)
    x, y = np.meshgrid(west + 135000 * np.arange(WIDTH), south + 135000 * np.arange(HEIGHT)[::-1])
    longitude, latitude = PLANE(x, y, inverse=True)
    np.testing.assert_allclose(field["latitude"], latitude, atol=1e-6)
    np.testing.assert_allclose(field["longitude"], longitude % 360, atol=1e-6)
    assert source.projection == {
        "grid_mapping_name": "lambert_conformal_conic",
        "standard_parallel": 38.5,
        "longitude_of_central_meridian": 262.5,
        "latitude_of_projection_origin": 38.5,
        "earth_radius": 6371229,
    }


def test_winds_are_turned(tmp_path: Path) -> None:
    along = {"UGRD:10 m above ground": 10 * UNITY, "VGRD:10 m above ground": 0 * UNITY}
    path = write(tmp_path / "a.grib2", *(lambert(line, HOURS[0], values=values) for line, values in along.items()))
    source = read(path)
    u, v = (source.fields[name].values[0, -1, 0] for name in ("10u", "10v"))
    # At the south-western corner the grid's y axis points (237.280472 - 262.5) sin(38.5) = -15.69953 degrees east of
    # north, which is west of it: what goes along x goes as much north of east.
    assert (u, v) == pytest.approx((9.626933, 2.705917), abs=1e-5)
    assert (
        "10u and 10v turned from the grid's axes to east and north, by 0.622515 x (longitude - 262.5) degrees"
        in source.notes
    )
    # One is not had without the other, but taken alone.
    alone = read(path, "10v")
    assert (list(alone.fields), alone.names) == (["10v"], ("10u", "10v"))
    np.testing.assert_array_equal(alone.fields["10v"], source.fields["10v"])


def test_the_angle_is_that_between_the_meridian_and_the_axis(tmp_path: Path) -> None:
    (message,) = scan(write(tmp_path / "a.grib2", lambert("REFC:entire atmosphere", HOURS[0])))
    grid = message.grid
    convergence = PLANE.get_factors(grid.longitude, grid.latitude).meridian_convergence
    np.testing.assert_allclose(angle_of_cone(grid), convergence, atol=1e-5)
    assert grid.cone == pytest.approx((CONE, 262.5))


def test_two_standard_parallels(tmp_path: Path) -> None:
    (message,) = scan(write(tmp_path / "a.grib2", lambert("REFC:entire atmosphere", HOURS[0], Latin2InDegrees=45)))
    plane = pyproj.Proj(proj="lcc", lat_1=38.5, lat_2=45, lon_0=262.5, R=6371229)
    convergence = plane.get_factors(message.grid.longitude, message.grid.latitude).meridian_convergence
    np.testing.assert_allclose(angle_of_cone(message.grid), convergence, atol=1e-5)
    assert message.grid.projection["standard_parallel"] == [38.5, 45]


def test_winds_to_east_and_north_are_left_alone(tmp_path: Path) -> None:
    content = lambert("UGRD:10 m above ground", HOURS[0], values=10 * UNITY, resolutionAndComponentFlags=48)
    source = read(write(tmp_path / "a.grib2", content))
    np.testing.assert_array_equal(source.fields["10u"], 10 * UNITY[None])
    assert not [note for note in source.notes if "turned" in note]


@pytest.mark.parametrize(
    ("messages", "expected"),
    (
        ([("UGRD:500 mb", 0, {})], "a.grib2: u is a component along the grid's own axes, and v, without which it"),
        (
            [("UGRD:500 mb", 0, {}), ("VGRD:500 mb", 1, {})],
            "components along the grid's own axes, which are turned together, but they differ in their times",
        ),
        (
            [("UGRD:500 mb", 0, {}), ("UGRD:500 mb", 1, {"resolutionAndComponentFlags": 48}), ("VGRD:500 mb", 0, {})],
            "a.grib2, message 1 holds u along the grid's axes, a.grib2, message 2 along parallels",
        ),
        (
            [("TMP:500 mb", 0, {"longitudeOfFirstGridPointInDegrees": 350, "LoVInDegrees": 2})],
            "t lies on a lambert grid that crosses Greenwich (359.",
        ),
        (
            [("TMP:500 mb", 0, {"LoVInDegrees": 82.5})],
            "t lies on a lambert grid that has columns that do not go east throughout",
        ),
        ([("TMP:500 mb", 0, {"scanningMode": 0})], "in which its points cannot be placed (scanning mode 0)"),
        ([("TMP:500 mb", 0, {"Latin1InDegrees": 138.5})], "points eccodes cannot compute (Latin1 is 138.5 degrees)"),
    ),
)
def test_what_cannot_be_read(tmp_path: Path, messages: list[tuple[str, int, dict[str, Any]]], expected: str) -> None:
    content = [lambert(line, HOURS[hour], **keys) for line, hour, keys in messages]
    assert expected in refusal(write(tmp_path / "a.grib2", *content))


def rotated(param: int, values: float, **more: int) -> bytes:
    handle = eccodes.codes_grib_new_from_samples("rotated_ll_pl_grib2")
    # 16 x 31 points around 50 N 10 E, of which the pole of the rotation makes 0 N 0 E.
    keys = {"paramId": param, "resolutionAndComponentFlags": 56, "latitudeOfSouthernPoleInDegrees": -40,
            "longitudeOfSouthernPoleInDegrees": 20, "longitudeOfFirstGridPointInDegrees": 356,
            "longitudeOfLastGridPointInDegrees": 3.5, "iDirectionIncrementInDegrees": 0.5,
            "latitudeOfFirstGridPointInDegrees": 15, "latitudeOfLastGridPointInDegrees": 0,
            "jDirectionIncrementInDegrees": 0.5} | more  # fmt: skip
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.full(eccodes.codes_get_size(handle, "values"), values))
    return bytes(eccodes.codes_get_message(handle))


def test_winds_along_a_rotated_grid(tmp_path: Path) -> None:
    source = read(write(tmp_path / "a.grib2", rotated(131, 0.0), rotated(132, 10.0)))
    u, v = source.fields["u"], source.fields["v"]
    latitude, longitude = np.radians(u["latitude"].values), np.radians(u["longitude"].values)
    # Along the columns, from eccodes' own points: the y axis points from a row to the one north of it.
    north = np.diff(latitude[::-1], axis=0)[::-1]
    east = np.diff(longitude[::-1], axis=0)[::-1] * np.cos((latitude[1:] + latitude[:-1]) / 2)
    between = np.arctan2(u.values[0, 0], v.values[0, 0])
    np.testing.assert_allclose((between[1:] + between[:-1]) / 2, np.arctan2(east, north), atol=3e-5)
    np.testing.assert_allclose(np.hypot(u, v), 10, rtol=1e-6)
    assert source.fields["u"].attrs["turned_from_grid"] == "by the bearing of the rotated pole at 40 N -160 E"
    alone = refusal(write(tmp_path / "b.grib2", rotated(131, 0.0)))
    assert "u is a component along the grid's own axes, and v, without which it cannot be turned" in alone


def test_the_users_word_stands_over_the_flag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2", rotated(131, 0.0), rotated(132, 10.0))
    with open_source([path], Request(winds_are="earth")) as source:
        np.testing.assert_array_equal(source.fields["u"], 0)
    path = write(tmp_path / "b.grib2", *(rotated(n, 5.0, resolutionAndComponentFlags=48) for n in (131, 132)))
    with open_source([path], Request(winds_are="grid")) as source:
        assert (source.fields["u"].values != 5).any()
    np.testing.assert_array_equal(read(path).fields["u"], 5)


def test_winds_along_an_ellipsoids_cone(tmp_path: Path) -> None:
    # WGS 84, on which the cone's constant is not that of a sphere.
    content = [
        lambert(line, HOURS[0], values=value * UNITY, shapeOfTheEarth=5, Latin2InDegrees=45)
        for line, value in (("UGRD:10 m above ground", 0), ("VGRD:10 m above ground", 10))
    ]
    source = read(write(tmp_path / "a.grib2", *content))
    u, v = source.fields["10u"], source.fields["10v"]
    plane = pyproj.Proj(proj="lcc", lat_1=38.5, lat_2=45, lat_0=38.5, lon_0=262.5, ellps="WGS84")
    expected = plane.get_factors(u["longitude"].values, u["latitude"].values).meridian_convergence
    np.testing.assert_allclose(np.degrees(np.arctan2(u, v))[0], expected, atol=2e-5)


def test_a_real_grid_across_greenwich() -> None:
    path = real_data("bad-grib") / "lambert_grid.grib"
    text = refusal(path)
    assert "lies on a lambert grid that crosses Greenwich (359.9" in text


def test_a_mercator_grid_that_begins_beyond_the_pole(tmp_path: Path) -> None:
    """eccodes itself ends the process when it is asked for the points of such a grid."""
    handle = eccodes.codes_grib_new_from_samples("GRIB2")
    keys = {
        "gridType": "mercator", "Ni": 6, "Nj": 5, "scanningMode": 64, "LaDInDegrees": 38.5, "DiInMetres": 100000,
        "DjInMetres": 100000, "latitudeOfFirstGridPointInDegrees": -1984, "longitudeOfFirstGridPointInDegrees": 237,
        "latitudeOfLastGridPointInDegrees": 30, "longitudeOfLastGridPointInDegrees": 247,
    }  # fmt: skip
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.arange(30.0))
    eccodes.codes_set(handle, "paramId", 167)
    (found,) = scan(write(tmp_path / "a.grib2", bytes(eccodes.codes_get_message(handle))))
    assert found.grid.problem.endswith("(latitudeOfFirstGridPoint is -1984 degrees)")
