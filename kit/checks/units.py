"""Checks of units: what the store says, and what its values say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, check
from kit.checks.physics import GRAVITY, standard_geopotential
from kit.checks.scan import Survey
from kit.checks.store_reader import Place

__all__ = ["CHECKS"]

_RAIN = ("tp", "cp", "lsp", "sf", "ro")
_WETTEST = 0.1
"""Metres of water a day that no region receives on average; the globe has 0.003."""
_SYNONYMS = {"m**2 s**-2": "m2 s-2", "m s**-1": "m s-1", "kg kg**-1": "kg kg-1", "J m**-2": "J m-2", "(0 - 1)": "1"}


@check("units-attribute", "error", "every unit that is stated is that of the table of variables")
def _units_attribute(store: Examined) -> Findings:
    for channel in store.subject.channels:
        known, stated = channel.known, channel.units
        if known is None or stated is None:
            continue
        plain = _SYNONYMS.get(stated, stated)
        if plain.replace("~", "") not in (known.units, "") and not (known.units == "1" and plain == "dimensionless"):
            detail = f"states the unit {stated!r}, and {known.units!r} is expected"
            yield Finding(channel.name, detail, f"{REBUILD}, which converts what it can; else correct the source")


@check("unit-mistake", "error", "no values look like those of another unit")
def _unit_mistake(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if not found.states or not np.isfinite(found.mean_C).any():
            continue
        told = _geopotential(store, found) if name == "z" else _by_values(store, found)
        if told:
            detail, factor = told
            yield Finding(name, detail, f"{factor}: correct the source's unit, then {REBUILD}")


def _by_values(store: Examined, found: Survey) -> tuple[str, str] | None:
    known = found.channel.known
    if known is None:
        return None
    rule = next((rule for applies, rule in _RULES if applies(found)), None)
    if rule is None:
        return None
    mean = float(np.nanmean(found.mean_C))
    if told := rule(store, found, mean):
        return f"mean {mean:.4g}, from {found.low:.4g} to {found.high:.4g}: {told[0]}", told[1]
    # A source may change its unit from a certain day on.
    means_T = [float(np.mean(means_C)) for means_C in found.mean_TC] if rule in (_temperature, _pressure) else []
    every = [(time, one) for time, mean in enumerate(means_T) if (one := rule(store, found, mean))]
    if not every:
        return None
    first, (other, factor) = every[0]
    moment = store.subject.where(found.channel, Place(time=first))
    return f"{len(every)} of {len(means_T)} states from {moment} on: {other}", f"{factor} there"


Told = tuple[str, str] | None


def _temperature(_store: Examined, _found: Survey, mean: float) -> Told:
    if -110 < mean < 70:
        return "degrees Celsius for kelvin", "add 273.15"
    return None


def _pressure(_store: Examined, _found: Survey, mean: float) -> Told:
    if 450 < mean < 1110:
        return "hPa for Pa", "multiply by 100"
    if 45 < mean < 111:
        return "kPa for Pa", "multiply by 1000"
    return None


def _orography(store: Examined, found: Survey, _mean: float) -> Told:
    latitude, longitude = (store.subject.coordinates.get(name, np.zeros(1)) for name in ("latitude", "longitude"))
    if np.ptp(latitude) > 120 and np.ptp(longitude) > 300 and 1000 < found.high < 9000:
        return "metres for m2 s-2 (the highest land would be lower than 1000 m)", f"multiply by {GRAVITY}"
    return None


def _rain(store: Examined, found: Survey, mean: float) -> Told:
    daily = mean * 24 / (found.channel.window_hours or store.step_hours or 1)
    return ("mm for m", "divide by 1000") if daily > _WETTEST else None


def _humidity(_store: Examined, found: Survey, _mean: float) -> Told:
    return ("g/kg for kg/kg", "divide by 1000") if 0.2 < found.high < 50 else None


def _fraction(_store: Examined, found: Survey, _mean: float) -> Told:
    return ("percent for a share of 1", "divide by 100") if 2 < found.high <= 105 and found.low >= -5 else None


def _energy(_store: Examined, found: Survey, _mean: float) -> Told:
    largest = max(abs(found.low), abs(found.high))
    return ("W m-2 for J m-2", "multiply by the seconds of the window") if 20 < largest < 2000 else None


def _of(*names: str) -> Callable[[Survey], bool]:
    return lambda found: found.channel.name in names


def _is_share(found: Survey) -> bool:
    known = found.channel.known
    return known is not None and known.units == "1" and (known.low, known.high) == (0.0, 1.0)


def _is_energy(found: Survey) -> bool:
    known = found.channel.known
    return known is not None and known.units == "J m-2"


_RULES = (
    (_of("2t", "2d", "skt", "sst", "stl1", "t"), _temperature),
    (_of("msl", "sp"), _pressure),
    (_of("static_z"), _orography),
    (_of(*_RAIN), _rain),
    (_of("q"), _humidity),
    (_is_share, _fraction),
    (_is_energy, _energy),
)


def _geopotential(store: Examined, found: Survey) -> tuple[str, str] | None:
    """Compare with a standard atmosphere; levels near the ground say little."""
    levels = store.subject.coordinates["level"]
    high = (levels > 0) & (levels <= 850) & np.isfinite(found.mean_C)
    if not high.any():
        return None
    ratio = float(np.median(found.mean_C[high] / standard_geopotential(levels[high])))
    told = f"z is {ratio:.3g} times the geopotential of a standard atmosphere"
    if 0.8 < ratio * GRAVITY < 1.25:
        return f"{told}: geopotential height in m", f"multiply by {GRAVITY}"
    if 0.8 < ratio * 10 * GRAVITY < 1.25:
        return f"{told}: geopotential height in dam", f"multiply by {10 * GRAVITY}"
    return None


CHECKS = (_units_attribute, _unit_mistake)
"""In the order in which they are reported."""
