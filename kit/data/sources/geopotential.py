"""Geopotential of the surface or of a level, in m2 s-2 or in metres: is_stated apart by values that allow but one."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.units import STANDARD_GRAVITY, conversion
from kit.io.errors import StoreError

_HIGHEST = 9000.0
"""Metres that no place on Earth lies above: Mount Everest is 8849 m high."""
_LOW_LEVEL = 900.0
"""hPa: levels below, where heights come near 0, do not tell metres from m2 s-2."""


def standard_height(hectopascals: float) -> float:
    """Compute the height in metres of a pressure in the standard atmosphere (ICAO, Doc 7488, up to 20 km).

    Args:
        hectopascals: Pressure.
    """
    # Constant lapse rate up to the tropopause at 226.32 hPa and 11 km, constant temperature above.
    if hectopascals >= 226.32:
        return float(44330.77 * (1 - (hectopascals / 1013.25) ** 0.190263))
    return float(11000.0 + 6341.62 * np.log(226.32 / hectopascals))


def is_of_level(array: xr.DataArray, level: float, where: str, *, is_stated: bool) -> bool:
    """Tell whether a geopotential without a dimension of levels is that of the one level beside it.

    Reads the first and the last state.

    Args:
        array: Field along ``time``, or of no time.
        level: Pressure in hPa.
        where: Name of the file, for messages.
        is_stated: Whether the user says that fields lie on this level.

    Raises:
        StoreError: It may as well be the surface's.
    """
    # A field on a level has the times of all others; what has none is constant.
    if "time" not in array.dims:
        return False
    first, last = array.isel(time=0).values, array.isel(time=-1).values
    if array.sizes["time"] > 1:
        return not np.array_equal(first, last, equal_nan=True)
    height = standard_height(level)
    # Weather moves a level by some hundred metres.
    if not _within(first, array.attrs.get("units"), 0.85 * height - 300, 1.15 * height + 300):
        return False
    if is_stated:
        return True
    msg = (
        f"{where}: {array.name} has one state, and may be the geopotential of the surface or that at {level:g} hPa; "
        f"say --at_level {level:g} if it is that of the level, or write a file without it, such as with NCO's "
        f"`ncks -x -v {array.name} IN OUT`"
    )
    raise StoreError(msg)


def _within(values: npt.NDArray[np.float64], units: str | None, low: float, high: float) -> bool:
    """Whether all values are heights between two; without units, taken for metres or for m2 s-2."""
    factors = [1.0, STANDARD_GRAVITY]
    if units is not None:
        scale, _ = conversion("geopotential", units, "m2 s-2") or (1.0, 0.0)
        factors = [STANDARD_GRAVITY / scale]
    smallest, largest = float(np.nanmin(values)), float(np.nanmax(values))
    return any(low * factor <= smallest and largest <= high * factor for factor in factors)


def implied_units(array: xr.DataArray, where: str) -> str:
    """Tell the units of a geopotential that states none by its values: ``m`` or ``m2 s-2``.

    Reads the first state, of the highest level.

    Args:
        array: Field on levels in hPa, or at the surface.
        where: Name of the file, for messages.

    Raises:
        StoreError: Its values can be both.
    """
    state = array.isel(time=0) if "time" in array.dims else array
    if "level" not in array.dims:
        if np.nanmax(state.values) > _HIGHEST:
            return "m2 s-2"
        shown = f"{np.nanmin(state.values):g} to {np.nanmax(state.values):g}"
    else:
        level = float(array["level"].min())
        highest = state.sel(level=level).values
        ratio = float(np.nanmedian(highest)) / standard_height(min(level, _LOW_LEVEL))
        if level < _LOW_LEVEL and 0.5 < ratio < 2:
            return "m"
        if level < _LOW_LEVEL and 0.5 < ratio / STANDARD_GRAVITY < 2:
            return "m2 s-2"
        shown = f"{np.nanmin(highest):g} to {np.nanmax(highest):g} at {level:g} hPa"
    ours = "z" if "level" in array.dims else "static_z"
    msg = (
        f"{where}: {array.name} states no units, and its values ({shown}) can be heights in metres or geopotential in "
        "m2 s-2, which is 9.8 times as much; give the variable its attribute units, such as with NCO's "
        f"`ncatted -a units,{array.name},c,c,m FILE`, or leave it out with --leave_out {ours}"
    )
    raise StoreError(msg)
