"""Pieces of all variables brought onto one grid: that of the data, or a message that names the grids."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.io.errors import StoreError

# Name of the file, and what it holds of a variable.
Piece = tuple[str, xr.DataArray]
_SAME = 1e-4
"""Degrees by which the same points may differ between files: one writes single precision, another millidegrees."""
_LISTED = 3
"""Most files that a message names of one grid."""


def on_one_grid(found: Mapping[str, list[Piece]]) -> dict[str, list[Piece]]:
    """Give pieces the coordinates of one of them; the last digits may differ, and pieces are joined by equal ones.

    Args:
        found: Pieces with the name of the file each is from, by the store's name.

    Raises:
        StoreError: They lie on several grids; names these, their files and variables, and what goes on.
    """
    grids: list[list[tuple[str, str, xr.DataArray]]] = []
    for name, pieces in found.items():
        for where, array in pieces:
            same = next((grid for grid in grids if _same_points(grid[0][2], array)), None)
            if same is None:
                grids.append([(name, where, array)])
            else:
                same.append((name, where, array))
    if len(grids) > 1:
        raise StoreError(_several(grids))
    aligned: dict[str, list[Piece]] = {}
    for name, where, array in grids[0]:
        reference = grids[0][0][2]
        moved = array.assign_coords(latitude=reference["latitude"], longitude=reference["longitude"])
        aligned.setdefault(name, []).append((where, moved))
    return aligned


def _same_points(one: xr.DataArray, other: xr.DataArray) -> bool:
    return not _differing_side(one, other)


def _differing_side(one: xr.DataArray, other: xr.DataArray) -> str:
    """Return the coordinate in which two grids differ; empty where they are the same."""
    for name in ("latitude", "longitude"):
        mine, theirs = one[name].values, other[name].values
        if mine.shape != theirs.shape or np.abs(mine - theirs).max() > _SAME:
            return name
    return ""


def _several(grids: list[list[tuple[str, str, xr.DataArray]]]) -> str:
    """Describe several grids, and what goes on."""
    # The one with the most variables is the one to keep.
    first, *others = sorted(grids, key=lambda grid: -len({name for name, _, _ in grid}))
    kept = dict.fromkeys(name for name, _, _ in first)
    other_names = dict.fromkeys(name for grid in others for name, _, _ in grid)
    differing = []
    for grid in others:
        side = _differing_side(first[0][2], grid[0][2])
        names = ", ".join(dict.fromkeys(name for name, _, _ in grid))
        files = ", ".join(list(dict.fromkeys(where for _, where, _ in grid))[:_LISTED])
        differing.append(f"{files} has {_extent(side, grid[0][2][side].values)}, for {names}")
    side = _differing_side(first[0][2], others[0][0][2])
    files = ", ".join(list(dict.fromkeys(where for _, where, _ in first))[:_LISTED])
    differing.append(f"{files} has {_extent(side, first[0][2][side].values)}, for {', '.join(kept)}")
    remedy = f"leave out what lies on others, with --leave_out {','.join(other_names)}, or regrid or crop it first"
    twice = [name for name in other_names if name in kept]
    if twice:
        remedy = f"give files of one grid alone, as {', '.join(twice)} lies on several, or regrid or crop them first"
    return f"the grids of two files differ: {'; '.join(differing)}. A store keeps one grid: {remedy}"


def _extent(name: str, values: npt.NDArray[np.float64]) -> str:
    if values.ndim == 2:
        return f"{values.shape[0]} x {values.shape[1]} {name}s from {values.min():g} to {values.max():g}"
    return f"{len(values)} {name}s from {values[0]:g} to {values[-1]:g}"
