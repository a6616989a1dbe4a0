"""What vertical coordinates count, by the words that files have for them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from kit.data.sources.verticals import (
    BARE,
    DEPTH,
    HEIGHT,
    ISENTROPIC,
    MODEL,
    PRESSURE,
    STANDARD_LEVELS,
    SURFACE,
    in_hectopascals,
    is_standard,
    kind_of,
    pressure_dimension,
    surface_height,
)


def on(name: str, values: object = (500.0, 850.0), **attributes: str) -> xr.DataArray:
    levels = np.asarray(values)
    coords = {name: ([name] if levels.ndim else [], levels, attributes)}
    dims = (*([name] if levels.ndim else []), "latitude")
    return xr.DataArray(np.zeros((*levels.shape, 2)), coords, dims, name="t")


@pytest.mark.parametrize(
    ("name", "attributes", "kind"),
    (
        ("pressure_level", {}, PRESSURE),
        ("isobaricInhPa", {}, PRESSURE),
        ("plev", {"units": "Pa"}, PRESSURE),
        ("plev19", {}, PRESSURE),
        ("lv_ISBL0", {}, PRESSURE),
        ("isobaric1", {"units": "Pa"}, PRESSURE),
        ("air_pressure", {}, PRESSURE),
        ("level", {"units": "millibars"}, PRESSURE),
        ("level", {"units": "mb", "long_name": "Pressure level"}, PRESSURE),
        ("lev", {"units": "Pa"}, PRESSURE),
        ("lev", {"standard_name": "air_pressure"}, PRESSURE),
        ("z", {"axis": "Z", "units": "hPa"}, PRESSURE),
        ("model_level", {}, MODEL),
        ("hybrid", {}, MODEL),
        ("nhym", {}, MODEL),
        ("bottom_top", {}, MODEL),
        ("level", {"long_name": "model_level_number"}, MODEL),
        ("lev", {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate", "units": "hPa"}, MODEL),
        ("lev", {"formula_terms": "ap: ap b: b ps: ps", "units": "1"}, MODEL),
        ("lev", {"long_name": "hybrid level at midpoints (1000*(A+B))", "units": "level"}, MODEL),
        ("theta", {"units": "K"}, ISENTROPIC),
        ("level", {"units": "K"}, ISENTROPIC),
        ("heightAboveGround", {"units": "m"}, HEIGHT),
        ("level", {"units": "m"}, HEIGHT),
        ("depthBelowLandLayer", {}, DEPTH),
        ("soil_layers_stag", {}, DEPTH),
        ("level", {"units": "m", "positive": "down"}, DEPTH),
        ("surface", {}, SURFACE),
        ("level", {}, BARE),
        ("lev", {"units": "1"}, BARE),
        ("levelist", {}, BARE),
        ("expver", {}, ""),
        ("number", {"long_name": "model member"}, ""),
        ("quantile", {"units": "1"}, ""),
    ),
)
def test_kinds(name: str, attributes: dict[str, str], kind: str) -> None:
    assert kind_of(on(name, **attributes), name) == kind


def test_fields_tell_what_their_levels_are_where_the_coordinate_does_not() -> None:
    array = on("level").assign_attrs(GRIB_typeOfLevel="hybrid")
    assert kind_of(array, "level") == MODEL
    assert kind_of(array.assign_attrs(GRIB_typeOfLevel="isobaricInhPa"), "level") == PRESSURE


@pytest.mark.parametrize(
    ("values", "standard"),
    (
        (sorted(STANDARD_LEVELS), True),
        ([50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000], True),
        ([100, 125, 150], True),
        # Model levels 60, 96, 137, and any that their numbers allow to be.
        ([60, 96, 137], False),
        ([1, 2, 3, 5, 7], False),
        ([100, 125], False),
        ([500, 850], False),
        ([500, 501, 502], False),
        (list(range(1, 138)), False),
    ),
)
def test_numbers_that_can_be_nothing_but_pressures(values: list[float], standard: bool) -> None:
    assert len(STANDARD_LEVELS) == 37
    assert is_standard(np.asarray(values, dtype=np.float64)) is standard


@pytest.mark.parametrize(
    ("array", "height"),
    (
        (on("heightAboveGround", 2.0), 2.0),
        (on("height", [10.0], units="m"), 10.0),
        (on("height", 0.002, units="km"), 2.0),
        (on("surface", 0.0), 0.0),
        (on("level", [-1]), 0.0),
        (on("level", 0), 0.0),
        (on("level", 850.0), None),
        (on("heightAboveGround", [2.0, 80.0]), None),
        (on("pressure_level", 500.0), None),
        (xr.DataArray([0.0], attrs={"GRIB_typeOfLevel": "meanSea"}), 0.0),
        (xr.DataArray([0.0], name="TMP_P0_L103_GLL0"), 0.0),
        (xr.DataArray([0.0], name="t"), None),
    ),
)
def test_heights_of_fields_at_the_surface(array: xr.DataArray, height: float | None) -> None:
    assert surface_height(array) == height


def test_pressures_in_hectopascals() -> None:
    assert in_hectopascals(on("plev", units="hPa")["plev"]).tolist() == [500, 850]
    assert in_hectopascals(on("plev", [50000.0, 85000.0], units="Pa")["plev"]).tolist() == [500, 850]
    assert in_hectopascals(on("plev", [50.0, 85.0], units="kPa")["plev"]).tolist() == [500, 850]
    # Without units: no pressure on Earth is 50000 hPa, and one name says Pa.
    assert in_hectopascals(on("plev", [50000.0, 100.0])["plev"]).tolist() == [500, 1]
    assert in_hectopascals(on("isobaricInPa", [100.0, 50.0])["isobaricInPa"]).tolist() == [1, 0.5]
    assert pressure_dimension(on("plev")) == "plev"
    assert pressure_dimension(on("hybrid")) is None
