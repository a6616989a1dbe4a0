"""NetCDF-4 files whose fields lie in groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form
from tests.real_data import real_data


def build(path: Path, out: Path, *group: str, **options: Any) -> Store:
    return build_store(
        BuildSettings(source="netcdf", path=str(path), out=out, group=group, **{"statics": ("coslat",)} | options)
    )


def grouped(path: Path) -> xr.Dataset:
    """Surface fields and such on levels in groups of their own, the coordinates in the root."""
    surface, levels = new_form(("t2m", "msl")), new_form(("t",), levels=(850, 500))
    together = surface.merge(levels, compat="equals", join="exact")
    xr.Dataset(coords=together.coords).to_netcdf(path)
    for group, dataset in (("surface", surface), ("upper/air", levels)):
        bare = dataset.drop_vars(list(dataset.coords))
        bare.to_netcdf(path, group=group, mode="a")
    return together


def test_groups_are_named(tmp_path: Path) -> None:
    grouped(tmp_path / "a.nc")
    with pytest.raises(StoreError) as caught:
        build(tmp_path / "a.nc", tmp_path / "out")
    expected = (
        "a.nc: the fields of this file lie in groups, surface, upper/air; name those to take with --group, such as "
        "--group surface"
    )
    assert str(caught.value) == expected
    with pytest.raises(StoreError, match="has no group 'upper/sea'; its groups are surface, upper/air"):
        build(tmp_path / "a.nc", tmp_path / "out", "upper/sea")


def test_groups_are_taken_with_the_coordinates_around_them(tmp_path: Path) -> None:
    together = grouped(tmp_path / "a.nc")
    store = build(tmp_path / "a.nc", tmp_path / "out", "surface", "upper/air")
    assert (sorted(store.surface), store.atmospheric) == (["2t", "msl"], ("t",))
    states = range(together.sizes["valid_time"])
    np.testing.assert_array_equal(store.read("2t", states), together["t2m"])
    np.testing.assert_array_equal(store.read("t", states), together["t"].values[:, ::-1])
    assert list(build(tmp_path / "a.nc", tmp_path / "surface", "/surface/").surface) == ["2t", "msl"]


def test_groups_beside_fields_are_left_out_with_a_word(tmp_path: Path) -> None:
    new_form(("t2m",)).to_netcdf(tmp_path / "a.nc")
    new_form(("msl",)).to_netcdf(tmp_path / "a.nc", group="more", mode="a")
    store = build(tmp_path / "a.nc", tmp_path / "out")
    assert list(store.surface) == ["2t"]
    assert "a.nc: the groups more left out; name one with --group to have it" in store.attributes["history"]


def test_a_file_without_groups_is_no_file_of_a_group(tmp_path: Path) -> None:
    new_form(("t2m",)).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(StoreError, match="its groups are none that holds a field; leave --group out"):
        build(tmp_path / "a.nc", tmp_path / "out", "data")
    with pytest.raises(ValueError, match="--group has no effect with --source zarr"):
        BuildSettings(source="zarr", path="a.zarr", out=tmp_path / "out", group=("data",))


def test_a_real_looking_file(tmp_path: Path) -> None:
    path = real_data("field-cases") / "s21_groups.nc"
    with pytest.raises(StoreError, match="the fields of this file lie in groups, data; .* such as --group data"):
        build(path, tmp_path / "out")
    store = build(path, tmp_path / "out", "data")
    with xr.open_dataset(path, group="data") as file:
        np.testing.assert_array_equal(store.read("2t", range(8)), file["t2m"])
        np.testing.assert_array_equal(store.read("q", range(8)), file["q"].sortby("pressure_level"))
