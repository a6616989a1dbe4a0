"""Units as sources spell them, and the conversions to the store's.

Own code: a variable has one of some twenty units, and what goes wrong is their spelling. ``pint`` knows more, but reads
``mb`` as millibarns and ``m s-1`` as a difference, so that its spellings would have to be rewritten by the same rules.
"""

import math
import re
from dataclasses import dataclass, field

from kit.io.errors import StoreError

STANDARD_GRAVITY = 9.80665
"""m s-2; WMO's constant between geopotential height and geopotential."""
WATER_DENSITY = 1000.0
"""kg m-3: a column of 1 kg m-2 of water stands 1 mm high."""

# Whole units, compared without case. All others are read as products of powers.
_SPELLINGS = {
    "": "1",
    "-": "1",
    "~": "1",
    "(0 - 1)": "1",
    "(0-1)": "1",
    "0 - 1": "1",
    "0-1": "1",
    "proportion": "1",
    "dimensionless": "1",
    "unitless": "1",
    "none": "1",
    "numeric": "1",
    "fraction": "1",
    "percent": "%",
    "per cent": "%",
    "percentage": "%",
    "pct": "%",
    "k": "K",
    "c": "degC",
    "pa": "Pa",
    "hpa": "hPa",
    "mb": "hPa",
    "m/s": "m s-1",
    "kg/kg": "kg kg-1",
    "g/kg": "g kg-1",
    "pa/s": "Pa s-1",
    "m2/s2": "m2 s-2",
    "j/m2": "J m-2",
    "kg/m2": "kg m-2",
    "kg/m3": "kg m-3",
    "geopotential_meter": "gpm",
    "geopotential meter": "gpm",
    "geopotential meters": "gpm",
    "geopotential metre": "gpm",
    "geopotential metres": "gpm",
    "degree": "degree",
    "degrees": "degree",
    "deg": "degree",
    "\N{DEGREE SIGN}": "degree",
    "degt": "degree",
    "degree true": "degree",
    "degrees true": "degree",
    "degree_true": "degree",
    "degrees_true": "degree",
    "gpdm": "dagpm",
    "gpdam": "dagpm",
    "mps": "m s-1",
    "dbz": "dBZ",
    "radians": "radian",
    "rad": "radian",
}
_TEMPERATURE = re.compile(r"(?:°|deg(?:ree)?s?)?[ _]?(c|k|f|celsius|celcius|centigrade|kelvins?|fahrenheit)")
"""UDUNITS' spellings of degrees: ``degC``, ``degree_C``, ``degrees Celsius``, ``deg_K``."""
_DEGREES = {"c": "degC", "k": "K", "f": "degF"}

# (from, to): value in the new units = value x scale + offset.
_CONVERSIONS = {
    ("hPa", "Pa"): (100.0, 0.0),
    ("Pa", "hPa"): (0.01, 0.0),
    ("degC", "K"): (1.0, 273.15),
    ("degF", "K"): (5 / 9, 459.67 * 5 / 9),
    ("mm", "m"): (1e-3, 0.0),
    ("cm", "m"): (1e-2, 0.0),
    ("km", "m"): (1e3, 0.0),
    ("%", "1"): (1e-2, 0.0),
    ("ug m-3", "kg m-3"): (1e-9, 0.0),
    ("km h-1", "m s-1"): (1 / 3.6, 0.0),
    ("kJ m-2", "J m-2"): (1e3, 0.0),
    ("MJ m-2", "J m-2"): (1e6, 0.0),
    ("hPa s-1", "Pa s-1"): (100.0, 0.0),
    ("radian", "degree"): (57.29577951308232, 0.0),
    ("degree", "radian"): (0.017453292519943295, 0.0),
    # GRIB knows decibels alone; those of a reflectivity are above 1 mm6 m-3.
    ("dB", "dBZ"): (1.0, 0.0),
    ("1", "m3 m-3"): (1.0, 0.0),
    ("m3 m-3", "1"): (1.0, 0.0),
}
_WATER_CONVERSIONS = {
    ("kg m-2", "m"): (1 / WATER_DENSITY, 0.0),
    ("m", "kg m-2"): (WATER_DENSITY, 0.0),
    ("mm", "kg m-2"): (1.0, 0.0),
    # CF's unit of a mass fraction. Of gases it may as well be one of volumes.
    ("1", "kg kg-1"): (1.0, 0.0),
}
"""Of water alone."""

