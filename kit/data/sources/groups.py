"""Groups of NetCDF-4 files: which hold fields, and one of them with the coordinates of those around it."""

from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr

from kit.data.sources.fields import Note
from kit.io.errors import StoreError

_GRID_DIMENSIONS = 2
"""Dimensions that a field has at least."""


def groups_with_fields(path: Path) -> list[str]:
    """List the groups of a file below its root that hold variables on two dimensions or more."""
    found: list[str] = []
    with netCDF4.Dataset(path) as opened:
        remaining = list(opened.groups.values())
        while remaining:
            group = remaining.pop(0)
            remaining += group.groups.values()
            if any(variable.ndim >= _GRID_DIMENSIONS for variable in group.variables.values()):
                found.append(group.path.strip("/"))
    return found


def check_root(dataset: xr.Dataset, path: Path, name: str, note: Note) -> None:
    """Refuse a file whose root holds no field while its groups do; note groups beside a root with fields.

    Raises:
        StoreError: Names the groups.
    """
    groups = groups_with_fields(path)
    if not groups:
        return
    if any(array.ndim >= _GRID_DIMENSIONS for array in dataset.data_vars.values()):
        note(f"{name}: the groups {', '.join(groups)} left out; name one with --group to have it")
        return
    msg = (
        f"{name}: the fields of this file lie in groups, {', '.join(groups)}; name those to take with --group, such as "
        f"--group {groups[0]}"
    )
    raise StoreError(msg)


def open_group(path: Path, name: str, group: str, **options: Any) -> xr.Dataset:
    """Open a group, with the coordinates of the groups around it that it has the dimensions of.

    A variable of a group may lie on dimensions of an outer one, whose coordinates then are its own (CF conventions,
    section 2.7); xarray leaves them behind.

    Args:
        path: The file.
        name: Name of the file, for messages.
        group: Path of the group inside the file.
        **options: Options of xarray's ``open_dataset``.

    Raises:
        StoreError: There is no such group.
    """
    wanted = group.strip("/")
    with netCDF4.Dataset(path) as opened:
        try:
            found = opened[wanted]
        except (IndexError, KeyError):
            found = None
    if not isinstance(found, netCDF4.Group):
        there = ", ".join(groups_with_fields(path)) or "none that holds a field; leave --group out"
        msg = f"{name}: has no group {group!r}; its groups are {there}"
        raise StoreError(msg)
    dataset = xr.open_dataset(path, group=wanted, **options)
    coordinates: dict[str, xr.Variable] = {}
    around = wanted
    while around:
        around = around.rpartition("/")[0]
        with xr.open_dataset(path, group=around or None, **options) as outer:
            for key, array in outer.variables.items():
                is_its_own = array.ndim and set(array.dims) <= set(dataset.dims)
                if is_its_own and key not in dataset.variables and key not in coordinates:
                    coordinates[str(key)] = outer[key].load().variable
    combined = dataset.assign_coords(coordinates)
    combined.set_close(dataset.close)
    return combined
