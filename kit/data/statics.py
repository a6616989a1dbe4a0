"""Static variables: those of the data, or derived from the coordinates or from classes in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from kit.data.fields import Note
from kit.data.store_format import GRID, STATIC_PREFIX, grid_dimensions
from kit.data.variables import STATIC
from kit.errors import StoreError

__all__ = ["CLASSES", "DERIVED", "choose_statics"]

DERIVED = {
    "coslat": ("latitude", np.cos),
    "sinlat": ("latitude", np.sin),
    "coslon": ("longitude", np.cos),
    "sinlon": ("longitude", np.sin),
}
"""Names of derived statics, the coordinate each is a function of, and the function."""
CLASSES = ("slt", "tvh", "tvl")
"""Statics that hold the number of a class: soil and vegetation types of ERA5. ``slt_3`` is 1 where it is 3, else 0."""


def choose_statics(
    fields: Mapping[str, xr.DataArray],
    grid: xr.DataArray,
    names: Sequence[str] | None,
    note: Note,
    found: Sequence[str] = (),
) -> dict[str, xr.DataArray]:
    """Statics of a store, by their names in it.

    Args:
        fields: statics of the data, and others that are ignored, by the store's names.
        grid: any field, for its coordinates.
        names: without prefix; None for all that the data hold.
        note: is told which were derived.
        found: names of everything in the data, for the message.

    Raises:
        StoreError: there are none, which upstream's encoder cannot bear, or one that was asked for is
            neither in the data nor derived.
    """
    held = [name.removeprefix(STATIC_PREFIX) for name in fields if name.startswith(STATIC_PREFIX)]
    if names is None:
        names = held
    if not names:
        msg = (
            "the data hold no static variables, and Aurora needs at least one; "
            f"name derived ones, such as `--statics coslat,sinlat` (there are {', '.join(DERIVED)})"
        )
        raise StoreError(msg)
    missing = [name for name in names if name not in (*held, *DERIVED) and _class_of(name, held) is None]
    if missing:
        others = sorted(
            {name.removeprefix(STATIC_PREFIX) for name in (*fields, *found) if name.startswith(STATIC_PREFIX)}
        )
        msg = (
            f"the data lack the static variables {', '.join(missing)}; they hold {', '.join(others) or 'none'}, "
            f"and the kit derives {', '.join(DERIVED)}, and classes such as slt_3 of {', '.join(CLASSES)}"
        )
        raise StoreError(msg)
    chosen = {}
    for name in dict.fromkeys(names):
        key = STATIC_PREFIX + name
        found_class = _class_of(name, held)
        if key in fields:
            chosen[key] = fields[key]
        elif found_class is not None:
            note(f"{name} derived from {found_class[0]}")
            chosen[key] = _one_class(name, fields[STATIC_PREFIX + found_class[0]], found_class)
        else:
            note(f"{name} derived from the coordinates")
            chosen[key] = _derived(name, grid)
    return chosen


def _class_of(name: str, held: Sequence[str]) -> tuple[str, int] | None:
    """The static and the number of a class that ``slt_3`` means, where the data hold that static."""
    static, _, number = name.rpartition("_")
    return (static, int(number)) if static in CLASSES and static in held and number.isdecimal() else None


def _one_class(name: str, types: xr.DataArray, wanted: tuple[str, int]) -> xr.DataArray:
    static, number = wanted
    attributes = {
        "long_name": f"{types.attrs.get('long_name', static)} is {number}",
        "units": "1",
        "comment": f"derived from {static}",
    }
    # Packed types are whole but for rounding.
    field: xr.DataArray = (types.round() == number).astype(np.float32)
    return field.rename(STATIC_PREFIX + name).assign_attrs(attributes)


def _derived(name: str, grid: xr.DataArray) -> xr.DataArray:
    coordinate, function = DERIVED[name]
    values = function(np.deg2rad(grid[coordinate].values))
    dimensions = grid_dimensions(grid)
    if dimensions == GRID and coordinate == "latitude":
        values = values[:, None]
    field = np.broadcast_to(values, [grid.sizes[key] for key in dimensions]).astype(np.float32)
    coords = {key: grid[key] for key in GRID}
    attributes = {**STATIC[name].attributes(), "comment": "derived from the coordinates"}
    return xr.DataArray(field, coords, dimensions, name=STATIC_PREFIX + name, attrs=attributes)
