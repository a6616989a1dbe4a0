from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.sources.grib.scan import Message, scan
from kit.data.sources.grib.values import decoded
from tests.data.sources.grib_files import FIELD, LATITUDE, LONGITUDE, eccodes, message, write


def only(path: Path) -> Message:
    (found,) = scan(path)
    return found


@pytest.mark.parametrize("edition", (1, 2))
@pytest.mark.parametrize(("west", "north", "columns"), list(itertools.product((0, 1), repeat=3)))
def test_all_orders_of_rows_and_columns(tmp_path: Path, edition: int, west: int, north: int, columns: int) -> None:
    own = FIELD[:: -1 if north else 1, :: -1 if west else 1]
    grid = (LATITUDE[:: -1 if north else 1], LONGITUDE[:: -1 if west else 1])
    values = own.T.ravel() if columns else own.ravel()
    content = message(values, grid=grid, jPointsAreConsecutive=columns, edition=edition)
    found = only(write(tmp_path / "a.grib", content))
    np.testing.assert_array_equal(found.grid.latitude, LATITUDE)
    np.testing.assert_array_equal(found.grid.longitude, LONGITUDE)
    np.testing.assert_array_equal(next(decoded([found])), FIELD)
    # eccodes' own idea of where each value lies.
    handle = eccodes.codes_new_from_message(content)
    rows = np.searchsorted(-LATITUDE, -eccodes.codes_get_array(handle, "latitudes"))
    places = np.searchsorted(LONGITUDE, eccodes.codes_get_array(handle, "longitudes"))
    np.testing.assert_array_equal(FIELD[rows, places], eccodes.codes_get_values(handle))


def test_every_second_row_backwards(tmp_path: Path) -> None:
    rows = np.array([[0, 1, 2, 3], [7, 6, 5, 4], [8, 9, 10, 11]], dtype=np.float64)
    found = only(write(tmp_path / "a.grib", message(rows, alternativeRowScanning=1, edition=2)))
    np.testing.assert_array_equal(next(decoded([found])), FIELD)


@pytest.mark.parametrize(
    ("longitude", "expected"),
    (
        # Across Greenwich and the date line, as the two editions have it.
        ([350, 355, 0, 5], [350, 355, 360, 365]),
        ([-10, -5, 0, 5], [-10, -5, 0, 5]),
        ([170, 175, 180, 185], [170, 175, 180, 185]),
        ([5, 0, 355, 350], [350, 355, 360, 365]),
    ),
)
def test_boxes_across_the_seams(tmp_path: Path, longitude: list[float], expected: list[float]) -> None:
    west = int(longitude == [5, 0, 355, 350])
    grid = (LATITUDE, np.array(longitude, dtype=np.float64))
    found = only(write(tmp_path / "a.grib", message(grid=grid, iDirectionIncrementInDegrees=5, iScansNegatively=west)))
    assert found.grid.problem == found.grid.note == ""
    np.testing.assert_array_equal(found.grid.longitude, expected)


def test_fine_steps_are_decimal(tmp_path: Path) -> None:
    longitude = np.round(np.arange(0, 360, 0.1), 1)
    latitude = np.array([0.1, 0.0])
    found = only(write(tmp_path / "a.grib", message(np.zeros((2, 3600)), grid=(latitude, longitude), edition=2)))
    np.testing.assert_array_equal(found.grid.longitude, longitude)


