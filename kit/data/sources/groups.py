"""Groups of NetCDF-4 files: which hold fields, and one of them with the coordinates of those around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.sources.netcdf_files import check_claims
from kit.io.errors import StoreError

_GRID_DIMENSIONS = 2
"""Dimensions that a field has at least."""


def groups_with_fields(path: Path) -> list[str]:
    """List the groups of a file below its root that hold variables on two dimensions or more.

    Raises:
        StoreError: a variable claims more memory than the file can hold.
    """
    found: list[str] = []
    with netCDF4.Dataset(path) as opened:
        check_claims(opened, path)
        remaining = list(opened.groups.values())
        while remaining:
            group = remaining.pop(0)
            remaining += group.groups.values()
            check_claims(group, path)
            if any(variable.ndim >= _GRID_DIMENSIONS for variable in group.variables.values()):
                found.append(group.path.strip("/"))
    return found


def open_parts(path: Path, name: str, wanted: Sequence[str], note: Note, **options: Any) -> dict[str, xr.Dataset]:
    """Open a file, or groups of it.

    The file is opened once: the NetCDF library crashes where a file is open twice in a process.

    Args:
        path: The file.
        name: Name of the file, for messages.
        wanted: Paths of groups inside the file; none for its root.
        note: Takes what is left out.
        **options: Options of xarray's ``open_dataset``.

    Returns:
        The root, or the groups, by name for messages.

    Raises:
        StoreError: There is no such group; or the root holds no field, while groups do.
    """
    there = groups_with_fields(path)
    if not wanted:
        dataset = xr.open_dataset(path, **options)
        if not there:
            return {name: dataset}
        if any(array.ndim >= _GRID_DIMENSIONS for array in dataset.data_vars.values()):
            note(f"{name}: the groups {', '.join(there)} left out; name one with --group to have it")
            return {name: dataset}
        dataset.close()
        msg = (
            f"{name}: the fields of this file lie in groups, {', '.join(there)}; name those to take with --group, such "
            f"as --group {there[0]}"
        )
        raise StoreError(msg)
    groups = {key.strip("/"): dataset for key, dataset in xr.open_groups(path, **options).items()}
    parts = {}
    for group in (text.strip("/") for text in wanted):
        if not group or group not in groups:
            groups[""].close()
            held = ", ".join(there) or "none that holds a field; leave --group out"
            msg = f"{name}: has no group {group!r}; its groups are {held}"
            raise StoreError(msg)
        parts[f"{name}:{group}"] = _with_outer_coordinates(group, groups)
    return parts


def _with_outer_coordinates(group: str, groups: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Add coordinates of the groups around one that it has the dimensions of.

    A variable of a group may lie on dimensions of an outer one, whose coordinates then are its own (CF conventions,
    section 2.7); xarray leaves them behind.
    """
    dataset = groups[group]
    coordinates: dict[str, xr.Variable] = {}
    around = group
    while around:
        around = around.rpartition("/")[0]
        for key, array in groups[around].variables.items():
            is_its_own = array.ndim and set(array.dims) <= set(dataset.dims)
            if is_its_own and key not in dataset.variables and key not in coordinates:
                coordinates[str(key)] = array
    combined = dataset.assign_coords(coordinates)
    combined.set_close(dataset.close)
    return combined
