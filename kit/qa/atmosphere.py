"""The air, as far as checks need to know it: a standard atmosphere and the hypsometric equation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DRY_AIR", "GRAVITY", "standard_geopotential", "standard_temperature", "thickness", "virtual_temperature"]

Array = npt.NDArray[Any]

GRAVITY = 9.80665
"""Standard gravity, m s-2."""
DRY_AIR = 287.0597
"""Gas constant of dry air, J kg-1 K-1 (ECMWF, IFS documentation, part IV, chapter 12)."""
_VAPOUR = 0.609133
"""Gas constant of water vapour over that of dry air, less one (same source)."""
_TROPOPAUSE = (226.32, 11000.0, 216.65)
"""hPa, m, K."""
_LAPSE = 0.0065
"""K m-1."""


def standard_geopotential(pressure: Any) -> Array:
    """Geopotential of pressures in hPa, in m2 s-2 (International Standard Atmosphere, ISO 2533:1975, up to 20 km)."""
    pressure = np.asarray(pressure, dtype=np.float64)
    edge, height, temperature = _TROPOPAUSE
    below = 288.15 / _LAPSE * (1 - (pressure / 1013.25) ** (DRY_AIR * _LAPSE / GRAVITY))
    above = height + DRY_AIR * temperature / GRAVITY * np.log(edge / pressure)
    return np.asarray(GRAVITY * np.where(pressure >= edge, below, above))


def standard_temperature(pressure: Any) -> Array:
    """Temperature at pressures in hPa, in K (same source)."""
    height = standard_geopotential(pressure) / GRAVITY
    return np.asarray(np.maximum(288.15 - _LAPSE * height, _TROPOPAUSE[2]))


def virtual_temperature(temperature: Array, humidity: Array | float) -> Array:
    """Temperature, in K, of dry air as dense as moist air of a temperature and a specific humidity, in kg kg-1."""
    return np.asarray(temperature * (1 + _VAPOUR * humidity))


def thickness(upper: Array, lower: Array, upper_pressure: float, lower_pressure: float) -> Array:
    """Difference of geopotential between two pressure levels, in m2 s-2.

    The hypsometric equation (Wallace and Hobbs, Atmospheric Science, 2nd ed., 2006, eq. 3.24), with the virtual
    temperature linear in the logarithm of pressure between the levels.

    Args:
        upper: virtual temperature at the upper level, K.
        lower: at the lower one.
        upper_pressure: in any unit.
        lower_pressure: in the same unit.
    """
    return np.asarray(DRY_AIR * (upper + lower) / 2 * np.log(lower_pressure / upper_pressure))
