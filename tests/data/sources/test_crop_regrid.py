from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from kit.data.settings import BuildSettings
from kit.data.sources.crop_regrid import method_of, regridded
from kit.data.sources.target_grid import TargetGrid
from kit.data.store.build import build_store
from kit.io.errors import StoreError
from tests.data.sources.zarr_files import weatherbench, write


def field(spacing: float = 15, values: Any = None, *, centres: bool = False, times: int = 0) -> xr.DataArray:
    rows = round(180 / spacing)
    latitude = 90 - spacing * (np.arange(rows) + 0.5 if centres else np.arange(rows + 1))
    longitude = spacing * (np.arange(2 * rows) + (0.5 if centres else 0))
    shape = (*((times,) if times else ()), len(latitude), len(longitude))
    data = np.random.default_rng(0).random(shape) if values is None else np.broadcast_to(values, shape)
    dims = (*(("time",) if times else ()), "latitude", "longitude")
    return xr.DataArray(
        np.array(data, dtype=np.float32), {"latitude": latitude, "longitude": longitude}, dims, "2t", {"units": "K"}
    )


def to(data: xr.DataArray, spacing: float, name: str = "2t", asked: Any = None) -> xr.DataArray:
    result, _ = regridded({name: data}, TargetGrid.of_spacing(spacing), asked, lambda _: None)
    return result[name]


def mean(data: xr.DataArray) -> float:
    """Over the globe, by the area of cells that end halfway between neighbours and at the poles."""
    latitude = data["latitude"].values
    middle = (latitude[1:] + latitude[:-1]) / 2
    edges = np.sin(np.deg2rad(np.concatenate([[90], middle, [-90]])))
    return float((data.values.astype(np.float64).mean(axis=-1) * -np.diff(edges)).sum() / 2)


METHODS = ("linear", "conservative", "nearest")


@pytest.mark.parametrize(("spacing", "shape"), ((0.1, (1801, 3600)), (0.25, (721, 1440)), (0.4, (451, 900))))
def test_global_grids_are_upstream_s(spacing: float, shape: tuple[int, int]) -> None:
    target = TargetGrid.of_spacing(spacing)
    assert (len(target.latitude), len(target.longitude)) == shape
    assert (target.latitude[0], target.latitude[-1], target.longitude[0]) == (90, -90, 0)
    assert target.longitude[1] == spacing


