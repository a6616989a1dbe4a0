from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from kit.data.region import cropped, with_context
from kit.data.settings import BuildSettings, Period
from kit.data.sources.base import Pieces, Request
from kit.data.sources.crop_regrid import describe
from kit.data.store.build import build_store
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form, write

GLOBE = np.arange(0, 360, 10.0)


def field(latitude: Any = None, longitude: Any = GLOBE) -> xr.DataArray:
    rows = np.arange(90, -91, -10.0) if latitude is None else np.asarray(latitude)
    columns = np.asarray(longitude)
    return xr.DataArray(
        np.add.outer(1000 * rows, columns),
        {"latitude": rows, "longitude": columns},
        ("latitude", "longitude"),
    )


@pytest.mark.parametrize(
    ("region", "rows", "columns"),
    (
        ((50, 10, 30, 30), [50, 40, 30], [10, 20, 30]),
        ((49, 11, 31, 29), [40], [20]),
        # Across Greenwich, however it is written.
        ((0, 340, 0, 10), [0], [0, 10, 340, 350]),
        ((0, -20, 0, 10), [0], [0, 10, 340, 350]),
        # An east of 360 is the end of the circle, an east of 0 Greenwich.
        ((0, 340, 0, 360), [0], [340, 350]),
        ((0, 340, 0, 0), [0], [0, 340, 350]),
        ((90, 0, 80, 360), [90, 80], GLOBE.tolist()),
        ((90, -180, 90, 180), [90], GLOBE.tolist()),
        ((-90, 0, -90, 0.5), [-90], [0]),
    ),
)
def test_regions(region: Any, rows: list[float], columns: list[float]) -> None:
    part = cropped(field(), region, "data")
    assert part["latitude"].values.tolist() == rows
    assert part["longitude"].values.tolist() == columns
    np.testing.assert_array_equal(part, np.add.outer(1000 * np.array(rows), columns))
    # What was taken is taken again by the same words.
    assert cropped(part, region, "data").sizes == part.sizes


@pytest.mark.parametrize(
    ("region", "degrees", "wider"),
    (
        ((50, 10, 30, 30), 0, (50, 10, 30, 30)),
        ((50, 10, 30, 30), 5, (55, 5, 25, 35)),
        ((88, 0, -89, 20), 5, (90, 355, -90, 25)),
        # Context begins where the circle ends, and includes Greenwich.
        ((0, 340, 0, 360), 10, (10, 330, -10, 10)),
        ((0, 330, 0, 350), 10, (10, 320, -10, 0)),
        ((0, 20, 0, 350), 15, (15, 0, -15, 360)),
    ),
)
def test_context(region: Any, degrees: float, wider: Any) -> None:
    assert with_context(region, degrees) == wider