_METRE, _KILOGRAM, _SECOND = {"m": 1}, {"kg": 1}, {"s": 1}
_PRESSURE, _ENERGY = {"kg": 1, "m": -1, "s": -2}, {"kg": 1, "m": 2, "s": -2}
# Symbol: names in full, factor to SI's base units, their powers.
_UNITS: dict[str, tuple[str, float, dict[str, int]]] = {
    "m": ("metre meter", 1.0, _METRE),
    "g": ("gram gramme", 1e-3, _KILOGRAM),
    "s": ("second sec", 1.0, _SECOND),
    "min": ("minute", 60.0, _SECOND),
    "h": ("hour hr", 3600.0, _SECOND),
    "d": ("day", 86400.0, _SECOND),
    "K": ("kelvin", 1.0, {"K": 1}),
    "Pa": ("pascal", 1.0, _PRESSURE),
    # UDUNITS knows it by itself: a b alone is no bar.
    "mbar": ("mb mbar", 100.0, _PRESSURE),
    "bar": ("", 1e5, _PRESSURE),
    "atm": ("atmosphere", 101325.0, _PRESSURE),
    "J": ("joule", 1.0, _ENERGY),
    "W": ("watt", 1.0, {"kg": 1, "m": 2, "s": -3}),
    "N": ("newton", 1.0, {"kg": 1, "m": 1, "s": -2}),
    # International knot, foot, inch and mile: ISO 80000-3, annex.
    "kn": ("knot kt", 1852 / 3600, {"m": 1, "s": -1}),
    "ft": ("foot feet", 0.3048, _METRE),
    "in": ("inch inche", 0.0254, _METRE),
    "mi": ("mile", 1609.344, _METRE),
    "kph": ("kmh", 1 / 3.6, {"m": 1, "s": -1}),
    "mph": ("", 0.44704, {"m": 1, "s": -1}),
    # A height that stands for the work of lifting 1 kg against standard gravity.
    "gpm": ("gpmetre gpmeter", STANDARD_GRAVITY, {"m": 2, "s": -2}),
}
_PREFIXES = {
    "n": ("nano", 1e-9), "u": ("micro", 1e-6), "m": ("milli", 1e-3), "c": ("centi", 1e-2), "d": ("deci", 1e-1),
    "da": ("deca", 10.0), "h": ("hecto", 100.0), "k": ("kilo", 1e3), "M": ("mega", 1e6), "G": ("giga", 1e9),
}  # fmt: skip
_FACTOR = re.compile(
    r"\s*(?:(?P<per>/|per\b)\s*)?(?P<unit>[A-Za-z]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\^?(?P<power>[+-]?\d)?"
)
"""One factor of a unit; a number may carry a power of its own, as ``10^-6`` does."""
_SIGNS = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹℃", "-+0123456789C", "{}")
"""Powers as small figures, and LaTeX's braces around them."""
_OF_WATER = re.compile(r"(?<=[a-z])\s+(?:of (?:liquid )?water(?: equivalent)?|(?:liquid )?water equivalent|w\.e\.)$")
"""How lengths end that are depths of water."""
_GROUP = re.compile(r"\(([^()]*)\)")
_DECADES = 30
"""Powers of ten that a number in a unit may reach."""
_LONGEST = 80
"""Characters of the longest text that is read as a unit."""


@dataclass
class _Product:
    """A unit as a product: its spelling, its factor to SI's base units, and their powers."""

    spelling: list[str] = field(default_factory=list)
    factor: float = 1.0
    powers: dict[str, int] = field(default_factory=dict)
    dimensions: list[tuple[str, ...]] = field(default_factory=list)
    """What each of its units is of, which tells a share of masses from one of volumes."""


def _plain(text: str) -> str:
    """Write a unit without small figures, braces, needless brackets, and what a depth of water is of."""
    plain = _OF_WATER.sub("", text.strip().translate(_SIGNS))
    # Of what is divided by, or raised to a power, brackets hold more than one factor together.
    if re.search(r"(?:/|\bper)\s*\(|\)\s*(?:\^|\*\*|[-+]?\d)", plain):
        return plain
    return _GROUP.sub(r"\1", plain)


def canonical_units(text: str) -> str:
    """Bring a unit to one spelling: ``m**2 s**-2``, ``m^2/s^2`` and ``metres2 per second2`` are ``m2 s-2``."""
    if text.strip().lower() in _SPELLINGS:
        return _SPELLINGS[text.strip().lower()]
    plain = re.sub(r"\*\*|\^", "", _plain(text))
    if plain.lower() in _SPELLINGS:
        return _SPELLINGS[plain.lower()]
    degrees = _TEMPERATURE.fullmatch(plain.lower())
    if degrees is not None and plain.lower() != "f":
        return _DEGREES[degrees[1][0]]
    product = _parsed(text)
    if product is None or not product.spelling:
        return re.sub(r"\s+", " ", plain)
    spelling = " ".join(product.spelling)
    # Bars stand for hectopascals in all of meteorology's units.
    return re.sub(r"\bmbar\b", "hPa", spelling)


