"""Units by hand: what one spelling means, and what one unit is of another."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.data.units import canonical_units, conversion
from kit.io.errors import StoreError


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("m s**-1", "m s-1"),
        ("m**2 s**-2", "m2 s-2"),
        ("m^2 s^-2", "m2 s-2"),
        ("kg kg**-1", "kg kg-1"),
        ("(0 - 1)", "1"),
        ("millibars", "hPa"),
        ("degC", "degC"),
        ("m of water equivalent", "m"),
        ("K", "K"),
        ("degree_C", "degC"),
        ("degrees_Celsius", "degC"),
        ("deg_K", "K"),
        ("kelvins", "K"),
        ("hectopascals", "hPa"),
        ("mb", "hPa"),
        ("metres per second", "m s-1"),
        ("m.s-1", "m s-1"),
        ("kg/m^2", "kg m-2"),
        ("W s m-2", "W s m-2"),
        ("1e3 m", "1000 m"),
        ("what is this", "what is this"),
    ),
)
def test_units_have_one_spelling(text: str, expected: str) -> None:
    assert canonical_units(text) == expected


def test_conversions_by_hand() -> None:
    def convert(value: float, units: str, target: str, *, of_water: bool = False) -> float:
        change = conversion("x", units, target, of_water=of_water)
        return value if change is None else value * change[0] + change[1]

    assert convert(1013.25, "hPa", "Pa") == pytest.approx(101325)
    assert convert(20, "degC", "K") == pytest.approx(293.15)
    assert convert(2.5, "mm", "m") == pytest.approx(0.0025)
    assert convert(2.5, "kg m**-2", "m", of_water=True) == pytest.approx(0.0025)
    assert convert(5500, "gpm", "m2 s-2") == pytest.approx(53936.575)
    assert convert(100, "m", "m2 s-2") == pytest.approx(980.665)
    assert convert(7, "K", "K") == 7
    assert convert(50, "degF", "K") == pytest.approx(283.15)
    assert convert(10, "knots", "m s-1") == pytest.approx(5.14444444)
    assert convert(12, "mm", "kg m-2", of_water=True) == 12
    assert convert(550, "dam", "m2 s-2") == pytest.approx(53936.575)
    assert convert(3, "W s m-2", "J m-2") == 3
    assert convert(3, "10^-6 kg m-3", "kg m-3") == pytest.approx(3e-6)
    assert conversion("slt", "Code table 4.213", "1") is None


def test_units_that_cannot_be_converted_list_those_that_can() -> None:
    with pytest.raises(StoreError, match=r"tp comes in 'mm h\*\*-1', and the store wants 'm'.*mm, cm, km, kg m-2"):
        conversion("tp", "mm h**-1", "m", of_water=True)


@pytest.mark.parametrize(
    ("units", "target"),
    (
        ("kg m-2", "m"),
        ("W m-2", "J m-2"),
        ("mol mol-1", "kg kg-1"),
        ("ppm", "kg kg-1"),
        ("1", "kg kg-1"),
        ("1", "degree"),
        ("m3 m-3", "kg kg-1"),
        ("m s-1", "Pa s-1"),
        ("m", "K"),
    ),
)
def test_no_factor_is_invented_between_dimensions(units: str, target: str) -> None:
    with pytest.raises(StoreError, match=re.escape(f"x comes in {units!r}, and the store wants {target!r}")):
        conversion("x", units, target)


# Each unit's own scale to the store's, worked out by hand.
SPELLINGS = {
    ("m", "s"): [("m", 1.0), ("metre", 1.0), ("meters", 1.0), ("km", 1e3), ("ft", 0.3048)],
    ("kg", "m3"): [
        ("kg", 1.0),
        ("kilograms", 1.0),
        ("g", 1e-3),
        ("micrograms", 1e-9),
        ("ug", 1e-9),
        ("\N{MICRO SIGN}g", 1e-9),
    ],
    ("J", "m2"): [("J", 1.0), ("joules", 1.0), ("kJ", 1e3), ("W s", 1.0), ("watt hour", 3600.0)],
    ("Pa", "s"): [("Pa", 1.0), ("hPa", 100.0), ("millibar", 100.0), ("mbar", 100.0), ("kPa", 1e3)],
}
DIVISORS = {
    "s": [("s", 1.0), ("second", 1.0), ("h", 3600.0), ("hours", 3600.0)],
    "m2": [("m2", 1.0)],
    "m3": [("m3", 1.0)],
}


@given(data=st.data())
def test_products_of_powers_in_any_spelling(data: st.DataObject) -> None:
    over, under = data.draw(st.sampled_from(sorted(SPELLINGS)))
    numerator, scale = data.draw(st.sampled_from(SPELLINGS[over, under]))
    denominator, divisor = data.draw(st.sampled_from(DIVISORS[under]))
    word, power = denominator.rstrip("23"), denominator.lstrip("abcdefghijklmnopqrstuvwxyz") or "1"
    form = data.draw(
        st.sampled_from(["{0}/{1}", "{0} per {1}", "{0} {2}**-{3}", "{0} {2}^-{3}", "{0} {2}-{3}", "{0}.{2}-{3}"])
    )
    text = form.format(numerator, denominator, word, power)
    target = f"{over} {under.rstrip('23')}-{under.lstrip('ms') or '1'}"
    change = conversion("x", text, target) or (1.0, 0.0)
    assert change[0] == pytest.approx(scale / divisor, rel=1e-12)
    assert change[1] == 0.0


@example("/0")
@example("m 10^-999")
@example("9^999")
@given(text=st.text(max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    with contextlib.suppress(StoreError):
        conversion("x", text, "K")
