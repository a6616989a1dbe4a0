"""Levels of files: what is taken for a pressure, at the surface, or refused; values as xarray reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.sources.base import Pieces, Request, SourceData
from kit.data.sources.levels import LevelRules, by_levels
from kit.data.sources.netcdf import open_source
from kit.data.sources.zarr.source import open_source as open_zarr
from kit.io.errors import StoreError
from tests.data.sources.era5_files import new_form, write
from tests.everyday import one_in
from tests.real_data import real_data


def read(path: Path, *, rules: LevelRules | None = None, **asked: Any) -> SourceData:
    request = Request(levels_rules=rules or LevelRules(), **asked)
    with open_source([path], request) as source:
        for name, field in source.fields.items():
            source.fields[name] = field.load()
        return source


def on_dimension(name: str, values: Any, **attributes: str) -> xr.Dataset:
    """Temperature on levels beside one at 2 m, with levels under another name."""
    levels = np.asarray(values)
    dataset = new_form(("t", "z"), levels=tuple(range(1, len(levels) + 1))).rename(pressure_level=name)
    dataset = dataset.assign_coords({name: (name, levels, attributes)})
    return dataset.assign(t2m=new_form(("t2m",))["t2m"])


PRESSURES = st.lists(st.sampled_from([10, 50, 100, 137, 200, 300, 500, 700, 850, 925, 1000]), min_size=1, unique=True)
# Units, as files spell them, and what 1 hPa is in them.
UNITS = {"hPa": 1, "mb": 1, "millibars": 1, "hectopascal": 1, "Pa": 100, "pascals": 100, "kPa": 0.1, "bar": 0.001}


@settings(deadline=None)
@given(
    values=PRESSURES,
    units=st.sampled_from(sorted(UNITS)),
    name=st.sampled_from(
        ["level", "lev", "plev", "isobaric", "pressure_level", "levelist", "lv_ISBL0", "air_pressure"]
    ),
)
def test_pressures_by_units_whatever_their_name(values: list[int], units: str, name: str) -> None:
    given_values = [value * UNITS[units] for value in values]
    dataset = on_dimension(name, given_values, units=units).rename(valid_time="time")
    (found,) = (
        part for part in by_levels(dataset, "a.nc", LevelRules(), lambda _: True, lambda _: None) if "t" in part
    )
    np.testing.assert_allclose(found["level"], values, rtol=1e-9)
    np.testing.assert_array_equal(found["t"], dataset["t"])


@settings(deadline=None)
@given(
    count=st.integers(2, 20),
    name=st.sampled_from(["level", "lev", "levelist", "model_level", "hybrid", "ml", "nhym", "bottom_top"]),
    attributes=st.sampled_from([{}, {"units": "1"}, {"long_name": "hybrid level"}, {"positive": "down"}]),
    first=st.integers(1, 117),
)
def test_plain_counts_are_never_pressures(count: int, name: str, attributes: dict[str, str], first: int) -> None:
    dataset = on_dimension(name, np.arange(first, first + count), **attributes).rename(valid_time="time")
    with pytest.raises(StoreError, match=r"a.nc: t lies on \d+ .*model levels.*interpolate"):
        list(by_levels(dataset, "a.nc", LevelRules(), lambda _: True, lambda _: None))


@pytest.mark.parametrize(
    ("name", "values", "attributes", "message"),
    one_in(
        2,
        (
            ("model_level", [1, 2], {}, "t lies on 2 model levels, model_level 1, 2; .*: interpolate"),
            ("level", [60, 96, 137], {}, "look like model levels.* say --levels_are pressure"),
            ("level", [500, 850], {}, "nothing says what these are. If they are .* say --levels_are pressure"),
            ("theta", [300.0, 315.0], {"units": "K"}, "t lies on 2 isentropic surfaces"),
            ("level", [2.0, 10.0], {"units": "m"}, "t lies on 2 heights"),
            ("depth", [0.1, 0.5], {"units": "m"}, "t lies on 2 depths"),
            ("pressure_level", [500.0, np.nan], {}, "pressure_level must hold finite numbers, found nan"),
            ("pressure_level", ["a", "b"], {}, "pressure_level must hold finite numbers, found a"),
            ("plev", [500.0, 850.0], {"units": "m"}, "comes in 'm', and the store wants 'hPa'"),
        ),
    ),
)
def test_levels_that_are_no_pressures(
    tmp_path: Path, name: str, values: list[Any], attributes: dict[str, str], message: str
) -> None:
    write(on_dimension(name, values, **attributes), tmp_path / "a.nc")
    with pytest.raises(StoreError, match=f"a.nc|levels.*{message}" if name == "plev" else f"a.nc: .*{message}"):
        read(tmp_path)
    # Beside them the fields at the surface can be had.
    if name not in ("pressure_level", "plev"):
        assert list(read(tmp_path, variables=frozenset({"2t"}), statics=frozenset()).fields) == ["2t"]


@pytest.mark.parametrize(
    ("name", "values", "attributes", "message"),
    one_in(
        2,
        (
            ("hybrid", [1, 2], {}, "t lies on 2 model levels, hybrid 1, 2"),
            ("level", [60, 96, 137], {}, "look like model levels.* say --levels_are pressure"),
            ("level", ["a", "b"], {}, "level must hold finite numbers, found a"),
            ("theta", [300.0, 315.0], {"units": "K"}, "t lies on 2 isentropic surfaces"),
        ),
    ),
)
def test_zarr_is_refused_alike(
    tmp_path: Path, name: str, values: list[Any], attributes: dict[str, str], message: str
) -> None:
    dataset = on_dimension(name, values, **attributes).drop_vars(["expver", "number"])
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    with pytest.raises(StoreError, match=f"a.zarr: .*{message}"), open_zarr([tmp_path / "a.zarr"], Request()):
        pass


@pytest.mark.parametrize(
    ("name", "values", "attributes", "scale"),
    one_in(
        2,
        (
            ("isobaricInhPa", [850.0, 500.0], {}, 1.0),
            ("plev", [85000.0, 50000.0], {"units": "Pa"}, 0.01),
            ("lev", [850.0, 500.0], {"units": "millibar"}, 1.0),
            ("level", [1000, 500, 50], {}, 1.0),
        ),
    ),
)
def test_pressures_of_zarr(
    tmp_path: Path, name: str, values: list[float], attributes: dict[str, str], scale: float
) -> None:
    dataset = on_dimension(name, values, **attributes).drop_vars(["expver", "number"])
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    wanted = (500.0,)
    for levels in (None, wanted):
        with open_zarr([tmp_path / "a.zarr"], Request(levels=levels)) as source:
            field = source.fields["t"].load()
        assert field["level"].values.tolist() == list(levels or sorted(np.array(values) * scale))
        theirs = dataset["t"].isel({name: values.index(500.0 / scale)})
        np.testing.assert_array_equal(field.sel(level=500.0), theirs)


def test_one_level_of_zarr(tmp_path: Path) -> None:
    dataset = new_form(("t", "t2m", "z")).drop_vars(["expver", "number"])
    dataset.assign_coords(isobaricInhPa=850.0).to_zarr(tmp_path / "a.zarr", zarr_format=2)
    dataset.to_zarr(tmp_path / "b.zarr", zarr_format=2)
    for path, rules in ((tmp_path / "a.zarr", LevelRules()), (tmp_path / "b.zarr", LevelRules(at=850.0))):
        with open_zarr([path], Request(levels_rules=rules)) as source:
            assert sorted(source.fields) == ["2t", "t", "z"]
            for name in ("t", "z"):
                np.testing.assert_array_equal(source.fields[name].sel(level=850.0), dataset[name])
            assert "level" not in source.fields["2t"].dims
    with (
        pytest.raises(StoreError, match="t is a field on pressure levels"),
        open_zarr([tmp_path / "b.zarr"], Request()),
    ):
        pass


def test_levels_of_era5_without_a_word(tmp_path: Path) -> None:
    dataset = on_dimension("level", [1000, 500, 50])
    write(dataset, tmp_path / "a.nc")
    source = read(tmp_path)
    assert source.fields["t"]["level"].values.tolist() == [50, 500, 1000]
    np.testing.assert_array_equal(source.fields["t"], dataset["t"][:, ::-1])
    assert "levels without units taken for hPa: they are those of ERA5" in source.notes


def test_the_user_says_what_levels_are(tmp_path: Path) -> None:
    write(on_dimension("level", [60, 96, 137]), tmp_path / "a.nc")
    rules = LevelRules(are_pressure=True)
    assert read(tmp_path, rules=rules).fields["t"]["level"].values.tolist() == [60, 96, 137]
    write(on_dimension("level", [60, 96, 137], units="hPa"), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="--levels_are has no effect"):
        read(tmp_path, rules=LevelRules(are_pressure=True))
    # What a file says of model levels stands.
    write(on_dimension("level", [60, 96, 137], long_name="model level number"), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="t lies on 3 model levels"):
        read(tmp_path, rules=LevelRules(are_pressure=True))


def test_pressures_beside_a_dimension_that_counts(tmp_path: Path) -> None:
    dataset = on_dimension("level", [1, 2]).assign_coords(pressure=("level", [85000.0, 50000.0], {"units": "Pa"}))
    write(dataset, tmp_path / "a.nc")
    source = read(tmp_path)
    assert source.fields["t"]["level"].values.tolist() == [500, 850]
    np.testing.assert_array_equal(source.fields["t"], dataset["t"][:, ::-1])
    assert "levels taken from pressure, which lies along level" in source.notes


def test_several_sets_of_pressures_in_one_file(tmp_path: Path) -> None:
    dataset = on_dimension("isobaric", [50000.0, 85000.0], units="Pa").drop_vars("z")
    other = new_form(("u",), levels=(300, 700)).rename(pressure_level="isobaric1")
    write(dataset.assign(u=other["u"]), tmp_path / "a.nc")
    source = read(tmp_path)
    assert source.fields["t"]["level"].values.tolist() == [500, 850]
    assert source.fields["u"]["level"].values.tolist() == [300, 700]
    np.testing.assert_array_equal(source.fields["u"], other["u"])
    assert source.fields["2t"].dims == ("time", "latitude", "longitude")


def test_a_scalar_level_belongs_to_fields_on_levels(tmp_path: Path) -> None:
    dataset = new_form(("t", "t2m", "lsm", "z", "msl"))
    dataset["lsm"] = dataset["lsm"].isel(valid_time=0, drop=True)
    write(dataset.assign_coords(isobaricInhPa=850.0), tmp_path / "a.nc")
    source = read(tmp_path)
    assert {name: field.dims[1] for name, field in source.fields.items() if name in ("t", "z")} == dict.fromkeys(
        ("t", "z"), "level"
    )
    assert source.fields["t"]["level"].values.tolist() == [850]
    np.testing.assert_array_equal(source.fields["z"][:, 0], dataset["z"])
    for name in ("2t", "msl", "static_lsm"):
        assert "level" not in source.fields[name].dims
        assert "level" not in source.fields[name].coords


def test_a_constant_geopotential_beside_a_level_is_the_surface_s(tmp_path: Path) -> None:
    dataset = new_form(("t", "z"))
    constant = dataset["z"].isel(valid_time=0, drop=True)
    dataset["z"] = constant.expand_dims(valid_time=dataset["valid_time"]).assign_attrs(units="m**2 s**-2")
    write(dataset.assign_coords(pressure_level=850.0), tmp_path / "a.nc")
    np.testing.assert_array_equal(read(tmp_path).fields["static_z"], constant)


def test_one_state_of_a_geopotential_may_be_either(tmp_path: Path) -> None:
    dataset = new_form(("t", "z"), times=1)
    # At 850 hPa the standard atmosphere has 1457 m.
    dataset["z"] = (dataset["z"] * 0 + 14200).assign_attrs(units="m**2 s**-2")
    write(dataset.assign_coords(pressure_level=850.0), tmp_path / "a.nc")
    with pytest.raises(StoreError, match=r"a.nc: z has one state, and may be .* at 850 hPa; say --at_level 850"):
        read(tmp_path)
    assert read(tmp_path, rules=LevelRules(at=850.0)).fields["z"]["level"].values.tolist() == [850]
    # No level of 850 hPa lies at 100 m.
    dataset["z"] = (dataset["z"] * 0 + 981).assign_attrs(units="m**2 s**-2")
    write(dataset.assign_coords(pressure_level=850.0), tmp_path / "a.nc")
    assert "static_z" in read(tmp_path).fields


def test_fields_that_need_a_level_and_have_none(tmp_path: Path) -> None:
    dataset = new_form(("t", "u", "t2m"))
    write(dataset, tmp_path / "a.nc")
    with pytest.raises(StoreError, match=r"a.nc: t is a field on pressure levels, .* --at_level 850"):
        read(tmp_path)
    with pytest.raises(StoreError, match=r"a.nc: t is a field on pressure levels, .* --at_level 850"):
        read(tmp_path, variables=frozenset({"t", "2t"}))
    assert list(read(tmp_path, variables=frozenset({"2t"})).fields) == ["2t"]
    source = read(tmp_path, rules=LevelRules(at=700.0))
    assert source.fields["t"]["level"].values.tolist() == [700]
    np.testing.assert_array_equal(source.fields["t"][:, 0], dataset["t"])
    assert "t, u taken to lie at 700 hPa, as --at_level says" in source.notes
    write(dataset.assign_coords(pressure_level=850.0), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="can lie on one level alone, found pressure_level 850, --at_level 700 hPa"):
        read(tmp_path, rules=LevelRules(at=700.0))
    write(new_form(("t2m",)), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="--at_level has no effect: all fields state their levels"):
        read(tmp_path, rules=LevelRules(at=700.0))


def test_one_model_level_is_none_of_pressure(tmp_path: Path) -> None:
    write(new_form(("t",)).assign_coords(hybrid=137.0), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="a.nc: t lies on 1 model levels, hybrid 137"):
        read(tmp_path)


@pytest.mark.parametrize("level", (-1, 0))
@pytest.mark.parametrize("is_scalar", (True, False))
def test_levels_of_what_has_none(tmp_path: Path, level: int, is_scalar: bool) -> None:
    dataset = new_form(("t2m", "msl")).assign_coords(level=level)
    if not is_scalar:
        dataset = dataset.expand_dims("level")
    write(dataset, tmp_path / "a.nc")
    source = read(tmp_path)
    assert sorted(source.fields) == ["2t", "msl"]
    np.testing.assert_array_equal(source.fields["msl"], new_form(("t2m", "msl"))["msl"])
    assert source.fields["2t"].dims == ("time", "latitude", "longitude")


@pytest.mark.parametrize(
    ("name", "metres", "found"),
    (("t", 2.0, "2t"), ("u", 10.0, "10u"), ("u", 100.0, "100u"), ("t", 80.0, None), ("u", 2.0, None), ("t", 0.0, None)),
)
@pytest.mark.parametrize("is_scalar", one_in(2, (True, False)))
def test_heights_above_ground(tmp_path: Path, name: str, metres: float, found: str | None, is_scalar: bool) -> None:
    dataset = new_form((name, "msl")).assign_coords(heightAboveGround=metres)
    if not is_scalar:
        dataset = dataset.expand_dims("heightAboveGround")
    write(dataset, tmp_path / "a.nc")
    source = read(tmp_path)
    assert set(source.fields) == {"msl", found} - {None}
    if found is None:
        # Asked for or not, it is never a temperature without a level.
        assert any(note.startswith(f"surface_{name} left out") for note in source.notes)
        assert name not in read(tmp_path, variables=frozenset({name, "msl"})).fields
    else:
        np.testing.assert_array_equal(source.fields[found], new_form((name, "msl"))[name])


@pytest.mark.parametrize(
    ("file", "message"),
    (
        ("met-ecmwf-ml.nc", r"t lies on 11 model levels, model_level 74, .*interpolate the data"),
        ("s43d_ml.nc", r"t lies on 3 unknown levels, level 60, 96, 137; .* look like model levels"),
        ("s40_nolevel.nc", r"t is a field on pressure levels, .* --at_level 850"),
        ("s25_o.nc", r"orography states no units, and its values \(7.80567 to 1500\) can be heights in metres or"),
    ),
)
def test_field_cases_that_are_refused(file: str, message: str) -> None:
    with pytest.raises(StoreError, match=rf"{re.escape(file)}: {message}"):
        read(real_data("field-cases") / file)


def test_field_cases_that_are_taken() -> None:
    folder = real_data("field-cases")
    for file, names in {
        "met-era5-cocip1.nc": {"t", "u", "v", "w", "q", "z", "cc", "ciwc"},
        "met-ecmwf-sl.nc": {"sp"},
        "s26_both.nc": {"2t", "10u", "10v", "msl", "t", "u", "v", "q", "z", "static_lsm"},
        "s38_scalar.nc": {"2t", "10u", "10v", "msl", "t", "u", "v", "q", "z", "static_lsm"},
        "s45_cmip.nc": {"2t", "10u", "10v", "msl", "t", "u", "v", "q", "z", "static_lsm"},
    }.items():
        assert set(read(folder / file).fields) == names, file
    with xr.open_dataset(folder / "s45_cmip.nc", engine="netcdf4") as original:
        fields = read(folder / "s45_cmip.nc").fields
        np.testing.assert_array_equal(fields["2t"], original["tas"])
        expected = (original["zg"].astype(np.float64) * 9.80665).astype(np.float32)
        np.testing.assert_array_equal(fields["z"], expected)
        np.testing.assert_allclose(fields["static_lsm"], original["sftlf"] / 100, rtol=1e-6)
    with xr.open_dataset(folder / "met-era5-cocip1.nc", decode_timedelta=False, engine="netcdf4") as original:
        theirs = original["lagrangian_tendency_of_air_pressure"].transpose("time", "level", "latitude", "longitude")
        ours = read(folder / "met-era5-cocip1.nc").fields["w"].sel(latitude=50.25, longitude=320.25)
        np.testing.assert_array_equal(ours, theirs.sel(latitude=50.25, longitude=-39.75).astype(np.float32))


NAMED = {
    "TMP_{}mb": ("t", "K"), "UGRD_{}mb": ("u", "m/s"), "VGRD_{}mb": ("v", "m/s"), "HGT_{}mb": ("z", "gpm"),
    "SPFH_{}mb": ("q", "kg/kg"), "VVEL_{}mb": ("w", "Pa/s"), "t_{}hPa": ("t", "K"), "ta_{}hpa": ("t", "K"),
    "geopotential_{}hPa": ("z", "m2 s-2"),
}  # fmt: skip


@pytest.mark.slow
@settings(deadline=None)
@given(
    spelling=st.sampled_from(sorted(NAMED)),
    levels=st.lists(st.sampled_from([0.4, 1.0, 2.5, 10.0, 500.0, 850.0, 1000.0]), min_size=1, unique=True),
    beside=st.booleans(),
)
def test_the_level_in_a_name_is_the_level(spelling: str, levels: list[float], beside: bool) -> None:
    """As wgrib2 writes NetCDF: a variable for each level, with D for the decimal point."""
    name, units = NAMED[spelling]
    fields = {}
    for index, level in enumerate(levels):
        field = new_form(("t2m",))["t2m"].rename(valid_time="time") + index
        fields[spelling.format(f"{level:g}".replace(".", "D"))] = field.assign_attrs(units=units)
    dataset = xr.Dataset(fields)
    if beside:
        dataset = dataset.assign(PRMSL_meansealevel=field.assign_attrs(units="Pa"), ABSV_500mb=field)
    pieces = Pieces()
    pieces.add(dataset, "a.nc")
    found = pieces.merged()
    assert sorted(found) == sorted([name, "msl"] if beside else [name])
    assert found[name]["level"].values.tolist() == sorted(levels)
    factor = 9.80665 if units == "gpm" else 1
    for index, level in enumerate(levels):
        expected = factor * list(fields.values())[index]
        np.testing.assert_allclose(found[name].sel(level=level), expected, rtol=1e-6)


@pytest.mark.parametrize("source", ("netcdf", "zarr"))
def test_files_of_wgrib2(tmp_path: Path, source: str) -> None:
    one = new_form(("t2m",)).rename(valid_time="time")["t2m"]
    dataset = xr.Dataset({f"TMP_{level}mb": one + level for level in (500, 850)})
    dataset["TMP_2maboveground"] = one
    if source == "netcdf":
        dataset.to_netcdf(tmp_path / "a.nc")
        found = read(tmp_path / "a.nc").fields
    else:
        dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2)
        with open_zarr([tmp_path / "a.zarr"], Request()) as opened:
            found = {name: field.load() for name, field in opened.fields.items()}
    assert sorted(found) == ["2t", "t"]
    np.testing.assert_allclose(found["t"] - found["2t"], [[[[500.0]], [[850.0]]]] * np.ones_like(found["t"]), rtol=1e-5)


def test_a_level_that_a_name_lacks_is_still_asked_for(tmp_path: Path) -> None:
    field = new_form(("t2m",))["t2m"]
    xr.Dataset({"TMP": field, "TMP_500mb": field}).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(StoreError, match="TMP is a field on pressure levels, .* does not say on which it lies"):
        read(tmp_path / "a.nc")
