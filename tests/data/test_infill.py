from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from kit.data import infill
from kit.data.infill import fill_missing, parse_infill_notes
from kit.data.infill_rules import Rule
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.io.errors import SettingsError, StoreError
from tests.data.sources.era5_files import old_form, write

LATITUDE, LONGITUDE = 60 - np.arange(20.0), np.arange(30.0)


def dataset(holes: tuple[tuple[int | slice, ...], ...] = (), *, name: str = "2t", chunk: int = 0) -> xr.Dataset:
    """10 states, 6-hourly: 1000 t + 30 row + column; holes are [time, row, column]."""
    values = (1000 * np.arange(10)[:, None, None] + np.arange(600).reshape(20, 30)).astype(np.float32)
    for hole in holes:
        values[hole] = np.nan
    times = np.datetime64("2020-01-01", "ns") + np.arange(10) * np.timedelta64(6, "h")
    array = xr.DataArray(
        values, {"time": times, "latitude": LATITUDE, "longitude": LONGITUDE}, ("time", "latitude", "longitude")
    )
    made = array.to_dataset(name=name)
    return made.chunk(time=chunk) if chunk else made


def fill(data: xr.Dataset, how: str, notes: list[str] | None = None) -> Any:
    (name,) = data.data_vars
    (rule,) = BuildSettings.model_validate(
        {"source": "netcdf", "path": ".", "out": "x", "infill": f"{name}={how}"}
    ).infill
    return fill_missing(data, (rule,), (notes if notes is not None else []).append)[name]


def test_the_nearest_point_on_the_sphere() -> None:
    # At 60 N a step to the east is half a step to the north; at the border there is one neighbour to the east.
    notes: list[str] = []
    result = fill(dataset(((2, 5, 7), (3, 0, 0), (3, 0, 1))), "nearest", notes)
    values = result.values
    assert values[2, 5, 7] in (2000 + 5 * 30 + 6, 2000 + 5 * 30 + 8)
    assert values[3, 0, 0] == 3000 + 2 or values[3, 0, 0] == 3000 + 30
    assert values[3, 0, 1] == 3002
    whole = dataset()["2t"].values
    assert (values != whole).sum() == 3
    assert notes == ["2t: 3 of 6000 values in 2 of 10 states were missing and filled by nearest"]
    assert parse_infill_notes(notes) == {"2t": (3, "nearest")}
    facts = {"infill_method": "nearest", "infill_values": 3, "infill_states": 2}
    assert result.attrs == facts


def test_nearest_looks_across_greenwich_and_takes_matrices_of_coordinates() -> None:
    whole = dataset(((0, 4, 0), (0, 4, 1))).assign_coords(longitude=np.r_[0:15, 345:360].astype(float))
    assert fill(whole, "nearest").values[0, 4, 0] == 4 * 30 + 29
    grid = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    curved = xr.Dataset(
        {"2t": (("time", "y", "x"), whole["2t"].values)},
        {"time": whole["time"], "latitude": (("y", "x"), grid[0]), "longitude": (("y", "x"), grid[1])},
    )
    assert fill(curved, "nearest").values[0, 4, 1] == 4 * 30 + 2


@pytest.mark.parametrize(
    "hole",
    (
        (3,),  # a whole state
        (3, 4),  # a row
        (slice(None), slice(0, 6), slice(0, 6)),  # land
        (3, slice(0, 8), 5),  # more than the single points that nearest is for
    ),
)
def test_what_has_structure_is_not_for_nearest(hole: tuple[int | slice, ...]) -> None:
    with pytest.raises(StoreError, match=r"--infill 2t=nearest cannot fill 2t at 2020-01-0\S+: \d+ of 600 points"):
        fill(dataset((hole,)), "nearest")


def test_nearest_needs_values_close_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infill, "SPARSE", 0.5)
    assert not np.isnan(fill(dataset(((3, slice(0, 6), slice(3, 9)),)), "nearest").values).any()
    with pytest.raises(StoreError, match="each within 3 rows and columns of a value"):
        fill(dataset(((3, slice(3, 10), slice(3, 10)),)), "nearest")


@pytest.mark.parametrize("chunk", (0, 1, 3, 10))
def test_the_line_between_states_whatever_the_blocks(chunk: int) -> None:
    # One state is gone, a point three times in a row, and a point at the edge of a block.
    holes = ((4,), (slice(6, 9), 2, 3), (2, 1, 1))
    result = fill(dataset(holes, chunk=chunk), "linear-time")
    np.testing.assert_allclose(result.values, dataset()["2t"].values, rtol=1e-6)
    assert result.chunks is not None
    assert result.attrs["infill_values"] == 600 + 3 + 1
    np.testing.assert_array_equal(result.isel(time=[4])[0, 3:5], result.values[4, 3:5])
    np.testing.assert_array_equal(result.isel(time=4, latitude=3), result.values[4, 3])


