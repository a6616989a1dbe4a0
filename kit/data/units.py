"""Units as sources spell them, and the conversions to the store's."""

import re

from kit.io.errors import StoreError

STANDARD_GRAVITY = 9.80665
"""m s-2; WMO's constant between geopotential height and geopotential."""

_SPELLINGS = {
    "": "1",
    "-": "1",
    "~": "1",
    "(0 - 1)": "1",
    "0-1": "1",
    "proportion": "1",
    "dimensionless": "1",
    "numeric": "1",
    "fraction": "1",
    "kelvin": "K",
    "k": "K",
    "c": "degC",
    "celsius": "degC",
    "degc": "degC",
    "deg c": "degC",
    "degree_celsius": "degC",
    "degrees celsius": "degC",
    "°c": "degC",
    "pa": "Pa",
    "pascal": "Pa",
    "hpa": "hPa",
    "mb": "hPa",
    "mbar": "hPa",
    "millibar": "hPa",
    "millibars": "hPa",
    "m/s": "m s-1",
    "kg/kg": "kg kg-1",
    "g/kg": "g kg-1",
    "pa/s": "Pa s-1",
    "m2/s2": "m2 s-2",
    "j/m2": "J m-2",
    "kg/m2": "kg m-2",
    "kg/m3": "kg m-3",
    "meter": "m",
    "metre": "m",
    "meters": "m",
    "metres": "m",
    "m of water equivalent": "m",
    "m of water": "m",
    "gpm": "gpm",
    "geopotential meter": "gpm",
    "degrees": "degree",
    "deg": "degree",
    "degree true": "degree",
    "dbz": "dBZ",
    "radians": "radian",
    "rad": "radian",
    "percent": "%",
    "seconds": "s",
}

# (from, to): value in the new units = value x scale + offset.
_CONVERSIONS = {
    ("hPa", "Pa"): (100.0, 0.0),
    ("Pa", "hPa"): (0.01, 0.0),
    ("degC", "K"): (1.0, 273.15),
    ("mm", "m"): (1e-3, 0.0),
    ("cm", "m"): (1e-2, 0.0),
    ("km", "m"): (1e3, 0.0),
    # A column of water: 1 kg m-2 stands 1 mm high. Every variable in metres that a source may give so is water.
    ("kg m-2", "m"): (1e-3, 0.0),
    ("gpm", "m2 s-2"): (STANDARD_GRAVITY, 0.0),
    ("m", "m2 s-2"): (STANDARD_GRAVITY, 0.0),
    ("g kg-1", "kg kg-1"): (1e-3, 0.0),
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


def canonical_units(text: str) -> str:
    """Bring a unit to one spelling: ``m**2 s**-2`` and ``m^2 s^-2`` are ``m2 s-2``."""
    plain = re.sub(r"\*\*|\^", "", text.strip())
    return _SPELLINGS.get(plain.lower(), re.sub(r"\s+", " ", plain))


def conversion(name: str, units: str, target: str) -> tuple[float, float] | None:
    """Find the scale and offset that turn a source's units into the store's.

    Args:
        name: Name of the variable, for the message.
        units: Units as the source spells them.
        target: Units of the store.

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
    if (source, target) not in _CONVERSIONS:
        known = [target, *(old for old, new in _CONVERSIONS if new == target)]
        msg = (
            f"{name} comes in {units!r}, and the store wants {target!r}; "
            f"the kit converts from {', '.join(known)}. Convert the files, or mend their units attribute"
        )
        raise StoreError(msg)
    return _CONVERSIONS[source, target]
