from __future__ import annotations

import contextlib

import pytest

from kit.data.source_names import find, find_at_height, find_described, find_param
from kit.data.sources.grib.scan import load_eccodes
from kit.data.units import conversion
from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE, lookup


@pytest.mark.parametrize(
    ("source", "on_levels", "name", "kind"),
    (
        ("t2m", False, "2t", "surface"),
        ("2m_temperature", False, "2t", "surface"),
        ("VAR_2T", False, "2t", "surface"),
        ("u10", False, "10u", "surface"),
        ("d2m", False, "2d", "surface"),
        ("siconc", False, "ci", "surface"),
        ("total_precipitation", False, "tp", "surface"),
        ("T", True, "t", "atmospheric"),
        ("geopotential", True, "z", "atmospheric"),
        ("geopotential", False, "z", "static"),
        ("z", False, "z", "static"),
        ("land_sea_mask", False, "lsm", "static"),
        ("static_ammonia_log", False, "static_ammonia_log", "static"),
        ("tas", False, "2t", "surface"),
        ("vas", False, "10v", "surface"),
        ("psl", False, "msl", "surface"),
        ("sfcWind", False, "10si", "surface"),
        ("ta", True, "t", "atmospheric"),
        ("orog", False, "z", "static"),
        ("HGT", False, "z", "static"),
        ("HGT", True, "z", "atmospheric"),
        ("UGRD_10maboveground", False, "10u", "surface"),
        ("TMP_P0_L100_GLL0", True, "t", "atmospheric"),
        ("ugrdprs", True, "u", "atmospheric"),
        ("Geopotential_height_isobaric", True, "z", "atmospheric"),
    ),
)
def test_variables_go_by_many_names(source: str, on_levels: bool, name: str, kind: str) -> None:
    variable = find(source, on_levels=on_levels)
    assert variable is not None
    assert (variable.name, variable.kind) == (name, kind)


def test_a_surface_name_does_not_stand_for_a_field_on_levels() -> None:
    assert find("t2m", on_levels=True) is None
    assert find("no_such_thing", on_levels=False) is None


@pytest.mark.parametrize(
    ("text", "on_levels", "name"),
    (
        ("air_pressure_at_mean_sea_level", False, "msl"),
        ("air_pressure_at_sea_level", False, "msl"),
        ("surface_altitude", False, "z"),
        ("land_area_fraction", False, "lsm"),
        ("air_temperature", True, "t"),
        ("geopotential_height", True, "z"),
        ("2 metre temperature", False, "2t"),
        ("10 metre U wind component", False, "10u"),
        ("Specific cloud ice water content", True, "ciwc"),
        # One standard name for 2 m and for any other height, for all layers of soil, for every kind of gust.
        ("air_temperature", False, None),
        ("eastward_wind", False, None),
        ("soil_temperature", False, None),
        ("wind_speed_of_gust", False, None),
        # Depth of snow, or of its water; ozone of ERA5 and of CAMS.
        ("Snow depth", False, None),
        ("Ozone mass mixing ratio", True, None),
        ("air_temperature standard_error", True, None),
    ),
)
def test_standard_names_and_descriptions(text: str, on_levels: bool, name: str | None) -> None:
    variable = find_described(text, on_levels=on_levels)
    assert (None if variable is None else variable.name) == name


@pytest.mark.parametrize(
    ("text", "metres", "name"),
    (
        ("air_temperature", 2, "2t"),
        ("t", 2, "2t"),
        ("dew_point_temperature", 2, "2d"),
        ("ua", 10, "10u"),
        ("eastward_wind", 100, "100u"),
        ("wind_speed", 10, "10si"),
        ("air_temperature", 10, None),
        ("eastward_wind", 2, None),
        ("specific_humidity", 2, None),
    ),
)
def test_heights_tell_what_standard_names_do_not(text: str, metres: float, name: str | None) -> None:
    variable = find_at_height(text, metres)
    assert (None if variable is None else variable.name) == name


def test_no_name_means_two_variables_without_levels() -> None:
    names = [alias for v in (*SURFACE.values(), *STATIC.values()) for alias in (v.name, *v.aliases)]
    assert len(names) == len(set(names))
    levels = [alias for v in ATMOSPHERIC.values() for alias in (v.name, *v.aliases)]
    assert len(levels) == len(set(levels))
    assert all(name == name.lower() for name in (*names, *levels))


def test_parameter_numbers_are_eccodes_own() -> None:
    eccodes = load_eccodes()
    for variable in (*SURFACE.values(), *ATMOSPHERIC.values(), *STATIC.values()):
        for number in variable.param_ids:
            kind = "pl" if variable.kind == "atmospheric" else "sfc"
            # Some have no place in GRIB 2 yet, or are NCEP's own.
            for edition, centre in ((2, "ecmf"), (2, "kwbc"), (1, "ecmf")):
                handle = eccodes.codes_grib_new_from_samples(f"regular_ll_{kind}_grib{edition}")
                eccodes.codes_set(handle, "centre", centre)
                with contextlib.suppress(eccodes.CodesInternalError):
                    eccodes.codes_set(handle, "paramId", number)
                    break
                eccodes.codes_release(handle)
            short_name = eccodes.codes_get(handle, "shortName").lower()
            assert short_name in (variable.name, *variable.aliases), (variable.name, number, short_name)
            # Raises where the kit cannot convert.
            conversion(variable.name, eccodes.codes_get(handle, "units"), variable.units, of_water=variable.is_water)
            eccodes.codes_release(handle)


def test_no_parameter_number_means_two_variables() -> None:
    without = [number for v in (*SURFACE.values(), *STATIC.values()) for number in v.param_ids]
    on_levels = [number for v in ATMOSPHERIC.values() for number in v.param_ids]
    assert len(without) == len(set(without))
    assert len(on_levels) == len(set(on_levels))
    found = [find_param(129, on_levels=on_levels) for on_levels in (True, False)]
    assert [variable.kind for variable in found if variable is not None] == ["atmospheric", "static"]
    assert find_param(1, on_levels=True) is None


def test_every_physical_variable_of_the_nine_variants_is_known() -> None:
    surface = "2t 10u 10v msl pm1 pm2p5 pm10 tcco tc_no tcno2 gtco3 tcso2 swh mwd mwp pp1d shww mdww mpww shts mdts"
    more = "mpts swh1 mwd1 mwp1 swh2 mwd2 mwp2 wind dwi 2d tcwv tcc 100u 100v sp lcc mcc hcc skt stl1 swvl1 ci sd"
    accumulated = "uvb ssrd ttr tp sf e"
    for name in f"{surface} {more} i10fg blh {accumulated}".split():
        assert lookup(name, "surface") is not None, name
    assert all(SURFACE[name].accumulated for name in accumulated.split())
    assert not SURFACE["2t"].accumulated
    for name in "z u v t q co no no2 go3 so2".split():
        assert lookup(name, "atmospheric") is not None, name
    for (
        name
    ) in "lsm z slt wmb lat_mask anor isor cvh cl dl cvl slor sdfor sdor tvh tvl static_co static_nox_log".split():
        assert lookup(name, "static") is not None, name


def test_limits_and_signs() -> None:
    assert (SURFACE["2t"].low, SURFACE["2t"].high) == (150, 350)
    assert SURFACE["tp"].non_negative
    assert not SURFACE["e"].non_negative
    assert all(v.low < v.high for table in (SURFACE, ATMOSPHERIC, STATIC) for v in table.values())
