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
        ("kg/(m2 s)", "kg m-2"),
        ("kg/(m2 s)", "kg m-2 s"),
        ("(m s)-1", "m s-1"),
        ("ms-1", "m s-1"),
        ("kg kg-1", "1"),
        ("m2 m-2", "m3 m-3"),
        ("g m-3", "kg kg-1"),
        ("mm/day", "m"),
        ("kg m-2 s-1", "m"),
        ("b", "Pa"),
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


# Target, scale, offset, spellings: of UDUNITS' data base (names, symbols, plurals), GRIB tables, CF, CMIP, WRF and NCL.
TABLE = (
    ("K", 1.0, 0.0, "K|k|kelvin|Kelvin|kelvins|degK|deg_K|degree_K|degrees_K|degreeK|degrees Kelvin|degree_Kelvin"),
    ("K", 1.0, 273.15, "C|c|degC|deg_C|deg C|degreeC|degree_C|degrees_C|degreesC|degree_c|Celsius|celsius|°C|℃"),
    ("K", 1.0, 273.15, "degree_Celsius|degrees_Celsius|degrees celsius|deg_celsius|centigrade|degrees Celcius"),
    ("K", 5 / 9, 459.67 * 5 / 9, "degF|deg_F|fahrenheit|degree_F|degrees_fahrenheit|°F"),
    ("Pa", 1.0, 0.0, "Pa|pa|pascal|Pascals|N m-2|N/m2|N m**-2|kg m-1 s-2|newton m-2|J m-3"),
    ("Pa", 100.0, 0.0, "hPa|hpa|HPA|hectopascal|hectopascals|mb|mbar|mbars|millibar|millibars|Millibar|MB|100 Pa"),
    ("Pa", 1e3, 0.0, "kPa|kilopascal|cbar|centibar"),
    ("Pa", 1e5, 0.0, "bar|bars"),
    ("Pa", 101325.0, 0.0, "atm|atmosphere"),
    ("m s-1", 1.0, 0.0, "m s-1|m/s|m s**-1|m s^-1|m.s-1|m*s-1|m s^{-1}|m·s-1|m s⁻¹|m / s|m.s**-1|(m s-1)|mps|M/S"),
    ("m s-1", 1.0, 0.0, "meter second-1|meters/second|metres per second|m/sec|meters sec-1|metre s-1"),
    ("m s-1", 1 / 3.6, 0.0, "km/h|km h-1|kmh|km/hr|kph|km hour-1|kilometers per hour"),
    ("m s-1", 1852 / 3600, 0.0, "kt|kts|knot|knots|kn"),
    ("m s-1", 0.44704, 0.0, "mph|mile/hour|miles per hour|mi h-1"),
    ("m2 s-2", 1.0, 0.0, "m2 s-2|m**2 s**-2|m^2 s^-2|m2/s2|m^2/s^2|m**2/s**2|J kg-1|J/kg|m2.s-2|m²/s²|m² s⁻²"),
    ("m2 s-2", 1.0, 0.0, "m^{2} s^{-2}|(m^2) (s^-2)|joule kg-1|(m2 s-2)"),
    ("m2 s-2", 9.80665, 0.0, "m|gpm|metre|meters|geopotential meters|geopotential_meter|geopotential metre"),
    ("m2 s-2", 98.0665, 0.0, "dam|gpdm|gpdam|dagpm|decameters"),
    ("m2 s-2", 9806.65, 0.0, "km|kgpm"),
    ("kg kg-1", 1.0, 0.0, "kg kg-1|kg/kg|kg kg**-1|kg kg^-1|kg.kg-1|kg kg^{-1}|g/g|g g-1|(kg/kg)|Kg/Kg|1"),
    ("kg kg-1", 1e-3, 0.0, "g/kg|g kg-1|g kg**-1|g kg^-1|gram/kg|grams per kilogram|10^-3 kg kg-1|1e-3 kg/kg"),
    ("kg kg-1", 1e-6, 0.0, "mg/kg|mg kg-1|1e-6 kg/kg"),
    ("kg kg-1", 1e-9, 0.0, "ug/kg|µg kg-1|microgram/kg"),
    ("1", 1.0, 0.0, "1|-||~|(0 - 1)|(0-1)|0-1|dimensionless|unitless|none|fraction|Fraction|proportion|Numeric|1.0"),
    ("1", 1e-2, 0.0, "%|percent|Percent|pct|per cent|percentage|0.01|1e-2"),
    ("m", 1.0, 0.0, "m|metre|metres|meter|meters|m of water equivalent|m of water|metres of water equivalent|m w.e."),
    ("m", 1e-3, 0.0, "mm|millimetre|millimeters|kg m-2|kg/m2|kg m**-2|kg/m^2|mm of water|mm w.e.|kilogram meter-2"),
    ("m", 1e-2, 0.0, "cm|centimeter|centimetres"),
    ("m", 0.0254, 0.0, "in|inch|inches"),
    ("m", 0.3048, 0.0, "ft|feet|foot"),
    ("J m-2", 1.0, 0.0, "J m-2|J m**-2|J/m2|J/m^2|joule m-2|W s m-2|W m-2 s"),
    ("J m-2", 1e6, 0.0, "MJ m-2|MJ/m2|MJ m**-2"),
    ("Pa s-1", 1.0, 0.0, "Pa s-1|Pa/s|Pa s**-1|Pa s^-1|pascal/second|Pa.s-1|Pascals per second"),
    ("Pa s-1", 100.0, 0.0, "hPa/s|hPa s-1|mb/s|mb s-1|mbar s**-1"),
    ("kg m-2", 1.0, 0.0, "kg m-2|kg m**-2|kg/m2|kg/m^2|mm"),
    ("kg m-3", 1e-9, 0.0, "ug m-3|ug/m3|µg/m3|microgram m-3|µg m⁻³|ug m^-3"),
    ("s-1", 1.0, 0.0, "s-1|s**-1|1/s|/s|s^-1|per second|sec-1|second-1"),
    ("degree", 1.0, 0.0, "degree|degrees|deg|degree_true|degrees true|Degree true|degT|°"),
    ("degree", 180 / 3.141592653589793, 0.0, "rad|radian|radians"),
)  # fmt: skip


@pytest.mark.parametrize(("target", "scale", "offset", "spellings"), TABLE)
def test_spellings_that_people_write(target: str, scale: float, offset: float, spellings: str) -> None:
    for text in spellings.split("|"):
        for spaced in (text, f" {text} "):
            change = conversion("x", spaced, target, of_water=target in ("m", "kg kg-1", "kg m-2")) or (1.0, 0.0)
            assert change == pytest.approx((scale, offset), rel=1e-12), spaced


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
