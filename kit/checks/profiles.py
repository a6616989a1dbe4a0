"""Check of levels by what the air is like at a pressure: warm and moist air at 100 hPa is near the ground in truth.

Dimensions: C level.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check, few
from kit.checks.physics import standard_geopotential
from kit.checks.results import Severity
from kit.data.units import STANDARD_GRAVITY

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Layer:
    """Pressures, hPa, and what means over a store can be there: temperature, K, and specific humidity, kg kg-1.

    Wide of the means of any region and month in ERA5's climatology (Hersbach et al. 2020, doi:10.1002/qj.3803): the
    tropical tropopause has 190 K, 300 hPa over Tibet in July 247 K; upstream's published means are 208 to 230 K.
    """

    top: float
    bottom: float
    coldest: float
    warmest: float
    moistest: float


_LAYERS = (
    _Layer(30, 200, 180, 250, 3e-4), _Layer(200, 350, 195, 260, 3e-3), _Layer(700, 1100, 200, 325, 0.05),
)  # fmt: skip
_KELVIN = (150.0, 350.0)
"""Means outside are in another unit, which says nothing of the levels."""
_DRIER = 0.3
"""Largest share of the humidity below 700 hPa that there is above 200 hPa."""
_OTHER_AIR = 0.25
"""Share by which geopotential may differ from that of a standard atmosphere."""


@check("level-profile", "error", "temperature, humidity and geopotential fit the levels", needs=("level",))
def _level_profile(store: Examined) -> Findings:
    levels = store.reader.coordinates["level"]
    off: dict[str, Array] = {}
    judge = {"t": _too_warm, "q": _too_moist, "z": _too_low}
    for name, wrong in judge.items():
        found = store.found(name)
        if found is not None:
            mask = wrong(found.mean_C, levels)
            if mask is not None:
                off[name] = mask
    if not off:
        msg = "no temperature, humidity or geopotential on levels that tell"
        raise NotApplicable(msg)
    wrong_at = [name for name, mask in off.items() if mask.any()]
    if not wrong_at:
        return
    parts = []
    for name in wrong_at:
        (found,) = store.need(name)
        means = [f"{mean:.3g}" for mean in found.mean_C[off[name]]]
        places = [f"{level:g}" for level in levels[off[name]]]
        parts.append(f"{name} averages {few(means)} at {few(places)} hPa")
    remedy = "these are numbers of model levels, or heights, and no pressures: download pressure levels, or "
    remedy += "interpolate to them; where it is the variable that is wrong, correct that"
    temperature = store.found("t")
    if temperature is not None and levels.max() <= 110 and not _is_off(_too_warm(temperature.mean_C, 10 * levels)):
        remedy = "the levels look like kPa: multiply them by 10 in the source"
    # One variable alone may be wrong itself; all of them together tell of the levels.
    severity: Severity | None = None if len(wrong_at) == len(off) else "warning"
    variable = "level" if severity is None else wrong_at[0]
    detail = f"{'; '.join(parts)}: no air is like that there"
    yield Finding(variable, detail, f"{remedy}. {REBUILD.capitalize()}", severity, {"variables": wrong_at})


def _is_off(mask: Array | None) -> bool:
    return mask is None or bool(mask.any())


def _too_warm(mean_C: Array, levels: Array) -> Array | None:
    """Mark the levels whose temperature is of another height; None where none tells."""
    known = np.zeros(len(levels), dtype=bool)
    wrong = known.copy()
    for layer in _LAYERS:
        inside = (levels >= layer.top) & (levels < layer.bottom) & (mean_C > _KELVIN[0]) & (mean_C < _KELVIN[1])
        known |= inside
        wrong |= inside & ((mean_C < layer.coldest) | (mean_C > layer.warmest))
    return wrong if known.any() else None


def _too_moist(mean_C: Array, levels: Array) -> Array | None:
    known = np.zeros(len(levels), dtype=bool)
    wrong = known.copy()
    for layer in _LAYERS:
        # Above that, humidity is in another unit.
        inside = (levels >= layer.top) & (levels < layer.bottom) & (mean_C >= 0) & (mean_C < _LAYERS[-1].moistest)
        known |= inside
        wrong |= inside & (mean_C > layer.moistest)
    high, low = known & (levels <= 200), known & (levels >= 700)
    if high.any() and low.any():
        wrong |= high & (mean_C > _DRIER * mean_C[low].max())
    return wrong if known.any() else None


def _too_low(mean_C: Array, levels: Array) -> Array | None:
    # Near the ground pressure itself varies as much as geopotential does.
    known = (levels > 0) & (levels <= 700) & np.isfinite(mean_C)
    ratio = np.ones(len(levels))
    ratio[known] = mean_C[known] / standard_geopotential(levels[known])
    # The same tenth or hundredth everywhere is height in m or dam, which says nothing of the levels.
    factors = (STANDARD_GRAVITY, 10 * STANDARD_GRAVITY)
    is_height = any((np.abs(ratio[known] * factor - 1) < _OTHER_AIR).all() for factor in factors)
    if is_height or not known.any():
        return None
    return np.asarray(np.abs(ratio - 1) > _OTHER_AIR)


CHECKS = (_level_profile,)
"""In the order in which they are reported."""
