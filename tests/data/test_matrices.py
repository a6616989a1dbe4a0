from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.base import Request
from kit.data.sources.coordinates import canonical_coordinates, projection_of
from kit.data.sources.merging import merge
from kit.data.sources.netcdf import open_source
from kit.data.statics import choose_statics
from kit.data.store.format import GRID
from kit.io.errors import StoreError
from tests.factories import LAMBERT, as_matrices, synthetic_dataset

LATITUDE = np.array([[50.0, 50.5, 50.0], [49.0, 49.5, 49.0]])
ROWS, COLUMNS = "rows flipped so that latitudes decrease", "columns flipped so that longitudes increase"
LONGITUDE = np.array([[10.0, 11.0, 12.0], [9.5, 11.0, 12.5]])


def field(
    latitude: Any = LATITUDE,
    longitude: Any = LONGITUDE,
    *,
    dims: tuple[str, str] = ("south_north", "west_east"),
    names: tuple[str, str] = ("XLAT", "XLONG"),
    **extra: Any,
) -> xr.Dataset:
    """One field whose values are 10 x row + column of the matrices."""
    values = 10.0 * np.arange(len(latitude))[:, None] + np.arange(latitude.shape[1])
    coords = {names[0]: (dims, latitude), names[1]: (dims, longitude)}
    return xr.Dataset({"t2m": (dims, values, {"units": "K"})}, coords=coords | extra)


def canonical(dataset: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    notes: list[str] = []
    return canonical_coordinates(dataset, "a.nc", notes.append), notes


@pytest.mark.parametrize(
    ("dataset", "said", "values"),
    [
        (field(), [], [[0, 1, 2], [10, 11, 12]]),
        (field(names=("lat", "lon")).reset_coords(), [], [[0, 1, 2], [10, 11, 12]]),
        (field(dims=("y", "x"), y=[3e6, 0.0], x=[0.0, 3e6, 6e6]), [], [[0, 1, 2], [10, 11, 12]]),
        (field(LATITUDE[::-1], LONGITUDE[::-1]), [ROWS], [[10, 11, 12], [0, 1, 2]]),
        (field(longitude=LONGITUDE[:, ::-1]), [COLUMNS], [[2, 1, 0], [12, 11, 10]]),
        # The file's rows are columns, and its names are exchanged.
        (field(LATITUDE.T, LONGITUDE.T, dims=("x", "y")), [], [[0, 10, 20], [1, 11, 21]]),
    ],
)  # fmt: skip
def test_matrices_come_onto_y_and_x(dataset: xr.Dataset, said: list[str], values: Any) -> None:
    found, notes = canonical(dataset)
    assert notes == said
    assert found["t2m"].dims == ("y", "x")
    assert found["t2m"].values.tolist() == values
    assert set(found.coords) == {"latitude", "longitude"}
    np.testing.assert_array_equal(found["latitude"], LATITUDE)
    assert (np.diff(found["longitude"], axis=1) > 0).all()


def test_western_longitudes_are_shifted() -> None:
    found, notes = canonical(field(longitude=LONGITUDE - 100))
    assert notes == ["longitudes shifted to [0, 360)"]
    np.testing.assert_allclose(found["longitude"], LONGITUDE + 260)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (field(longitude=LONGITUDE - 11), r"are matrices of \(2, 3\) points \(49 to 50.5 degrees"),
        (field(latitude=np.where(LATITUDE == 49.5, np.nan, LATITUDE)), "latitude must hold finite numbers, found nan"),
        (field(latitude=LATITUDE + 45), r"94 to 95.5 degrees north.* with --region, or regrid it"),
        (field().assign_coords(XLONG=("west_east", [1.0, 2.0, 3.0])), r"lies on .*, longitude on \('west_east',\)"),
        (field().drop_vars("XLONG"), r"longitude is needed as a vector, or as a matrix \[y, x\], found none"),
    ],
)  # fmt: skip
def test_matrices_without_the_order_are_refused(dataset: xr.Dataset, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        canonical(dataset)


def test_a_regular_grid_that_comes_as_matrices_is_kept_as_vectors() -> None:
    regular = synthetic_dataset(times=2, box=(50, 0, 40, 20), height=3, width=5)
    for dataset in (as_matrices(regular), as_matrices(regular).transpose("x", ...)):
        found, notes = canonical(dataset)
        assert notes == ["latitudes and longitudes given as matrices are those of a regular grid; kept as vectors"]
        xr.testing.assert_equal(found, regular)


def test_the_projection_is_read_from_the_grid_mapping(tmp_path: Path) -> None:
    dataset = synthetic_dataset(curvilinear=True, times=2).drop_vars("static_slt")
    dataset = dataset.rename({"2t": "t2m", "static_lsm": "lsm"})
    dataset["projected"] = ((), 0, LAMBERT)
    dataset["t2m"].attrs |= {"grid_mapping": "projected", "units": "K"}
    dataset.to_netcdf(tmp_path / "a.nc")
    assert projection_of(dataset.drop_vars("projected")) == {}
    request = Request(frozenset({"2t"}), frozenset({"static_lsm"}))
    with open_source([tmp_path / "a.nc"], request) as found:
        assert found.projection == LAMBERT
        np.testing.assert_array_equal(found.fields["2t"], dataset["t2m"])
        assert found.fields["static_lsm"].dims == ("y", "x")
        statics = choose_statics(found.fields, found.fields["2t"], ("coslat", "sinlon", "lsm"), lambda _: None)
    np.testing.assert_array_equal(statics["static_coslat"], np.cos(np.deg2rad(dataset["latitude"])).astype(np.float32))
    assert statics["static_sinlon"].dims == ("y", "x")


def test_pieces_on_other_points_are_refused() -> None:
    first, _ = canonical(field())
    other = first.assign_coords(latitude=first["latitude"] + 1)
    pieces = [("a.nc", first["t2m"].expand_dims(time=[0])), ("b.nc", other["t2m"].expand_dims(time=[1]))]
    expected = r"b.nc has 2 x 3 latitudes from 50 to 51.5, for 2t; a.nc has 2 x 3 latitudes from 49.*2t lies on several"
    with pytest.raises(StoreError, match=expected):
        merge({"2t": pieces}, lambda _: None)
    joined = merge({"2t": [pieces[0], ("c.nc", first["t2m"].expand_dims(time=[1]))]}, lambda _: None)["2t"]
    assert joined.dims == ("time", "y", "x")
    assert {name: joined[name].dims for name in GRID} == dict.fromkeys(GRID, ("y", "x"))