def test_uneven_steps_weigh() -> None:
    data = dataset(((3, 0, 0),)).isel(time=[0, 1, 3, 7, 9])
    assert fill(data, "linear-time").values[2, 0, 0] == pytest.approx(1000 + 6000 * 2 / 6)


@pytest.mark.parametrize(
    ("hole", "left"),
    (
        ((0, 2, 2), "1 of 1"),  # nothing before
        ((9,), "600 of 600"),  # nothing after
        ((slice(None), 2, 2), "1 of 1"),  # never there
        ((slice(2, 7), 2, 2), "1 of 1"),  # five states in a row
    ),
)
def test_no_line_without_two_ends(hole: tuple[int | slice, ...], left: str) -> None:
    expected = rf"cannot fill 2t at 2020-01-0\S+: {left} missing values have none within 4 states before and after"
    with pytest.raises(StoreError, match=expected):
        fill(dataset((hole,)), "linear-time")


def test_a_number_fills_anything() -> None:
    result = fill(dataset(((slice(None), slice(0, 9)), (3,)), name="sst"), "constant:273.5")
    assert result.dtype == np.float32
    assert (result.values[:, :9] == 273.5).all()
    assert (result.values[4, 9:] == dataset()["2t"].values[4, 9:]).all()
    assert result.attrs["infill_method"] == "constant:273.5"


@pytest.mark.parametrize(
    ("data", "how", "expected"),
    (
        (dataset(), "nearest", "no value of 2t is missing; leave it out"),
        (dataset(((3,),), name="mwd"), "linear-time", "between 350 and 10 degrees lies 0, not 180"),
    ),
)
def test_rules_that_cannot_be_meant(data: xr.Dataset, how: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        fill(data, how)


def test_other_names_are_settings_without_effect() -> None:
    with pytest.raises(SettingsError, match="--infill tp=nearest has no effect: the store has no tp; it has 2t"):
        fill_missing(dataset(), (Rule("tp", "nearest"),), lambda _: None)


@pytest.mark.parametrize("text", ("2t", "2t=", "=nearest", "2t=mean", "2t=constant", "2t=constant:x", "2t=nearest:3"))
def test_rules_that_are_none(text: str) -> None:
    with pytest.raises(ValidationError, match="expected VARIABLE=nearest"):
        BuildSettings.model_validate({"source": "netcdf", "path": ".", "out": "x", "infill": text})


def test_one_method_for_each_variable() -> None:
    with pytest.raises(ValidationError, match="2t is named twice"):
        BuildSettings.model_validate({"source": "netcdf", "path": ".", "out": "x", "infill": "2t=nearest,2t=nearest"})


# Through a build.


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """2 m temperature with a state that lacks a value; wind that has none at all; soil without values."""
    data = old_form(("t2m", "u10", "lsm", "slt"), times=6)
    data["t2m"][2, 1, 2] = np.nan
    data["u10"][:] = np.nan
    data = data.assign(lsm=data["lsm"][0] / 1000, slt=data["slt"][0] * np.nan)
    data["lsm"].attrs["units"] = data["slt"].attrs["units"] = "1"
    write(data, tmp_path / "a.nc")
    return tmp_path


def make(source: Path, **options: Any) -> Any:
    return build_store(
        BuildSettings.model_validate({"source": "netcdf", "path": source, "out": source / "store", **options})
    )


def test_a_store_says_what_was_filled_and_left_out(source: Path) -> None:
    store = make(source, infill=["2t=linear-time"], leave_out_missing=["10u", "static_slt"])
    assert (store.surface, store.static) == (("2t",), ("lsm",))
    assert not np.isnan(store.read("2t", slice(None))).any()
    history = store.attributes["history"]
    assert "2t: 1 of 72 values in 1 of 6 states were missing and filled by linear-time" in history
    assert "10u left out: it holds nothing but missing values" in history
    assert store.variable_attributes("2t")["infill_values"] == 1


def test_what_was_asked_for_may_be_missing_if_it_is_named(source: Path) -> None:
    with pytest.raises(StoreError, match="lack the variables tp"):
        make(source, variables=["2t", "tp"])
    store = make(source, variables=["2t", "tp"], statics=["lsm", "z"], leave_out_missing=["tp", "static_z"])
    assert (store.surface, store.static) == (("2t",), ("lsm",))
    assert {"tp left out: the data lack it", "static_z left out: the data lack it"} <= set(store.attributes["history"])
    assert np.isnan(store.read("2t", slice(None))).sum() == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    (
        ("2t", "the data hold values of 2t"),
        ("static_lsm", "the data hold values of static_lsm"),
        ("tp", "the data lack it and nothing asks for it"),
    ),
)
def test_leaving_out_without_effect(source: Path, name: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"--leave_out_missing {name} has no effect: {expected}"):
        make(source, leave_out_missing=[name])
    assert not (source / "store").exists()