def is_unit(text: str) -> bool:
    """Whether a text is a unit that the kit can read, of whatever dimension."""
    canonical = canonical_units(text)
    return canonical in (*_SPELLINGS.values(), *_DEGREES.values(), "%", "dB") or _parsed(text) is not None


def _parsed(text: str) -> _Product | None:
    """Read a unit as a product of powers; None where it is none that the kit knows."""
    if len(text) > _LONGEST:
        return None
    rest = _plain(text).replace("**", "^").replace("µ", "u").replace("μ", "u")
    # UDUNITS multiplies by a point: m.s-1.
    rest = re.sub(r"(?<=[A-Za-z0-9])[.·](?=[A-Za-z])|\*|·", " ", rest)
    product = _Product()
    while rest.strip():
        found = _FACTOR.match(rest)
        if found is None:
            return None
        rest = rest[found.end() :]
        power = int(found["power"] or 1)
        if found["per"]:
            power = -power
        if found["unit"][0].isdigit():
            number = float(found["unit"])
            # A number that is none, or too large or small, makes no unit.
            if not number or abs(power) * abs(math.log10(number)) > _DECADES:
                return None
            number **= power
            product.factor *= number
            # Numbers belong to the spelling, or two units would be taken for one.
            if number != 1:
                product.spelling.append(f"{number:g}")
            continue
        known = _symbol(found["unit"])
        if known is None:
            return None
        symbol, factor, powers = known
        product.spelling.append(symbol if power == 1 else f"{symbol}{power}")
        product.factor *= factor**power
        product.dimensions.append(tuple(f"{base}{exponent * power}" for base, exponent in sorted(powers.items())))
        for base, exponent in powers.items():
            product.powers[base] = product.powers.get(base, 0) + exponent * power
    product.powers = {base: exponent for base, exponent in product.powers.items() if exponent}
    product.dimensions.sort()
    return product


def _symbol(word: str) -> tuple[str, float, dict[str, int]] | None:
    """Look up a unit by symbol or name, with a prefix or without: ``hPa``, ``millibars``, ``kilogram``."""
    for prefix, (long_prefix, scale) in (("", ("", 1.0)), *_PREFIXES.items()):
        for symbol, (names, factor, powers) in _UNITS.items():
            spellings = {prefix + symbol}
            for name in names.split():
                spellings |= {long_prefix + name, long_prefix + name + "s"}
            if symbol == "bar":
                spellings |= {long_prefix + "bar", long_prefix + "bars"}
            if word in spellings or word.lower() in spellings - {prefix + symbol}:
                return prefix + symbol, scale * factor, powers
    return None


def conversion(name: str, units: str, target: str, *, of_water: bool = False) -> tuple[float, float] | None:
    """Find the scale and offset that turn a source's units into the store's.

    Args:
        name: Name of the variable, for the message.
        units: Units as the source spells them.
        target: Units of the store.
        of_water: Whether it is an amount of water, of which 1 kg m-2 stands 1 mm high.

    Returns:
        ``(scale, offset)``, or None where the units are the same.

    Raises:
        StoreError: there is no such conversion; lists those there are.
    """
    source = canonical_units(units)
    # GRIB gives categories, such as types of soil, the number of their table for a unit.
    known_categories = source.lower().strip("(").startswith("code table") and target == "1"
    if source == target or known_categories:
        return None
    table = _CONVERSIONS
    if of_water:
        table = _CONVERSIONS | _WATER_CONVERSIONS
    if (source, target) in table:
        return table[source, target]
    scale = _scale(units, target)
    if scale is None:
        known = [target, *(old for old, new in table if new == target)]
        msg = (
            f"{name} comes in {units!r}, and the store wants {target!r}; "
            f"the kit converts from {', '.join(known)}. Convert the files, or mend their units attribute"
        )
        raise StoreError(msg)
    return None if scale == 1 else (scale, 0.0)


def _scale(units: str, target: str) -> float | None:
    """Compute the factor between two units of the same dimension; None where they are of different ones.

    What has no dimension is compared unit by unit: a share of volumes is none of masses, nor is it an angle.
    """
    mine, theirs = _parsed(units) or _parsed(canonical_units(units)), _parsed(target)
    if mine is None or theirs is None:
        return None
    if not theirs.powers and mine.dimensions != theirs.dimensions:
        return None
    # Geopotential is height times gravity; nothing else in the table is in these units.
    if target == "m2 s-2" and mine.powers == _METRE:
        return mine.factor * STANDARD_GRAVITY
    if mine.powers != theirs.powers:
        return None
    return mine.factor / theirs.factor
