"""Boxes: which rows and columns are read, in which order, and which of them are scored."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from kit.data.grid import Grid
from kit.data.region import select_grid
from kit.data.settings import BuildSettings, DataSettings
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from tests.factories import as_matrices, synthetic_dataset, synthetic_store, write_synthetic
from tests.real_data import real_data


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every 5 degrees: 36 rows from 87.5 N, 72 columns from 0 E."""
    return synthetic_store(tmp_path_factory.mktemp("grid") / "globe", height=36, width=72, times=3)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """60 to 20 N and 10 to 60 E, every 5 degrees: 9 rows, 11 columns."""
    path = tmp_path_factory.mktemp("grid") / "box"
    return synthetic_store(path, height=9, width=11, box=(60, 10, 20, 60), times=3)


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """60 to 20 N and 30 W to 40 E, every 5 degrees: the columns 0 to 40 (9), then 330 to 355 (6)."""
    dataset = synthetic_dataset(height=9, width=15, box=(60, 0, 20, 70), times=3)
    dataset = dataset.assign_coords(longitude=[*range(0, 41, 5), *range(330, 360, 5)])
    return write_synthetic(dataset, tmp_path_factory.mktemp("grid") / "across")


def longitudes(grid: Grid, store: Store) -> list[float]:
    return [float(degrees) for degrees in grid.longitude(store)]


def read(grid: Grid, store: Store, name: str, time: int, levels: list[int] | None = None) -> npt.NDArray[np.float32]:
    part = grid.chunk_slice(store, name, time, levels)
    state = np.empty(part.shape, np.float32)
    part.read(state)
    return state


def scored(grid: Grid, store: Store) -> tuple[list[float], list[float]]:
    """Latitudes and longitudes of the window, first and last."""
    rows, columns = grid.window or (slice(None), slice(None))
    latitude, longitude = grid.latitude(store)[rows], grid.longitude(store)[columns]
    return [latitude[0], latitude[-1]], [longitude[0], longitude[-1]]


def test_a_halo_is_context_around_the_region(globe: Store) -> None:
    """52.5 to 32.5 N is 5 rows, 100 to 120 E 5 columns; 10 degrees are 2 more on each side: 9 x 9, cropped to 8 x 8.

    Both halos are as wide: the south and the east give way.
    """
    grid = select_grid(globe, (54, 100, 31, 120), 4, halo=10)
    assert grid.shape == (8, 8)
    assert grid.cropped == (0, 0)
    assert scored(grid, globe) == ([52.5, 32.5], [100, 120])
    assert grid.latitude(globe)[0] == 62.5
    assert longitudes(grid, globe) == [90, 95, 100, 105, 110, 115, 120, 125]
    assert grid.window == (slice(2, 7), slice(2, 7))


def test_the_halo_is_measured_from_the_regions_border(globe: Store) -> None:
    """From 54 N, 9 degrees reach 63: the row at 62.5 is in. From 31 N they reach 22: the row at 22.5 is in."""
    grid = select_grid(globe, (54, 100, 31, 135), 3, halo=9)
    assert (grid.latitude(globe)[0], grid.latitude(globe)[-1]) == (62.5, 22.5)
    # 95 to 140 E would be 10 columns, one too many for patches of 3.
    assert (longitudes(grid, globe)[0], longitudes(grid, globe)[-1]) == (95, 135)
    assert grid.window == (slice(2, 7), slice(1, 9))


def test_the_wider_halo_gives_way_first_and_the_region_last(box: Store) -> None:
    """North of 55 there is one row of halo, south of 35 three: 9 rows, of which the south loses one."""
    grid = select_grid(box, (55, 25, 35, 40), 4, halo=15)
    assert grid.window is not None
    assert (grid.latitude(box)[0], grid.latitude(box)[-1]) == (60, 25)
    assert grid.window[0] == slice(1, 6)
    # Without a halo the region itself is cropped, in the south and the east.
    plain = select_grid(box, (55, 25, 35, 40), 4)
    assert (plain.shape, plain.cropped, plain.window) == ((4, 4), (1, 0), None)