@pytest.mark.parametrize(
    ("keys", "expected"),
    (
        ({"jScansPositively": 1}, "has rows that go northwards by its scanning mode, but from 50.5 to 50 degrees"),
        ({"longitudeOfLastGridPointInDegrees": 5}, "has 4 columns, all at 5 degrees east"),
    ),
)
def test_headers_that_contradict_themselves(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    found = only(write(tmp_path / "a.grib", message(late=True, edition=2, **keys)))
    assert found.grid.problem == expected


def test_increments_that_contradict_the_ends(tmp_path: Path) -> None:
    found = only(write(tmp_path / "a.grib", message(late=True, edition=2, iDirectionIncrementInDegrees=2)))
    assert found.grid.problem == ""
    assert found.grid.note.startswith("a header gives steps of 2 x 0.25 degrees, its ends and counts 0.25 x 0.25")


@pytest.mark.parametrize(
    ("sample", "expected"),
    (
        ("reduced_gg_pl_32_grib2", "lies on a reduced_gg grid"),
        ("sh_pl_grib2", "lies on a sh grid"),
        ("polar_stereographic_pl_grib2", "grid in an order in which its points cannot be placed (scanning mode 0)"),
        ("rotated_ll_pl_grib1", "lies on a rotated_ll grid that has columns that do not go east throughout"),
    ),
)
def test_other_grids_are_named(tmp_path: Path, sample: str, expected: str) -> None:
    handle = eccodes.codes_grib_new_from_samples(sample)
    assert expected in only(write(tmp_path / "a.grib", eccodes.codes_get_message(handle))).grid.problem


@pytest.mark.parametrize("edition", (1, 2))
def test_gaussian_rows_are_taken(tmp_path: Path, edition: int) -> None:
    handle = eccodes.codes_grib_new_from_samples(f"regular_gg_pl_grib{edition}")
    found = only(write(tmp_path / "a.grib", eccodes.codes_get_message(handle)))
    assert found.grid.problem == found.grid.note == ""
    assert found.grid.latitude.shape == (64,)
    # The first zero of the Legendre polynomial of order 64.
    assert found.grid.latitude[0] == pytest.approx(87.8638, abs=1e-4)
    assert found.grid.longitude[[0, 1]].tolist() == [0, 2.8125]


NO_SUCH_ROWS = "parallels between a pole and the equator, and ends at"


@pytest.mark.parametrize("edition", (1, 2))
@pytest.mark.parametrize(
    ("keys", "expected"),
    (
        # eccodes itself crashes on some of these, and computes for minutes on others.
        ({"N": 4}, NO_SUCH_ROWS),
        ({"N": 0}, NO_SUCH_ROWS),
        ({"N": 60000}, NO_SUCH_ROWS),
        ({"N": 31}, NO_SUCH_ROWS),
        ({"latitudeOfFirstGridPointInDegrees": 89.9}, NO_SUCH_ROWS),
        ({"latitudeOfLastGridPointInDegrees": -20}, NO_SUCH_ROWS),
        ({"latitudeOfLastGridPointInDegrees": 87.864}, "of 64 rows, but its header gives 1 latitudes"),
        ({"jScansPositively": 1}, "rows that go northwards by its scanning mode, but from 87.8638 to -87.8638"),
    ),
)
def test_gaussian_headers_that_contradict_themselves(
    tmp_path: Path, edition: int, keys: dict[str, Any], expected: str
) -> None:
    handle = eccodes.codes_grib_new_from_samples(f"regular_gg_pl_grib{edition}")
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    found = only(write(tmp_path / "a.grib", eccodes.codes_get_message(handle)))
    assert expected in found.grid.problem


@pytest.mark.parametrize("parallels", (2, 16, 80, 320))
def test_gaussian_latitudes_are_those_of_eccodes(tmp_path: Path, parallels: int) -> None:
    """Of headers that do not contradict themselves; those of the north, in both directions."""
    handle = eccodes.codes_grib_new_from_samples("regular_gg_sfc_grib2")
    roots, _ = np.polynomial.legendre.leggauss(2 * parallels)
    first = np.degrees(np.arcsin(roots[-1]))
    keys = {
        "N": parallels, "Ni": 16, "Nj": 2 * parallels, "latitudeOfFirstGridPointInDegrees": round(first, 6),
        "latitudeOfLastGridPointInDegrees": round(-first, 6), "longitudeOfFirstGridPointInDegrees": 0,
        "longitudeOfLastGridPointInDegrees": 337.5, "iDirectionIncrementInDegrees": 22.5,
    }  # fmt: skip
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, np.arange(32.0 * parallels))
    found = only(write(tmp_path / "a.grib", eccodes.codes_get_message(handle)))
    np.testing.assert_array_equal(found.grid.latitude, np.round(np.degrees(np.arcsin(roots)), 6)[::-1])
    if parallels > 2:
        own = eccodes.codes_get_array(handle, "distinctLatitudes")
        np.testing.assert_array_equal(found.grid.latitude, np.round(np.sort(own)[::-1], 6))