@pytest.mark.parametrize("spacing", (0.7, 0, 200))
def test_grids_that_do_not_fit_the_globe(spacing: float, tmp_path: Path) -> None:
    with pytest.raises((StoreError, ValidationError), match="regrid"):
        TargetGrid.of_spacing(BuildSettings(source="zarr", path="a", out=tmp_path, regrid=spacing).regrid or 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("centres", (False, True))
@pytest.mark.parametrize("spacing", (9, 22.5))
def test_a_constant_stays_one(method: str, centres: bool, spacing: float) -> None:
    result = to(field(values=7.0, centres=centres), spacing, asked=method)
    assert result.dims == ("latitude", "longitude")
    assert result.sizes == {"latitude": round(180 / spacing) + 1, "longitude": round(360 / spacing)}
    np.testing.assert_allclose(result, 7, rtol=1e-6)


def test_linear_is_exact_along_a_slope_and_around_the_circle() -> None:
    rows = np.arange(90, -91, -15.0)[:, None]
    result = to(field(values=rows), 9)
    np.testing.assert_allclose(result, np.broadcast_to(result["latitude"].values[:, None], result.shape), atol=1e-5)
    # From 345 to 360 the value falls from 23 to 0: at 351 it is 23 - 23 x 6 / 15.
    result = to(field(values=np.arange(24.0)), 9)
    assert result.sel(longitude=351).values == pytest.approx(23 - 23 * 6 / 15)
    assert result.sel(longitude=9).values == pytest.approx(9 / 15)


@pytest.mark.parametrize("centres", (False, True))
@pytest.mark.parametrize("spacing", (4.5, 9, 22.5))
def test_the_global_mean_of_rain_stays(centres: bool, spacing: float) -> None:
    rain = field(centres=centres)
    # Where it rains at a pole, too.
    rain[0] += 10
    assert mean(to(rain, spacing, "tp")) == pytest.approx(mean(rain), rel=1e-6)
    assert (to(rain, spacing, "tp") >= 0).all()


def test_an_average_by_hand() -> None:
    # Cells of 30 degrees to cells of 60, one of which reaches from -30 to 30 degrees east: half of the cells at 330
    # and 30, all of that at 0.
    data = field(30, values=np.arange(12.0))
    result = to(data, 60, "tp")
    assert result.sel(latitude=-30, longitude=0).values == pytest.approx((11 / 2 + 0 + 1 / 2) / 2)
    assert result.sel(latitude=-30, longitude=60).values == pytest.approx((1 / 2 + 2 + 3 / 2) / 2)


def test_classes_and_directions_are_taken_from_the_nearest() -> None:
    types = field(values=np.arange(24) % 8)
    result = to(types, 9, "static_slt", "linear")
    assert set(np.unique(result)) <= set(range(8))
    # The nearest to 351 is 345, column 23.
    assert (result.sel(longitude=351) == 7).all()


@pytest.mark.parametrize(
    ("name", "method"),
    (
        ("2t", "linear"), ("t", "linear"), ("static_z", "linear"), ("mine", "linear"),
        ("tp", "conservative"), ("ssrd", "conservative"), ("static_lsm", "conservative"), ("tcc", "conservative"),
        ("static_slt", "nearest"), ("mwd", "nearest"), ("static_anor", "nearest"),
    ),
)  # fmt: skip
def test_what_a_field_is_decides_how(name: str, method: str) -> None:
    assert method_of(name, None) == method
    assert method_of(name, "linear") == ("nearest" if method == "nearest" else "linear")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_missing_stays_missing_and_spreads_no_further_than_its_neighbours(method: str) -> None:
    data = field()
    data[6, 6] = np.nan
    missing = to(data, 9, asked=method).isnull()
    assert missing.sel(latitude=0, longitude=90).all()
    near = missing.where(missing, drop=True)
    # Old points or cells are 15 degrees apart, new cells are 9 wide.
    assert np.abs(near["latitude"]).max() < 15
    assert np.abs(near["longitude"] - 90).max() < 15


@pytest.mark.parametrize("method", METHODS)
def test_the_same_grid_is_left_alone(method: Any) -> None:
    notes: list[str] = []
    data = field()
    result, facts = regridded({"tp": data}, TargetGrid.of_spacing(15), method, notes.append)
    np.testing.assert_array_equal(result["tp"], data)
    assert facts == {}
    assert notes == ["--regrid 15 degrees: the data are on that grid already; left as they are"]


def test_states_are_read_one_by_one() -> None:
    read = []

    def block(block_info: Any = None) -> Any:
        read.append(block_info[None]["chunk-location"][0])
        return np.ones((1, 13, 24), dtype=np.float32)

    mapped: Any = da.map_blocks
    lazy = mapped(block, chunks=((1,) * 5, (13,), (24,)), dtype=np.float32, meta=np.zeros((0, 0, 0), "f4"))
    data = field(times=5).copy(data=lazy)
    for name in ("2t", "tp"):
        result = to(data, 9, name)
        assert read == []
        result.isel(time=3).load()
        assert set(read) == {3}
        read.clear()


def test_a_box_across_greenwich() -> None:
    globe = field(5)
    box = globe.isel(latitude=slice(6, 15), longitude=[0, 1, 2, 3, 69, 70, 71])
    for method in METHODS:
        part, whole = to(box, 2.5, asked=method), to(globe, 2.5, asked=method)
        assert part["longitude"].values.tolist() == [*np.arange(0, 15.1, 2.5), *np.arange(345, 360, 2.5)]
        assert part["latitude"].values.tolist() == np.arange(60, 19, -2.5).tolist()
        inner = part.isel(latitude=slice(1, -1)).where(~part["longitude"].isin([15, 345]), drop=True)
        same = whole.sel(latitude=inner["latitude"], longitude=inner["longitude"])
        np.testing.assert_allclose(inner, same, rtol=1e-6)


def test_what_cannot_be_regridded(tmp_path: Path) -> None:
    curved = xr.DataArray(
        np.zeros((2, 2)),
        {"latitude": (("y", "x"), np.zeros((2, 2))), "longitude": (("y", "x"), np.zeros((2, 2)))},
        ("y", "x"),
    )
    with pytest.raises(StoreError, match="no way from a curvilinear grid"):
        to(curved, 9)
    with pytest.raises(StoreError, match="fewer than two points lie within the data"):
        to(field().isel(latitude=slice(5, 7), longitude=slice(1, 3)), 45)
    with pytest.raises(StoreError, match="--regrid_like .*none: no such store or file"):
        TargetGrid.like(str(tmp_path / "none"))
    field(30).isel(latitude=slice(2, 4)).to_netcdf(tmp_path / "grid.nc")
    with pytest.raises(StoreError, match="its points lie beyond the data's"):
        regridded({"2t": field().isel(latitude=slice(0, 4))}, TargetGrid.like(str(tmp_path / "grid.nc")), None, print)
    for options, message in (
        ({"regrid": 9, "regrid_like": "a"}, "--regrid and --regrid_like"),
        ({"regrid_method": "linear"}, "--regrid_method has no effect without"),
    ):
        with pytest.raises(ValidationError, match=message):
            BuildSettings(source="zarr", path="a", out=tmp_path, **options)


def test_a_build_on_another_grid(tmp_path: Path) -> None:
    source = write(weatherbench(times=4), tmp_path / "wb.zarr", chunk=2)
    options: dict[str, Any] = {"source": "zarr", "path": str(source), "variables": ("2t", "tp"), "train": "2020/2020"}
    whole = build_store(BuildSettings(out=tmp_path / "whole", regrid=18, **options))
    assert (len(whole.latitude), len(whole.longitude)) == (11, 20)
    told = whole.attributes["regridding"]
    assert told["methods"]["tp"] == told["methods"]["static_lsm"] == "conservative"
    assert (told["methods"]["2t"], told["methods"]["static_slt"]) == ("linear", "nearest")
    assert told["library"].startswith("xarray-regrid ")
    history = " ".join(whole.attributes["history"])
    assert "regridded from 8 x 16 points 22.5 degrees apart" in history
    assert "the new grid is finer than the data's (22.5 degrees)" in history
    # A region is regridded with its surroundings, and is the same as a part of the whole.
    region = build_store(BuildSettings(out=tmp_path / "region", regrid=18, region=(40, 340, -40, 40), **options))
    assert region.latitude.tolist() == [36, 18, 0, -18, -36]
    assert region.longitude.tolist() == [0, 18, 36, 342]
    part = whole.read("2t", [2], slice(3, 8))[..., [0, 1, 2, 19]]
    np.testing.assert_allclose(region.read("2t", [2]), part, rtol=1e-6)
    # Another's grid.
    like = build_store(BuildSettings(out=tmp_path / "like", regrid_like=str(tmp_path / "region"), **options))
    np.testing.assert_allclose(like.read("tp", [2]), region.read("tp", [2]), rtol=1e-5)
