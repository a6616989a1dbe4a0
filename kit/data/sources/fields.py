"""One field in the store's form: its name, units and type, whatever the source called them.

Everything here is lazy: values are touched only where a check needs them, which is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.source_names import find, find_at_height, find_described
from kit.data.sources.geopotential import implied_units
from kit.data.sources.leads import MOVED, WINDOW
from kit.data.sources.verticals import PRESSURE, kind_of, pressure_dimension, surface_height
from kit.data.store.format import STATIC_PREFIX
from kit.data.units import conversion, is_unit
from kit.data.variables import Variable, lookup
from kit.io.errors import StoreError

if TYPE_CHECKING:
    from kit.data.store.reader import Store

Note = Callable[[str], None]
"""Takes one sentence about what was done to the data; the same sentence may come more than once."""
_SHORT_NAMES = ("GRIB_shortName", "short_name", "GRIB_cfVarName")
"""Attributes in which a file may give the short name of a variable."""
_DESCRIPTIONS = ("standard_name", "long_name")
_EXTREMES = re.compile(r"maximum|minimum|standard_deviation|variance|range|median|mode")
"""CF's cell methods of what is no state: the warmest temperature of a day has the standard name of any temperature."""
ABOVE_GROUND = "height_above_ground"
"""Attribute of fields at the surface: the height in metres at which they lie."""

IN_STORE_UNITS = "in_store_units"
"""Attribute of fields whose form has no units, and needs none."""


def own_names(array: xr.DataArray) -> list[str]:
    """Return the names by which a field calls itself, its own name first."""
    source = str(array.name)
    return [source, source.removeprefix(STATIC_PREFIX), *(str(array.attrs.get(key, "")) for key in _SHORT_NAMES)]


def is_named(array: xr.DataArray, variable: Variable) -> bool:
    """Whether a field is of a variable by one of its names, not only by what it is described as."""
    on_levels = variable.kind == "atmospheric"
    return any(find(name, on_levels=on_levels) is variable for name in own_names(array))


def recognise(array: xr.DataArray, *, on_levels: bool) -> Variable | None:
    """Find a field in the table: by its names, its height above ground, its standard name, its description.

    Args:
        array: Field with its own name and attributes.
        on_levels: Whether it lies on pressure levels.
    """
    names = own_names(array)
    for name in names:
        variable = find(name, on_levels=on_levels)
        if variable is not None:
            return variable
    if _EXTREMES.search(str(array.attrs.get("cell_methods", ""))) or array.attrs.get("GRIB_stepType") in ("max", "min"):
        return None
    descriptions = [str(array.attrs.get(key, "")) for key in _DESCRIPTIONS]
    height = array.attrs.get(ABOVE_GROUND, surface_height(array))
    if height and not on_levels:
        for text in (*names, *descriptions):
            variable = find_at_height(text, height)
            if variable is not None:
                return variable
    for text in descriptions:
        variable = find_described(text, on_levels=on_levels)
        # One that describes itself so in units of another dimension is another quantity, such as a rate.
        if variable is not None and _can_have_units_of(array, variable):
            return variable
    return None


def _can_have_units_of(array: xr.DataArray, variable: Variable) -> bool:
    """Whether nothing says that a field's units are of another dimension; what is no unit at all is refused later."""
    units = str(array.attrs.get("units", variable.units))
    try:
        conversion("", units, variable.units, of_water=variable.is_water)
    except StoreError:
        return not is_unit(units)
    return True


def canonical_name(array: xr.DataArray, *, on_levels: bool | None = None) -> tuple[str, Variable | None]:
    """Find the store's name of a field, and its entry in the table of variables.

    A static variable that comes with times is recognised too; its prefix is ``static_``. What the table knows on levels
    alone never keeps that name without them.

    Args:
        array: Field with its own name and attributes.
        on_levels: Whether it lies on pressure levels; by default, whether it has a dimension of pressure.
    """
    if on_levels is None:
        on_levels = pressure_dimension(array) is not None
    variable = recognise(array, on_levels=on_levels)
    if variable is not None and variable.kind == "static":
        return STATIC_PREFIX + variable.name, variable
    if variable is not None:
        return variable.name, variable
    name = re.sub(r"[^A-Za-z0-9_]", "_", str(array.name))
    if not on_levels and lookup(name, "atmospheric") is not None:
        name = f"surface_{name}"
    return name, None


