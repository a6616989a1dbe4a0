"""Static fields from files of their own: upstream's pickles, NetCDF, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr

from kit.cli.main import main
from kit.data.settings import BuildSettings
from kit.data.sources.base import SourceData
from kit.data.statics import with_statics
from kit.data.store.build import build_store
from kit.io.errors import StoreError
from tests.everyday import one_in
from tests.factories import synthetic_dataset
from tests.hostile import Command


def source(latitude: Any, longitude: Any, static: tuple[str, ...] = ("lsm",)) -> SourceData:
    """Data of which the coordinates alone matter here."""
    grid = synthetic_dataset(height=len(latitude), width=len(longitude), static=static)
    grid = grid.assign_coords(latitude=list(map(float, latitude)), longitude=list(map(float, longitude)))
    fields = {str(name): array for name, array in grid.data_vars.items()}
    return SourceData(fields, tuple(fields), ())


def numbered(height: int, width: int) -> npt.NDArray[np.floating]:
    """1000 times the row, plus the column."""
    return 1000.0 * np.arange(height)[:, None] + np.arange(width)


def pickled(path: Path, height: int = 9, width: int = 16, **fields: Any) -> Path:
    """As upstream publishes them: names and arrays on the whole grid, no coordinates. 9 x 16 is 22.5 degrees."""
    path.write_bytes(pickle.dumps(fields or {name: numbered(height, width) for name in ("z", "slt", "lsm")}))
    return path


ROWS, COLUMNS = 90 - 22.5 * np.arange(9), 22.5 * np.arange(16)


def test_the_whole_globe(tmp_path: Path) -> None:
    file = pickled(tmp_path / "s.pickle")
    got = with_statics(source(ROWS, COLUMNS), str(file), None)
    for name in ("static_z", "static_slt", "static_lsm"):
        np.testing.assert_array_equal(got.fields[name].values, numbered(9, 16))
        assert got.fields[name].dtype == np.float32
    assert got.fields["static_z"].attrs["units"] == "m2 s-2"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert got.files[-1] == {"name": "s.pickle", "sha256": digest, "size": file.stat().st_size}
    note = f"lsm, slt, z taken from s.pickle (SHA-256 {digest}), in the place of the data's own lsm"
    assert f"static variables {note}" in got.notes


@pytest.mark.parametrize("rows", (8, 9))
def test_without_the_south_pole_on_either_side(tmp_path: Path, rows: int) -> None:
    got = with_statics(source(ROWS[:8], COLUMNS), str(pickled(tmp_path / "s", rows)), None)
    np.testing.assert_array_equal(got.fields["static_z"].values, numbered(9, 16)[:8])


def test_a_region_and_one_across_greenwich(tmp_path: Path) -> None:
    """Rows 2 and 3 are 45 and 22.5 N; columns 1 and 2 are 22.5 and 45 E, 0, 14 and 15 lie across Greenwich."""
    file = str(pickled(tmp_path / "s"))
    got = with_statics(source((45, 22.5), (22.5, 45)), file, None)
    assert got.fields["static_z"].values.tolist() == [[2001, 2002], [3001, 3002]]
    got = with_statics(source((45, 22.5), (0, 315, 337.5)), file, None)
    assert got.fields["static_z"].values.tolist() == [[2000, 2014, 2015], [3000, 3014, 3015]]
    got = with_statics(source((45, 22.5), (0, 337.5)), file, None)
    assert got.fields["static_z"].values.tolist() == [[2000, 2015], [3000, 3015]]


def test_single_precision_coordinates_of_a_tenth_of_a_degree(tmp_path: Path) -> None:
    file = pickled(tmp_path / "s", z=np.zeros((1801, 3600), np.float32) + np.arange(3600, dtype=np.float32))
    latitude, longitude = np.array((55.1, 55.0), np.float32), np.array((359.8, 359.9), np.float32)
    got = with_statics(source(latitude, longitude), str(file), None)
    assert got.fields["static_z"].values.tolist() == [[3598, 3599]] * 2


def test_names_that_begin_with_static_are_upstreams(tmp_path: Path) -> None:
    """The air-pollution model has a static variable that is called ``static_co``; a store prefixes it once more."""
    file = pickled(tmp_path / "s", static_co=numbered(9, 16), mine=numbered(9, 16))
    got = with_statics(source(ROWS, COLUMNS), str(file), None)
    assert {"static_static_co", "static_mine"} <= got.fields.keys()


def test_upstreams_torch_tensors_and_integers(tmp_path: Path) -> None:
    file = pickled(tmp_path / "s", z=torch.tensor(numbered(9, 16)), slt=numbered(9, 16).astype(np.int64))
    got = with_statics(source(ROWS, COLUMNS), str(file), None)
    np.testing.assert_array_equal(got.fields["static_z"].values, got.fields["static_slt"].values)


@pytest.mark.parametrize("west", (0, -180))
def test_netcdf_in_other_units_and_with_a_time(tmp_path: Path, west: int) -> None:
    longitude = west + COLUMNS
    field = (("time", "lat", "lon"), numbered(9, 16)[None, ::-1], {"units": "m**2 s**-2"})
    dataset = xr.Dataset(
        {"z": field, "t2m": field},
        {"time": [np.datetime64("2020-01-01", "ns")], "lat": ROWS[::-1], "lon": longitude},
    )
    dataset.to_netcdf(tmp_path / "s.nc")
    got = with_statics(source((45, 22.5), (22.5, 45), ()), str(tmp_path / "s.nc"), None)
    first = 1 if west == 0 else 9
    assert got.fields["static_z"].values.tolist() == [[2000 + first, 2001 + first], [3000 + first, 3001 + first]]
    assert "static_t2m" not in got.fields


def states_and_statics(**dims: int) -> xr.Dataset:
    """A file of states with constant fields along the times, one level, and dates that xarray alone would not read."""
    grid = {"latitude": ROWS, "longitude": COLUMNS}
    hours = ("time", np.arange(3) * 6.0, {"units": "hours since 2290-01-01"})
    data = xr.Dataset(
        {
            "t2m": (("time", *grid), np.random.default_rng(0).random((3, 9, 16)), {"units": "K"}),
            "t": (("time", "level", *grid), np.ones((3, 2, 9, 16)), {"units": "K"}),
            "lsm": (("time", *grid), np.stack([numbered(9, 16)] * 3), {"units": "(0 - 1)"}),
            "z": (tuple(grid), numbered(9, 16), {"units": "m**2 s**-2"}),
            "snow_of_ours": (("time", *grid), np.random.default_rng(1).random((3, 9, 16))),
        },
        {"time": hours, "level": ("level", [1.0, 137.0], {"long_name": "hybrid level"}), **grid},
    )
    return data.expand_dims(dims) if dims else data


@pytest.mark.parametrize("form", one_in(2, ("NETCDF4", "NETCDF3_64BIT")))
@pytest.mark.parametrize("dims", ({}, {"expver": 2}, {"step": 2}))
def test_the_data_file_itself(tmp_path: Path, form: Any, dims: dict[str, int]) -> None:
    dataset = states_and_statics(**dims)
    if "expver" in dims:
        dataset["expver"] = ("expver", [1, 5])
    if "step" in dims:
        dataset["step"] = ("step", [0, 6], {"units": "hours"})
    dataset.to_netcdf(tmp_path / "data.nc", format=form)
    got = with_statics(source(ROWS, COLUMNS, ()), str(tmp_path / "data.nc"), None)
    assert sorted(name for name in got.fields if name.startswith("static_")) == ["static_lsm", "static_z"]
    np.testing.assert_array_equal(got.fields["static_lsm"].values, numbered(9, 16))
    made = BuildSettings(
        source="netcdf", path=str(tmp_path / "data.nc"), out=tmp_path / "store", variables=("2t",),
        statics_from=str(tmp_path / "data.nc"),
    )  # fmt: skip
    store = build_store(made)
    assert store.static == ("lsm", "z")
    assert [str(time) for time in store.times[:1]] == ["2290-01-01T00:00:00"]


def test_files_that_hold_no_static_field(tmp_path: Path) -> None:
    states_and_statics()[["t2m"]].to_netcdf(tmp_path / "data.nc")
    with pytest.raises(StoreError, match="has no effect: it holds no fields"):
        with_statics(source(ROWS, COLUMNS), str(tmp_path / "data.nc"), None)
    (tmp_path / "a.grib").write_bytes(b"GRIB" + bytes(100))
    with pytest.raises(StoreError, match=r"a\.grib: not a readable pickle .*The file is GRIB"):
        with_statics(source(ROWS, COLUMNS), str(tmp_path / "a.grib"), None)


def test_a_static_field_that_changes(tmp_path: Path) -> None:
    dataset = states_and_statics()
    dataset["lsm"][1, 0, 0] = -1
    dataset.to_netcdf(tmp_path / "data.nc")
    with pytest.raises(StoreError, match=r"lsm has no pressure .* is taken to be static, but data\.nc at 2290"):
        with_statics(source(ROWS, COLUMNS), str(tmp_path / "data.nc"), None)


@pytest.mark.parametrize(
    ("fields", "rows", "columns", "message"),
    (
        ({}, ROWS[::2], COLUMNS[::2], "its latitudes are 22.5 degrees apart, those of the data 45"),
        ({}, ROWS[:4] - 1, COLUMNS, r"has no latitude 89; it holds 9 from 90 to -90, 22.5 degrees apart"),
        ({}, ROWS, (1.0, 23.5), r"has no longitude 1; it holds 16 from 0 to 337.5"),
        ({"z": numbered(5, 7)}, ROWS, COLUMNS, r"arrays of 5 x 7 points are no global grid"),
        ({"z": numbered(5, 16)}, ROWS, COLUMNS, r"expected 9 rows \(or 8, without the south pole\) for 16 columns"),
        ({"z": numbered(9, 16), "lsm": numbered(8, 16)}, ROWS, COLUMNS, r"arrays of one shape .* \(8, 16\), \(9, 16\)"),
        ({"z": numbered(9, 16)[None]}, ROWS, COLUMNS, r"arrays of one shape \[H, W\], got the shapes \(1, 9, 16\)"),
        ({"z": "text"}, ROWS, COLUMNS, "'z' holds a str, expected an array of numbers"),
        ({"latitude": ROWS, "longitude": COLUMNS, "z": numbered(8, 16)}, ROWS, COLUMNS, "coordinates of the shapes"),
    ),
)
def test_what_does_not_fit_is_refused(tmp_path: Path, fields: Any, rows: Any, columns: Any, message: str) -> None:
    file = pickled(tmp_path / "s", **fields)
    with pytest.raises(StoreError, match=message):
        with_statics(source(rows, columns), str(file), None)


def test_a_region_with_its_coordinates_in_the_dictionary(tmp_path: Path) -> None:
    file = pickled(tmp_path / "s", latitude=ROWS[2:5], longitude=COLUMNS[:3], z=numbered(3, 3))
    got = with_statics(source(ROWS[2:4], COLUMNS[1:3]), str(file), None)
    assert got.fields["static_z"].values.tolist() == [[1, 2], [1001, 1002]]


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(pickle.dumps({"z": Command(f"touch {tmp_path / 'executed'}")}))
    with pytest.raises(StoreError, match="Nothing was executed"):
        with_statics(source(ROWS, COLUMNS), str(tmp_path / "s"), None)
    (tmp_path / "s").write_bytes(pickle.dumps([1]))
    with pytest.raises(StoreError, match="holds a list, expected a dictionary"):
        with_statics(source(ROWS, COLUMNS), str(tmp_path / "s"), None)
    (tmp_path / "s").write_bytes(b"\x89HDF and nothing more")
    with pytest.raises(StoreError, match="not readable as NetCDF"):
        with_statics(source(ROWS, COLUMNS), str(tmp_path / "s"), None)
    assert not (tmp_path / "executed").exists()


def test_no_effect_and_no_such_file(tmp_path: Path) -> None:
    file = pickled(tmp_path / "s")
    with pytest.raises(StoreError, match="has no effect: it holds lsm, slt, z, of which --statics names none"):
        with_statics(source(ROWS, COLUMNS), str(file), ("coslat",))
    with pytest.raises(StoreError, match=r"'aurora-0.25-statics' is no file.*fields are aurora-0.25-static,"):
        with_statics(source(ROWS, COLUMNS), "aurora-0.25-statics", None)
    assert "static_slt" in with_statics(source(ROWS, COLUMNS), str(file), ("slt_3",)).fields
    data = source(ROWS, COLUMNS)
    assert with_statics(data, None, None) is data


def test_built_into_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = synthetic_dataset(static=(), times=4).assign_coords(latitude=ROWS[0] - np.arange(16) * 11.25)
    arrays = {str(name): array.values for name, array in data.variables.items()}
    (tmp_path / "data.pickle").write_bytes(pickle.dumps(arrays))
    file = pickled(tmp_path / "s.pickle", 17, 32)
    made = BuildSettings(
        source="pickle", path=tmp_path / "data.pickle", out=tmp_path / "store", statics_from=str(file),
        statics=("z", "slt_3", "coslat"),
    )  # fmt: skip
    store = build_store(made)
    assert store.static == ("coslat", "slt_3", "z")
    np.testing.assert_array_equal(store.read_static("z"), numbered(17, 32)[:16])
    assert store.attributes["source_files"][-1]["name"] == "s.pickle"
    assert any("slt, z taken from s.pickle (SHA-256" in note for note in store.attributes["history"])
    arguments = ["data", "build", "--source", "pickle", "--path", str(tmp_path / "data.pickle")]
    out = tmp_path / "other"
    assert main([*arguments, "--out", str(out), "--statics_from", str(pickled(tmp_path / "t", 5, 6))]) == 2
    assert "5 x 6 points are no global grid" in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def test_on_a_curvilinear_grid_they_come_on_the_datas_own_points(tmp_path: Path) -> None:
    dataset = synthetic_dataset(curvilinear=True, times=2, static=("lsm",))
    data = SourceData({"2t": dataset["2t"]}, ("2t",), ())
    statics = dataset[["static_lsm"]].rename(static_lsm="lsm").isel(y=slice(None, None, -1))
    statics.to_netcdf(tmp_path / "own.nc")
    got = with_statics(data, str(tmp_path / "own.nc"), None).fields["static_lsm"]
    np.testing.assert_array_equal(got, dataset["static_lsm"])
    assert got.dims == ("y", "x")
    statics.isel(x=slice(1, None)).to_netcdf(tmp_path / "part.nc")
    for file, found in ((tmp_path / "part.nc", "16 x 31 from 30"), (pickled(tmp_path / "globe.pickle"), "9 from -90")):
        with pytest.raises(StoreError, match=rf"latitudes are {found}.*of the data 16 x 32 from 30.*not interpolated"):
            with_statics(data, str(file), None)


@pytest.mark.parametrize("west", (30.0, -1.6))
def test_a_region_of_a_curvilinear_grid_takes_them_from_the_whole_of_it(tmp_path: Path, west: float) -> None:
    """The second grid crosses Greenwich, and has no order but in the region."""
    rows, columns = np.meshgrid(np.arange(9), np.arange(11), indexing="ij")
    # Rows of the file go north, and are no parallels.
    latitude, longitude = 40 + 0.2 * rows + 0.01 * columns, west + 0.3 * columns + 0.01 * rows
    grid = ("south_north", "west_east")
    dataset = xr.Dataset(
        {
            "t2m": (("time", *grid), 280 + np.random.default_rng(0).random((2, 9, 11)), {"units": "K"}),
            "lsm": (("time", *grid), np.stack([numbered(9, 11)] * 2), {"units": "1"}),
        },
        {
            "time": ("time", [0, 6], {"units": "hours since 2020-01-01"}),
            "lat": (grid, latitude),
            "lon": (grid, longitude),
        },
    )
    dataset.to_netcdf(tmp_path / "a.nc")
    store = build_store(
        source="netcdf", path=tmp_path / "a.nc", out=tmp_path / "store", region=(41.0, west + 1.8, 40.3, west + 2.5),
        statics=("lsm",), statics_from=str(tmp_path / "a.nc"), train="2020/2020",
    )  # fmt: skip
    # Each point takes the number of its own place: 1000 times the row, plus the column.
    place = np.rint((store.longitude - west) % 360 / 0.3) + 1000 * np.rint((store.latitude - 40) / 0.2)
    np.testing.assert_array_equal(store.read_static("lsm"), place)
