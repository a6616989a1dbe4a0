"""Geopotential without units: metres or m2 s-2, where values allow but one of them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from kit.data.sources.fields import IN_STORE_UNITS, canonical_name, canonical_values
from kit.data.sources.geopotential import implied_units, standard_height
from kit.io.errors import StoreError

G = 9.80665


@pytest.mark.parametrize(
    ("pressure", "height"),
    # Heights of pressures in the ICAO standard atmosphere, from its tables.
    ((1013.25, 0), (850, 1457), (700, 3012), (500, 5574), (300, 9164), (200, 11784), (100, 16180)),
)
def test_the_standard_atmosphere(pressure: float, height: float) -> None:
    assert standard_height(pressure) == pytest.approx(height, abs=3)


def surface(low: float, high: float, name: str = "orography", **attributes: str) -> xr.DataArray:
    return xr.DataArray(
        np.linspace(low, high, 6).reshape(2, 3), dims=("latitude", "longitude"), name=name, attrs=attributes
    )


@pytest.mark.parametrize("name", ("orography", "orog", "z", "geopotential", "HGT_surface"))
def test_lowlands_may_be_in_either_unit(name: str) -> None:
    with pytest.raises(
        StoreError, match=rf"a.nc: {name} states no units, .*\(7 to 1500\) .*ncatted .*--leave_out static_z"
    ):
        implied_units(surface(7, 1500, name), "a.nc")


def test_no_place_is_ten_kilometres_high() -> None:
    assert implied_units(surface(-500, 58000), "a.nc") == "m2 s-2"
    notes: list[str] = []
    field = surface(-500, 58000, "z")
    name, variable = canonical_name(field)
    np.testing.assert_array_equal(
        canonical_values(field, name, variable, "a.nc", notes.append), field.astype(np.float32)
    )
    assert notes == ["static_z came without units; its values can be m2 s-2 alone"]


def test_units_that_are_stated_stand() -> None:
    for units, scale in (("m", G), ("metres", G), ("gpm", G), ("m**2 s**-2", 1.0), ("J kg-1", 1.0)):
        field = surface(7, 1500, units=units)
        values = canonical_values(field, *canonical_name(field), "a.nc", lambda _: None)
        np.testing.assert_allclose(values, field * scale, rtol=1e-6)
    # A pickle has no units, and is in those of the store.
    field = surface(7, 1500, **{IN_STORE_UNITS: "yes"})
    values = canonical_values(field, *canonical_name(field), "a.nc", lambda _: None)
    np.testing.assert_array_equal(values, field.astype(np.float32))


@given(
    level=st.sampled_from([1, 50, 100, 200, 300, 500, 700, 850]),
    other=st.sampled_from([900, 925, 1000]),
    weather=st.floats(0.9, 1.1),
    is_height=st.booleans(),
)
def test_levels_aloft_tell(level: float, other: float, weather: float, is_height: bool) -> None:
    factor = weather * (1.0 if is_height else G)
    heights = np.array([standard_height(level), standard_height(other)]) * factor
    values = np.broadcast_to(heights[:, None, None], (2, 3, 4))
    array = xr.DataArray(values, {"level": [level, other]}, ("level", "latitude", "longitude"), "z")
    assert implied_units(array, "a.nc") == ("m" if is_height else "m2 s-2")


def test_levels_near_the_ground_do_not() -> None:
    array = xr.DataArray(np.full((1, 2, 2), 1100.0), {"level": [1000.0]}, ("level", "latitude", "longitude"), "z")
    with pytest.raises(StoreError, match="z states no units, and its values .* at 1000 hPa"):
        implied_units(array, "a.nc")
    # Values that are neither.
    with pytest.raises(StoreError, match="z states no units"):
        implied_units(array.assign_coords(level=[500.0]), "a.nc")