def test_a_halo_that_leaves_the_store_is_cut_with_a_note(box: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kit"):
        grid = select_grid(box, (55, 20, 35, 40), 4, halo=15)
    assert (longitudes(grid, box)[0], longitudes(grid, box)[-1]) == (10, 45)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "data.halo is cut in the north, 10 degrees short: the store covers 60 to 20 degrees north" in told[0]
    assert "data.halo is cut in the west, 5 degrees short" in told[1]


def test_a_pole_is_no_end(globe: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kit"):
        grid = select_grid(globe, (90, 0, 50, 360), 4, halo=20)
    assert not caplog.records
    assert grid.rows == (0, 12)
    assert grid.columns == (0, 72)
    assert grid.window == (slice(0, 8), slice(0, 72))


def test_a_box_across_greenwich_goes_east(globe: Store) -> None:
    """20 W to 15 E is 8 columns, 4 of them in the west."""
    grid = select_grid(globe, (60, -20, 20, 15), 4)
    assert grid.columns == (-4, 4)
    assert longitudes(grid, globe) == [340, 345, 350, 355, 0, 5, 10, 15]
    assert grid.window is None
    assert grid == select_grid(globe, (60, 340, 20, 15), 4)


def test_columns_are_added_until_greenwich_begins_a_patch(globe: Store) -> None:
    """10 W to 30 E is 2 + 7 columns; 4 + 8 are read, and the region alone is scored."""
    grid = select_grid(globe, (60, -10, 20, 30), 4)
    assert grid.columns == (-4, 8)
    assert grid.cropped == (0, 0)
    assert scored(grid, globe)[1] == [350, 30]
    assert grid.window == (slice(0, 8), slice(2, 11))


@pytest.mark.parametrize(
    ("region", "columns", "window"),
    (
        # Region in the east, halo across Greenwich: 2 columns of context in the west become 4.
        ((60, 10, 20, 20), (-4, 12), slice(6, 9)),
        # Region in the west, halo across Greenwich.
        ((60, 340, 20, 350), (-8, 4), slice(4, 7)),
    ),
)
def test_a_halo_may_cross_greenwich(globe: Store, region: tuple[float, ...], columns: object, window: slice) -> None:
    grid = select_grid(globe, region, 4, halo=20)  # type: ignore[arg-type]
    assert grid.columns == columns
    assert grid.window is not None
    assert grid.window[1] == window
    assert scored(grid, globe)[1] == [region[1], region[3]]


def test_a_halo_around_the_circle_reads_it_once(globe: Store) -> None:
    assert select_grid(globe, (60, 30, 20, 300), 4, halo=60).columns == (0, 72)
    crossing = select_grid(globe, (60, -100, 20, 150), 4, halo=60)
    assert crossing.columns[1] - crossing.columns[0] == 72
    assert crossing.columns[0] % 4 == 0
    assert scored(crossing, globe)[1] == [260, 150]
    assert select_grid(globe, (60, -180, 20, 180), 4).columns == (0, 72)
    with pytest.raises(SettingsError, match="leaves less than a patch out of the circle"):
        select_grid(globe, (60, 170, 20, 160), 4)


def test_a_store_across_greenwich_is_read_as_one_box(across: Store) -> None:
    """6 columns in the west and 9 in the east: there are no more, so that 4 and 8 remain."""
    grid = select_grid(across, None, 4)
    assert grid.columns == (-4, 8)
    assert longitudes(grid, across) == [340, 345, 350, 355, 0, 5, 10, 15, 20, 25, 30, 35]
    assert grid.cropped == (1, 3)
    assert grid.window is None
    west = select_grid(across, (60, -30, 20, -15), 4)
    assert (west.columns, longitudes(west, across)) == ((9, 13), [330, 335, 340, 345])
    assert longitudes(select_grid(across, (60, 10, 20, 25), 4), across) == [10, 15, 20, 25]


def test_a_store_across_greenwich_ends_where_it_ends(across: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kit"):
        grid = select_grid(across, (50, 0, 30, 20), 4, halo=40)
    assert longitudes(grid, across)[0] == 340
    assert (
        "cut in the west, 10 degrees short: the store covers 60 to 20 degrees north, 330 to 40 degrees" in caplog.text
    )


def test_values_are_read_with_their_coordinates(globe: Store) -> None:
    grid = select_grid(globe, (60, -10, 20, 30), 4)
    whole = globe.read("t", [1], levels=[2])
    place = [list(globe.longitude).index(degrees) for degrees in longitudes(grid, globe)]
    assert np.array_equal(read(grid, globe, "t", 1, [2]), whole[0][:, slice(*grid.rows)][..., place])
    static = globe.read_static("lsm")
    assert np.array_equal(grid.read_static(globe, "lsm"), static[slice(*grid.rows)][:, place])


@pytest.mark.parametrize(
    ("region", "halo", "message"),
    (
        ((60, 100, 20, 150), 0.0, r"selects no grid point; the store covers 60 to 20 degrees north, 10 to 60 degrees"),
        ((19, 10, 10, 30), 5.0, r"selects no grid point"),
        ((60, 50, 20, 15), 0.0, r"selects both ends of the store and not what is between them.*Choose one end"),
        ((40, 20, 38, 40), 0.0, r"1 x 5 grid points are selected, less than a patch of 4 x 4; data.region is"),
        ((40, 20, 38, 40), 5.0, r"3 x 7 grid points are selected, less than a patch of 4 x 4.* with data.halo 5,"),
    ),
)
def test_what_a_store_does_not_hold_is_refused(box: Store, region: object, halo: float, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        select_grid(box, region, 4, halo)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"halo": 5}, r"data.halo 5 has no effect without data.region"),
        ({"halo": -1, "region": (60, 0, 20, 40)}, r"greater than or equal to 0"),
        ({"region": (60, 20, 20, 20)}, r"west 20 and east 20 must be two different longitudes"),
        ({"region": (60, -400, 20, 20)}, r"in \[-360, 360\]"),
        ({"region": (20, 0, 60, 40)}, r"north 20 and south 60 must be in \[-90, 90\], the larger one first"),
        ({"region": (95, 0, 60, 40)}, r"north 95"),
    ),
)
def test_boxes_that_are_none_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSettings.model_validate(settings)