def name_at_one_level(array: xr.DataArray, *, is_stated: bool) -> tuple[str, Variable | None]:
    """Find the store's name of a field whose one level, if it has one, is no dimension.

    Args:
        array: Field with its own name and attributes, its values untouched.
        is_stated: Whether the user says on which level fields lie.
    """
    name, variable = canonical_name(array)
    beside_a_level = is_stated
    for coordinate in array.coords:
        if array[coordinate].ndim == 0 and kind_of(array, coordinate) == PRESSURE:
            beside_a_level = True
    # A geopotential of all times, beside a level, is first taken for that of the level.
    is_doubtful = variable is not None and variable.kind == "static" and beside_a_level and "time" in array.dims
    if (variable is None or is_doubtful) and surface_height(array) is None:
        on_levels = canonical_name(array, on_levels=True)
        if on_levels[1] is not None:
            return on_levels
    return name, variable


def canonical_values(array: xr.DataArray, name: str, variable: Variable | None, where: str, note: Note) -> xr.DataArray:
    """Convert units and type, and give the field the attributes of the table.

    Raises:
        StoreError: The field does not hold numbers, or its units cannot be converted.
    """
    if array.dtype.kind not in "biuf":
        msg = f"{where}: {array.name} holds {array.dtype} values, numbers expected; leave it out, or convert the file"
        raise StoreError(msg)
    units = array.attrs.get("units")
    # A form without units, the pickle's, is in those of the store.
    if units is None and name.removeprefix(STATIC_PREFIX) == "z" and IN_STORE_UNITS not in array.attrs:
        units = implied_units(array, where)
        note(f"{name} came without units; its values can be {units} alone")
    converted = array
    if variable is None:
        note(f"{name} is not in the kit's table of variables; taken as it is")
        attributes: dict[str, Any] = {key: array.attrs[key] for key in ("long_name", "units") if key in array.attrs}
    else:
        attributes = dict(variable.attributes())
        if units is None:
            note(f"{name} came without units; taken to be {variable.units!r}")
        else:
            change = conversion(f"{where}: {array.name}", str(units), variable.units, of_water=variable.is_water)
            if change is not None:
                # Convert in double precision, then round once.
                converted = array.astype(np.float64) * change[0] + change[1]
                note(f"{name} converted from {units} to {variable.units}")
    single = converted
    # Differences of running totals are taken before they are rounded.
    if WINDOW not in array.coords:
        single = xr.apply_ufunc(_single, converted, dask="parallelized", output_dtypes=[np.float32])
    # What was found of the window, which the table does not know.
    attributes |= {key: array.attrs[key] for key in ("averaging_hours", MOVED) if key in array.attrs}
    single.attrs = attributes
    return single.rename(name)


def _single(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Round to single precision; what it cannot hold becomes infinite, which the checks report."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def check_non_negative(store: Store, name: str, times: Sequence[int], values: npt.NDArray[np.float32]) -> None:
    """Check that states hold no values below zero, by more than packing and differences of sums leave.

    Args:
        store: Store that the states were read from.
        name: Name of the variable.
        times: Positions of the states in the store.
        values: Values of these states; the first axis is time. Missing ones say nothing.

    Raises:
        StoreError: Names the time and the value.
    """
    known = lookup(name, "surface" if name in store.surface else "atmospheric")
    # A variable that the table lacks may be no lower than 0.
    margin, unit = 0.0, ""
    if known is not None:
        margin, unit = known.margin, f" {known.units}"
    below = values < -margin
    if below.any():
        first = int(np.flatnonzero(below.reshape(len(values), -1).any(axis=1))[0])
        msg = (
            f"{store.path}: {name} at {store.times[times[first]]} is as low as {float(np.nanmin(values[first])):g}"
            f"{unit}, but it is transformed as what cannot be below zero. Correct the source and build the store "
            f"again, or leave {name} out"
        )
        raise StoreError(msg)
