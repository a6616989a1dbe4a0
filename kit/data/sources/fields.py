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

from kit.data.source_names import find
from kit.data.sources.leads import WINDOW
from kit.data.store.format import STATIC_PREFIX
from kit.data.units import conversion
from kit.data.variables import Variable, lookup
from kit.io.errors import StoreError

if TYPE_CHECKING:
    from kit.data.store.reader import Store

Note = Callable[[str], None]
"""Takes one sentence about what was done to the data; the same sentence may come more than once."""
# Attributes in which a file may give the short name of a variable.
_SHORT_NAMES = ("GRIB_shortName", "short_name")


def canonical_name(array: xr.DataArray) -> tuple[str, Variable | None]:
    """Find the store's name of a field, and its entry in the table of variables.

    A static variable that comes with times is recognised too; its prefix is ``static_``.
    """
    source = str(array.name)
    names = (source, source.removeprefix(STATIC_PREFIX), *(str(array.attrs.get(key, "")) for key in _SHORT_NAMES))
    for name in names:
        variable = find(name, on_levels="level" in array.dims)
        if variable is not None and variable.kind == "static":
            return STATIC_PREFIX + variable.name, variable
        if variable is not None:
            return variable.name, variable
    return re.sub(r"[^A-Za-z0-9_]", "_", source), None


def canonical_values(array: xr.DataArray, name: str, variable: Variable | None, where: str, note: Note) -> xr.DataArray:
    """Convert units and type, and give the field the attributes of the table.

    Raises:
        StoreError: The field does not hold numbers, or its units cannot be converted.
    """
    if array.dtype.kind not in "biuf":
        msg = f"{where}: {array.name} holds {array.dtype} values, numbers expected; leave it out, or convert the file"
        raise StoreError(msg)
    units = array.attrs.get("units")
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
    if "averaging_hours" in array.attrs:
        attributes["averaging_hours"] = array.attrs["averaging_hours"]
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