def test_distances_are_counted_from_the_edges_that_there_are(globe: Store, box: Store) -> None:
    """A box of 8 x 8: 0 around, 3 in the middle. Up to a pole only the south is an edge; on the globe nothing is."""
    distance = select_grid(box, None, 4).distance(box)
    assert distance is not None
    assert distance[0].tolist() == [0] * 8
    assert distance[3].tolist() == [0, 1, 2, 3, 3, 2, 1, 0]
    north = select_grid(globe, (90, 0, 50, 360), 4).distance(globe)
    assert north is not None
    assert north[:, 0].tolist() == north[:, 40].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert select_grid(globe, None, 4).distance(globe) is None


# Real data.


def test_real_globe_across_greenwich(tmp_path: Path) -> None:
    """64 longitudes from 0 E, every 5.625 degrees: 30 W to 40 E is 5 + 8 columns, of which 8 + 8 are read."""
    source = real_data("era5-global-tl31-1959")
    settings = {"source": "netcdf", "path": source, "out": tmp_path / "store", "variables": ("t",)}
    period = "1959-01-02/1959-01-02"
    store = build_store(BuildSettings.model_validate({**settings, "statics": ("coslon",), "train": period}))
    grid = select_grid(store, (70, -30, 20, 40), 4)
    assert grid.columns == (-8, 8)
    assert longitudes(grid, store)[7:9] == [354.375, 0]
    assert scored(grid, store)[1] == [331.875, 39.375]
    whole = np.roll(store.read("t", [0])[..., slice(*grid.rows), :], 8, axis=-1)
    assert np.array_equal(read(grid, store, "t", 0), whole[0][..., :16])
    radians = np.deg2rad(longitudes(grid, store))
    np.testing.assert_allclose(grid.read_static(store, "coslon")[0], np.cos(radians), atol=1e-6)