@pytest.mark.parametrize(
    ("longitude", "region", "message"),
    (
        (GLOBE, (45, 11, 41, 19), r"selects no grid point; the data hold 90 to -90 degrees north, 0 to 350 degrees"),
        ([0, 10, 20, 350], (40, 100, 30, 200), r"no grid point; the data hold 90 to -90 degrees north, 350 to 20 deg"),
        (np.arange(0, 310, 10.0), (40, 290, 30, 10), r"selects both ends of the data and not what is between them"),
    ),
)
def test_what_selects_nothing_or_two_pieces(longitude: Any, region: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        cropped(field(longitude=longitude), region, "data")


def test_a_region_of_a_curvilinear_grid_is_the_smallest_box_around_it() -> None:
    rows, columns = np.meshgrid(np.arange(5), np.arange(6), indexing="ij")
    grid = xr.DataArray(
        np.arange(30).reshape(5, 6),
        {"latitude": (("y", "x"), 50.0 - rows - 0.5 * columns), "longitude": (("y", "x"), 10.0 + columns)},
        ("y", "x"),
    )
    part = cropped(grid, (48, 12, 47, 13), "data")
    # (1, 2), (2, 2), (1, 3) and (y, 3) between 47 and 48.5 - y: rows 1 and 2.
    np.testing.assert_array_equal(part, grid[1:3, 2:4])
    with pytest.raises(StoreError, match="selects no grid point"):
        cropped(grid, (80, 12, 70, 13), "data")


def told(data: xr.DataArray, region: Any, halo: float) -> list[str]:
    notes: list[str] = []
    describe(cropped(data, with_context(region, halo), "data"), region, halo, notes.append)
    return notes


def test_where_the_data_end_is_told() -> None:
    # 3 degrees of context lie within a grid spacing: nothing is missing.
    assert told(field(), (50, 340, 30, 10), 3) == [
        "region north 50, west 340, south 30, east 10 with 3 degrees around it: 3 x 4"
    ]
    box = field(np.arange(60, 19, -10.0), [0, 10, 20, 340, 350])
    assert told(box, (60, 350, 30, 20), 20)[1:] == [
        "the data end 20 degrees short of the region with 20 degrees around it in the north",
        "the data end 10 degrees short of the region with 20 degrees around it in the south",
        "the data end 10 degrees short of the region with 20 degrees around it in the west",
        "the data end 20 degrees short of the region with 20 degrees around it in the east",
    ]
    # A pole is the end of everything.
    assert len(told(field(), (90, 0, 80, 50), 20)) == 1


def test_nothing_outside_is_read() -> None:
    read = []

    def block(block_info: Any = None) -> Any:
        read.append(block_info[None]["array-location"])
        return np.zeros((1, 19, 4))

    mapped: Any = da.map_blocks
    values = mapped(block, chunks=((1, 1), (19,), (4,) * 9), dtype=float, meta=np.zeros((0, 0, 0)))
    dataset = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})},
        {
            "time": np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"),
            "latitude": np.arange(90, -91, -10.0),
            "longitude": GLOBE,
        },
    )
    pieces = Pieces(Request(region=(50, 0, 40, 30)))
    pieces.add(dataset, "file")
    assert read == []
    assert pieces.found["2t"][0][1].load().shape == (2, 2, 4)
    assert len(read) == 2


def test_a_region_of_a_build_is_in_its_history(tmp_path: Path) -> None:
    write(new_form(("t2m", "tp"), times=4), tmp_path / "a.nc")
    write(new_form(("lsm",)).isel(valid_time=0, drop=True), tmp_path / "b.nc")
    options: dict[str, Any] = {"source": "netcdf", "path": tmp_path, "train": "2020/2020", "product": "era5"}
    region = (50.25, 5, 50, 5.25)
    store = build_store(BuildSettings(out=tmp_path / "out", region=region, halo=0.25, **options))
    whole = build_store(BuildSettings(out=tmp_path / "whole", **options))
    rows, columns = slice(0, 3), slice(0, 3)
    assert store.latitude.tolist() == [50.5, 50.25, 50]
    assert store.longitude.tolist() == [5, 5.25, 5.5]
    np.testing.assert_array_equal(store.read("2t", [0, 3]), whole.read("2t", [0, 3], rows, columns))
    np.testing.assert_array_equal(store.read_static("lsm"), whole.read_static("lsm", rows, columns))
    history = " ".join(store.attributes["history"])
    assert "region north 50.25, west 5, south 50, east 5.25 with 0.25 degrees around it: 3 x 3" in history
    with pytest.raises(StoreError, match="selects no grid point"):
        build_store(BuildSettings(out=tmp_path / "none", region=(-60, 0, -70, 10), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"halo": 2}, "--halo 2 has no effect without --region"),
        ({"region": (10, 0, 20, 5)}, r"--region: north 10 and south 20 must be in \[-90, 90\], the larger one first"),
        ({"region": (10, 5, 0, 5)}, "--region: west 5 and east 5 must be two different longitudes"),
        ({"region": (10, 5, 0, 9), "halo": -1}, "greater than or equal to 0"),
    ),
)
def test_regions_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BuildSettings(source="netcdf", path="a", out=Path("b"), **options)


def test_years_and_months_are_whole() -> None:
    assert str(Period.parse("2019/2020")) == "2019-01-01T00:00/2020-12-31T23:59"
    assert str(Period.parse("2019-02/2019-02")) == "2019-02-01T00:00/2019-02-28T23:59"
    assert Period.parse(str(Period.parse("2019/2020"))) == Period.parse("2019/2020")
    with pytest.raises(ValueError, match="expected START/END"):
        Period.parse("2019/2019-13")
