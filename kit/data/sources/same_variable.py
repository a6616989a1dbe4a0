"""One variable that a file holds twice, such as geopotential in m2 s-2 and as a height: equal, or a contradiction."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from kit.data.sources.fields import Note, canonical_name, canonical_values, is_named
from kit.data.store.format import STATIC_PREFIX, grid_dimensions
from kit.data.units import canonical_units, conversion
from kit.data.variables import Variable
from kit.io.errors import StoreError

_PACKING = 4e-5
"""Share of a layer's range by which two fields of 16 bits each may differ: GRIB packs layers one by one."""
_SINGLE = 1e-6
"""Share of the largest value by which fields in single precision may differ once they are converted."""

Found = tuple[Hashable, Variable]


def without_doubles(
    dataset: xr.Dataset, where: str, takes: Callable[[str], bool], encodings: Mapping[Hashable, Any], note: Note
) -> xr.Dataset:
    """Keep one of several arrays that hold the same variable.

    Of what accumulates, several windows may stand side by side.

    Args:
        dataset: One file, its coordinates in the store's form.
        where: Its name, for messages.
        takes: Whether a variable is wanted, by the store's name.
        encodings: How the arrays are packed, by their names.
        note: Takes what was dropped.

    Raises:
        StoreError: Two arrays hold different values of a wanted variable; names both.
    """
    grid = set(grid_dimensions(dataset))
    found: dict[str, list[Found]] = {}
    for key, array in dataset.data_vars.items():
        name, variable = canonical_name(array)
        if variable is not None and not variable.accumulated and grid <= set(array.dims) and takes(name):
            found.setdefault(name, []).append((key, variable))
    for name, arrays in found.items():
        if len(arrays) == 1:
            continue
        arrays.sort(key=lambda one: _preference(dataset[one[0]], one[1]))
        (kept, variable), *others = arrays
        for other, _ in others:
            if is_named(dataset[kept], variable) == is_named(dataset[other], variable):
                _check_equal(name, variable, dataset[kept], dataset[other], where, encodings)
                note(f"{name} taken from {kept}; {other} holds the same")
            else:
                note(f"{name} taken from {kept}; {other}, which is described as the same, left out")
            dataset = dataset.drop_vars([other])
    return dataset


def _preference(array: xr.DataArray, variable: Variable) -> tuple[bool, bool]:
    """Order arrays: those that are named so before those described so, then those that need no conversion."""
    needs_conversion = canonical_units(str(array.attrs.get("units", ""))) != variable.units
    return not is_named(array, variable), needs_conversion


def _check_equal(
    name: str,
    variable: Variable,
    kept: xr.DataArray,
    other: xr.DataArray,
    where: str,
    encodings: Mapping[Hashable, Any],
) -> None:
    """Check that two arrays hold the same, in their first and last states, to what packing leaves of it."""
    grid = grid_dimensions(kept)
    states, tolerance = [], 0.0
    for array in (kept, other):
        values = canonical_values(array, name, variable, where, lambda _: None).transpose(..., *grid)
        if "time" in array.dims:
            values = values.isel(time=[0, -1])
        states.append(values.astype(np.float64).load())
        units = str(array.attrs.get("units", variable.units))
        change = conversion("", units, variable.units, of_water=variable.is_water) or (1.0, 0.0)
        tolerance += abs(change[0] * float(encodings.get(array.name, {}).get("scale_factor", 0.0)))
    first, second = states
    if first.dims == second.dims and first.shape == second.shape:
        apart = abs(first - second)
        layer_range = first.max(grid) - first.min(grid)
        allowed = tolerance + _SINGLE * abs(first).max(grid) + _PACKING * layer_range
        same_gaps = np.array_equal(np.isnan(first), np.isnan(second))
        if same_gaps and not bool((apart > allowed).any()):
            return
        how = f"differ by up to {float(apart.max()):g} {variable.units}"
    else:
        how = f"have the dimensions {first.dims} {first.shape} and {second.dims} {second.shape}"
    msg = (
        f"{where}: {kept.name} and {other.name} are both {name.removeprefix(STATIC_PREFIX)}, and {how}; keep one of "
        f"them, such as with NCO's `ncks -x -v {other.name} IN OUT`"
    )
    raise StoreError(msg)