def test_real_europe_with_a_halo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """0 to 10 E and 55 to 45 N at 0.25 degrees: there is nothing west of Greenwich."""
    source, out = real_data("era5-europe-2020-01-01"), tmp_path / "store"
    periods = {"train": "2020-01-01T00/2020-01-01T17", "valid": "2020-01-01T18/2020-01-01T23"}
    settings = {"source": "netcdf", "path": source, "out": out, "variables": ("10u",), "statics": ("coslat",)}
    store = build_store(BuildSettings.model_validate(settings | periods))
    with caplog.at_level(logging.WARNING, "kit"):
        grid = select_grid(store, (54, 1, 46, 9), 4, halo=1)
        assert not caplog.records
        select_grid(store, (54, 1, 46, 9), 4, halo=2)
    assert len(caplog.records) == 4
    assert grid.shape == (40, 40)
    assert grid.window == (slice(4, 37), slice(4, 37))
    assert scored(grid, store) == ([54, 46], [1, 9])


@pytest.fixture(scope="module")
def lambert(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """100 km apart, 16 rows from 45.2 N to 30.6 N at 262.5 E, 32 columns from 243 E to 282 E; 23 N at the corners."""
    return synthetic_store(tmp_path_factory.mktemp("grid") / "lambert", curvilinear=True, times=3)


def test_a_region_of_a_curvilinear_grid_is_the_smallest_rectangle_of_points(lambert: Store) -> None:
    region = (40.0, 255.0, 36.0, 270.0)
    inside = (lambert.latitude <= 40) & (lambert.latitude >= 36) & (abs(lambert.longitude - 262.5) <= 7.5)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    for west, east in ((255, 270), (-105, -90)):
        grid = select_grid(lambert, (40, west, 36, east), 1)
        assert grid.rows == (rows[0], rows[-1] + 1)
        assert grid.columns == (columns[0], columns[-1] + 1)
        assert grid.window is None
    patched = select_grid(lambert, region, 2)
    assert patched.shape == (len(rows) // 2 * 2, len(columns) // 2 * 2)
    latitude, longitude = patched.latitude(lambert), patched.longitude(lambert)
    assert latitude.shape == longitude.shape == patched.shape
    values = read(patched, lambert, "t", 1)[0]
    np.testing.assert_array_equal(values, lambert.read("t", [1])[0, 0][slice(*patched.rows), slice(*patched.columns)])


def test_a_halo_on_a_curvilinear_grid(lambert: Store, caplog: pytest.LogCaptureFixture) -> None:
    grid = select_grid(lambert, (40, 255, 36, 270), 2, halo=2)
    assert grid.window is not None
    latitude, longitude = grid.scored_coordinates(lambert)
    inside = (lambert.latitude <= 40) & (lambert.latitude >= 36) & (abs(lambert.longitude - 262.5) <= 7.5)
    assert latitude.shape == (len(np.flatnonzero(inside.any(1))), len(np.flatnonzero(inside.any(0))))
    assert np.isin(lambert.longitude[inside], longitude).all()
    # Two degrees are two rows and, at this latitude, less than two columns.
    assert grid.shape[0] - latitude.shape[0] in (3, 4)
    assert "cut" not in caplog.text
    distance = grid.distance(lambert)
    assert distance is not None
    assert distance[0].max() == distance[:, -1].max() == 0
    assert distance.max() == min(grid.shape) // 2 - 1
    select_grid(lambert, (40, 255, 32, 270), 2, halo=4)
    assert "data.halo is cut in the south, up to" in caplog.text
    assert "data.halo is cut in the north" not in caplog.text


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((10, 255, 5, 270), r"selects no grid point; the store covers 45.2\d+ to 30.\d+ degrees north, 243.\d+ to 28"),
        ((40, 100, 36, 120), "selects no grid point"),
        ((39.2, 261.5, 38.7, 263.5), "1 x 2 grid points are selected, less than a patch of 2 x 2"),
    ],
)
def test_regions_that_a_curvilinear_grid_has_not(
    lambert: Store, region: tuple[float, float, float, float], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        select_grid(lambert, region, 2)


def test_matrices_of_a_globe_have_two_ends(tmp_path: Path) -> None:
    globe = write_synthetic(as_matrices(synthetic_dataset(times=3)), tmp_path / "globe")
    with pytest.raises(StoreError, match=r"selects both ends of the store"):
        select_grid(globe, (45, -30, -45, 30), 2)
    # The halo ends where the store ends.
    assert select_grid(globe, (45, 0, -45, 45), 1, halo=30).columns == (0, 7)
    assert select_grid(globe, (45, 0, -45, 360), 1).shape == (8, 32)
