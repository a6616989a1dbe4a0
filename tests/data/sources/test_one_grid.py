"""Files of one build on several grids."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.settings import BuildSettings
from kit.data.sources.one_grid import on_one_grid
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form
from tests.real_data import real_data


def build(path: Path, out: Path, **options: Any) -> Store:
    return build_store(BuildSettings(source="netcdf", path=str(path), out=out, statics=("coslat",), **options))


def download(folder: Path) -> Path:
    """A download of the CDS with a wave stream at every second point."""
    fields = {"oper": new_form(("t2m", "msl")), "wave": new_form(("t2m",)).rename(t2m="swh")}
    fields["wave"]["swh"].attrs["units"] = "m"
    fields["wave"] = fields["wave"].isel(latitude=slice(None, None, 2), longitude=slice(None, None, 2))
    path = folder / "download.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for stream, dataset in fields.items():
            name = f"data_stream-{stream}_stepType-instant.nc"
            dataset.to_netcdf(folder / name)
            archive.write(folder / name, name)
    return path


def test_streams_and_their_grids_are_named(tmp_path: Path) -> None:
    path = download(tmp_path)
    with pytest.raises(StoreError) as caught:
        build(path, tmp_path / "out")
    text = str(caught.value)
    assert text.startswith("the grids of two files differ: download.zip:data_stream-wave_stepType-instant.nc has 2 lat")
    assert "for swh; download.zip:data_stream-oper_stepType-instant.nc has 3 latitudes from 50.5 to 50, for 2t" in text
    assert text.endswith("leave out what lies on others, with --leave_out swh, or regrid or crop it first")
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_not_compared(tmp_path: Path) -> None:
    path = download(tmp_path)
    store = build(path, tmp_path / "out", leave_out=("swh",))
    assert sorted(store.surface) == ["2t", "msl"]
    np.testing.assert_array_equal(store.read("2t", [0]), new_form(("t2m",))["t2m"].values[:1])
    assert sorted(build(path, tmp_path / "named", variables=("2t",)).surface) == ["2t"]
    assert sorted(build(path, tmp_path / "waves", variables=("swh",)).surface) == ["swh"]
    with pytest.raises(StoreError, match="--leave_out mwp has no effect: the data hold no mwp, but 2t, msl, swh"):
        build(path, tmp_path / "no", leave_out=("mwp",))


def test_one_variable_on_two_grids_needs_other_files(tmp_path: Path) -> None:
    new_form(("t2m", "msl")).to_netcdf(tmp_path / "a.nc")
    new_form(("t2m",)).isel(latitude=slice(0, 2)).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(StoreError, match="A store keeps one grid: give files of one grid alone, as 2t lies on several"):
        build(tmp_path, tmp_path / "out")


def test_last_digits_may_differ() -> None:
    one = xr.DataArray(np.zeros((2, 2)), {"latitude": [50.0, 49.0], "longitude": [0.0, 1.0]}, ("latitude", "longitude"))
    other = one.assign_coords(latitude=[50.00001, 49.0])
    aligned = on_one_grid({"2t": [("a.nc", one)], "msl": [("b.nc", other)]})
    assert aligned["msl"][0][1]["latitude"].values.tolist() == [50.0, 49.0]
    assert list(aligned) == ["2t", "msl"]


def test_a_download_with_waves(tmp_path: Path) -> None:
    path = real_data("field-cases") / "s02_download.zip"
    options = {"source": "netcdf", "path": str(path), "product": "era5"}
    with pytest.raises(StoreError, match=r"data_stream-wave_stepType-instant.nc has 4 lat.*--leave_out swh"):
        build_store(BuildSettings(out=tmp_path / "out", **options))
    store = build_store(BuildSettings(out=tmp_path / "out", leave_out=("swh",), **options))
    assert (sorted(store.surface), store.static) == (["10u", "10v", "2t", "msl", "tp"], ("lsm",))
    assert store.shape == (8, 12)
