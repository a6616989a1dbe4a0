"""Arrays of a forecast in a file that hold variables of a store: at the surface or on levels, in which units."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from kit.data.source_names import pressure
from kit.data.sources.fields import canonical_name
from kit.data.sources.geopotential import implied_units
from kit.data.sources.verticals import in_hectopascals
from kit.data.sources.winds import OTHER_COMPONENT, direction_stated
from kit.data.store.reader import Store
from kit.data.units import conversion
from kit.data.variables import Variable
from kit.io.errors import StoreError
from kit.verification.forecast_layouts import MEMBER, grid_of

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FieldArray:
    """An array of the file that holds a variable at the surface, or on some levels.

    Attributes:
        source: Its name in the file.
        levels: Pressures in hPa, in the file's order; empty at the surface.
        change: Scale and offset that bring it to the store's units; None where it is in these.
        variable: Entry in the table of variables; None where the table lacks it.
    """

    source: str
    levels: tuple[float, ...]
    change: tuple[float, float] | None
    variable: Variable | None


def find_arrays(
    dataset: xr.Dataset, store: Store, variables: Sequence[str] | None, where: str
) -> dict[str, list[FieldArray]]:
    """Find the arrays that hold variables of a store.

    Args:
        dataset: The file's arrays, as ``open_layout`` opens them.
        store: Store that they are compared with; variables that it lacks are left out.
        variables: The store's names of those that are wanted; all by default.
        where: The file, for messages.

    Returns:
        Arrays by the store's name of their variable.

    Raises:
        StoreError: There are none that the store holds too, two of one variable, or of unknown units or direction.
    """
    found: dict[str, list[FieldArray]] = {}
    others, without_units = [], []
    wanted = [*store.surface, *store.atmospheric] if variables is None else list(variables)
    for key, array in dataset.data_vars.items():
        if not set(grid_of(dataset)) <= set(array.dims):
            continue
        levels: tuple[float, ...] = ()
        if "level" in array.dims:
            levels = tuple(np.round(in_hectopascals(dataset["level"]), 6).tolist())
        elif (named := pressure(str(key))) is not None:
            levels = (named,)
        name, variable = canonical_name(array, on_levels=bool(levels))
        held = store.atmospheric if levels else store.surface
        if name not in held or name not in wanted:
            others.append(str(key))
            continue
        _check_array(dataset, array, name, where)
        if MEMBER in dataset.dims and MEMBER not in array.dims:
            msg = (
                f"{where}: {key} has no members, as other variables do; leave it out by naming others with --variables"
            )
            raise StoreError(msg)
        if set(levels) & {level for other in found.get(name, ()) for level in other.levels} or (
            not levels and name in found
        ):
            msg = f"{where}: {found[name][0].source} and {key} are both {name}; leave one of them out of the file"
            raise StoreError(msg)
        if "units" not in array.attrs:
            without_units.append(name)
        found.setdefault(name, []).append(FieldArray(str(key), levels, None, variable))
    missing = [name for name in variables or () if name not in found]
    if missing or not found:
        msg = (
            f"{where}: holds no {', '.join(missing) or 'variable of the store'} that {store.path} holds too; the store "
            f"has {', '.join((*store.surface, *store.atmospheric))}, and of the file {', '.join(others) or 'nothing'} "
            "was not taken; name those that both have with --variables"
        )
        raise StoreError(msg)
    if others:
        _logger.info("%s: not scored: %s", where, ", ".join(others))
    if without_units:
        _logger.warning("%s: taken to be in the store's units: %s", where, ", ".join(dict.fromkeys(without_units)))
    return {name: _with_units(dataset, name, arrays, store, where) for name, arrays in found.items()}


def _check_array(dataset: xr.Dataset, array: xr.DataArray, name: str, where: str) -> None:
    if array.dtype.kind not in "biuf":
        msg = f"{where}: {array.name} holds values of the type {array.dtype}, numbers are expected"
        raise StoreError(msg)
    if dataset["latitude"].ndim == 2 and name in OTHER_COMPONENT and direction_stated(array) != "earth":
        msg = (
            f"{where}: {array.name} is a component of a wind on a grid whose rows are no parallels, and the file does "
            "not say that it points east or north (standard_name eastward_wind, northward_wind); leave it out by "
            "naming others with --variables, or turn it first"
        )
        raise StoreError(msg)


def _with_units(
    dataset: xr.Dataset, name: str, arrays: Sequence[FieldArray], store: Store, where: str
) -> list[FieldArray]:
    """Find how arrays of a variable are brought to the store's units."""
    target = str(store.variable_attributes(name).get("units", ""))
    if not target and arrays[0].variable is not None:
        target = arrays[0].variable.units
    implied = target
    if name == "z" and all("units" not in dataset[array.source].attrs for array in arrays):
        implied = _implied_units(dataset, arrays, where)
    found = []
    for array in arrays:
        variable, units = array.variable, str(dataset[array.source].attrs.get("units", implied))
        is_water = variable is not None and variable.is_water
        change = conversion(f"{where}: {array.source}", units, target, of_water=is_water)
        found.append(FieldArray(array.source, array.levels, change, variable))
    return found


def _implied_units(dataset: xr.Dataset, arrays: Sequence[FieldArray], where: str) -> str:
    """Tell by its values whether a geopotential without units is a height."""
    highest = min(arrays, key=lambda array: min(array.levels))
    array = dataset[highest.source]
    kept = ("level", *grid_of(dataset))
    state = array.isel({name: 0 for name in array.dims if name not in kept}, drop=True)
    if "level" not in state.dims:
        state = state.drop_vars("level", errors="ignore").expand_dims(level=list(highest.levels))
    try:
        return implied_units(state, where)
    except StoreError as error:
        msg = (
            f"{where}: {highest.source} states no units, and its values can be heights in metres or geopotential in "
            "m2 s-2; give it the attribute units, or leave it out by naming others with --variables"
        )
        raise StoreError(msg) from error
