"""Checks of units: what the store says, and what its values say."""

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check
from kit.checks.physics import standard_geopotential
from kit.checks.scan import Survey
from kit.checks.store_reader import Position
from kit.data.units import STANDARD_GRAVITY

_TEMPERATURES = ("2t", "2d", "skt", "sst", "stl1", "t")
_PRESSURES = ("msl", "sp")
_OTHER_MEANS = (
    (_TEMPERATURES, -110, 70, "degrees Celsius for kelvin", "add 273.15"),
    (_PRESSURES, 450, 1110, "hPa for Pa", "multiply by 100"),
    (_PRESSURES, 45, 111, "kPa for Pa", "multiply by 1000"),
)
"""Variables, the open interval of means that another unit gives, that unit, and what puts it right."""
RAIN = ("tp", "cp", "lsp", "sf", "ro")
WETTEST = 0.1
"""Metres of water a day that no region receives on average; the globe has 0.003."""
_SYNONYMS = {"m**2 s**-2": "m2 s-2", "m s**-1": "m s-1", "kg kg**-1": "kg kg-1", "J m**-2": "J m-2", "(0 - 1)": "1"}


@check("units-attribute", "error", "every unit that is stated is that of the table of variables")
def _units_attribute(store: Examined) -> Findings:
    is_stated = False
    for channel in store.reader.channels:
        known, stated = channel.known, channel.units
        if known is None or stated is None:
            continue
        is_stated = True
        plain = _SYNONYMS.get(stated, stated)
        if known.units == "1" and plain == "dimensionless":
            continue
        # ECMWF writes ``~`` for what has no unit.
        if plain.replace("~", "") not in (known.units, ""):
            detail = f"states the unit {stated!r}, and {known.units!r} is expected"
            yield Finding(channel.name, detail, f"{REBUILD}, which converts what it can; else correct the source")
    if not is_stated:
        msg = "no variable of the table states a unit"
        raise NotApplicable(msg)


@check("unit-mistake", "error", "no values look like those of another unit")
def _unit_mistake(store: Examined) -> Findings:
    # What the table lacks has no known unit; geopotential is compared with a standard atmosphere.
    for name, found in store.all_of("variable with a known unit", lambda one: one.channel.known is not None).items():
        if not np.isfinite(found.mean_C).any():
            continue
        mean = float(np.nanmean(found.mean_C))
        summary = f"mean {mean:.4g}, from {found.low:.4g} to {found.high:.4g}"
        if name == "z":
            mistake = _geopotential(store, found)
        elif mistake := _by_mean(name, mean) or _by_extremes(store, found, mean):
            mistake = f"{summary}: {mistake[0]}", mistake[1]
        else:
            mistake = _from_some_state_on(store, found)
        if mistake is not None:
            yield Finding(name, mistake[0], f"{mistake[1]}: correct the source's unit, then {REBUILD}")


_Mistake = tuple[str, str]
"""What values look like, and what puts them right."""


def _by_mean(name: str, mean: float) -> _Mistake | None:
    for names, low, high, unit, remedy in _OTHER_MEANS:
        if name in names and low < mean < high:
            return unit, remedy
    return None


def _from_some_state_on(store: Examined, found: Survey) -> _Mistake | None:
    """Judge each state by its mean: a source may change its unit from a certain day on."""
    mistakes = [_by_mean(found.channel.name, float(np.mean(mean_C))) for mean_C in found.mean_TC]
    for time, mistake in enumerate(mistakes):
        if mistake is not None:
            count = len(mistakes) - mistakes.count(None)
            moment = store.reader.where(found.channel, Position(time=time))
            return f"{count} of {len(mistakes)} states from {moment} on: {mistake[0]}", f"{mistake[1]} there"
    return None


def _by_extremes(store: Examined, found: Survey, mean: float) -> _Mistake | None:
    known, name = found.channel.known, found.channel.name
    low, high = found.low, found.high
    if name == "static_z":
        latitude = store.reader.coordinates.get("latitude", np.zeros(1))
        longitude = store.reader.coordinates.get("longitude", np.zeros(1))
        # Of the globe alone it is known how high its highest land is.
        if np.ptp(latitude) > 120 and np.ptp(longitude) > 300 and 1000 < high < 9000:
            return "metres for m2 s-2 (the highest land would be lower than 1000 m)", f"multiply by {STANDARD_GRAVITY}"
    elif name in RAIN:
        # Over the longest window that the values can be of: whether it is the stated one is another check's.
        hours = max(found.channel.window_hours or 0, store.step_hours or 0) or 1
        if mean * 24 / hours > WETTEST:
            return "mm for m", "divide by 1000"
    elif name == "q":
        if 0.2 < high < 50:
            return "g/kg for kg/kg", "divide by 1000"
    elif known is not None and known.units == "1" and (known.low, known.high) == (0.0, 1.0):
        if 2 < high <= 105 and low >= -5:
            return "percent for a share of 1", "divide by 100"
    elif known is not None and known.units == "J m-2" and 20 < max(abs(low), abs(high)) < 2000:
        return "W m-2 for J m-2", "multiply by the seconds of the window"
    return None


def _geopotential(store: Examined, found: Survey) -> _Mistake | None:
    """Compare with a standard atmosphere; levels near the ground say little."""
    levels = store.reader.coordinates["level"]
    high = (levels > 0) & (levels <= 850) & np.isfinite(found.mean_C)
    if not high.any():
        return None
    # Geopotential is height times gravity: in metres or decametres it is too small by 9.8 or 98.
    ratio = float(np.median(found.mean_C[high] / standard_geopotential(levels[high])))
    for unit, metres in (("m", 1), ("dam", 10)):
        if 0.8 < ratio * metres * STANDARD_GRAVITY < 1.25:
            detail = f"z is {ratio:.3g} times the geopotential of a standard atmosphere: geopotential height in {unit}"
            return detail, f"multiply by {metres * STANDARD_GRAVITY}"
    return None


CHECKS = (_units_attribute, _unit_mistake)
"""In the order in which they are reported."""
