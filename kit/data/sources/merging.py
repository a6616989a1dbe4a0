"""Pieces of a variable put together: files by month, by level, or both."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.store.format import STATIC_PREFIX, listed
from kit.io.errors import StoreError

# Name of the file, and what it holds of a variable.
Piece = tuple[str, xr.DataArray]


def merge(found: dict[str, list[Piece]], note: Note) -> dict[str, xr.DataArray]:
    """Join pieces to one field per name, on one grid.

    Args:
        found: Pieces with the name of the file each is from, by the store's name.
        note: Takes what was done.

    Raises:
        StoreError: Pieces lie on different grids, contradict each other, or do not join up; prints both
            sides.
    """
    fields: dict[str, xr.DataArray] = {}
    if not found:
        return fields
    reference = next(iter(found.values()))[0]
    for name, pieces in found.items():
        aligned = [(where, _on_grid(where, array, *reference)) for where, array in pieces]
        if name.startswith(STATIC_PREFIX):
            fields[name] = _static(name, aligned)
        else:
            fields[name] = _dynamic(name, aligned, note)
    return fields


def _on_grid(where: str, array: xr.DataArray, first: str, reference: xr.DataArray) -> xr.DataArray:
    for name in ("latitude", "longitude"):
        mine, theirs = array[name].values, reference[name].values
        if mine.shape != theirs.shape or np.abs(mine - theirs).max() > 1e-4:
            msg = (
                f"the grids of two files differ: {where} has {_extent(name, mine)}, {first} has "
                f"{_extent(name, theirs)}; regrid or crop one of them"
            )
            raise StoreError(msg)
    # The last digits may differ, and pieces are joined only where their coordinates are equal.
    return array.assign_coords(latitude=reference["latitude"], longitude=reference["longitude"])


def _extent(name: str, values: npt.NDArray[np.float64]) -> str:
    if values.ndim == 2:
        return f"{values.shape[0]} x {values.shape[1]} {name}s from {values.min():g} to {values.max():g}"
    return f"{len(values)} {name}s from {values[0]:g} to {values[-1]:g}"


def _static(name: str, pieces: Sequence[Piece]) -> xr.DataArray:
    where, constant = pieces[0]
    if "time" in constant.dims:
        constant = constant.isel(time=0, drop=True)
    values = constant.values
    # Every state of every file must say the same: a variable that is wrongly taken for static shows here.
    for other, array in pieces:
        for index in range(array.sizes.get("time", 1)):
            state, when = array, ""
            if "time" in array.dims:
                state, when = array.isel(time=index, drop=True), f" at {array['time'].values[index]}"
            if not np.array_equal(state.values, values, equal_nan=True):
                msg = (
                    f"{name.removeprefix(STATIC_PREFIX)} has no pressure levels and so is taken to be static, but "
                    f"{other}{when} differs from {where}; a field on a level needs its level as a coordinate"
                )
                raise StoreError(msg)
    return constant.copy(data=values)


def _dynamic(name: str, pieces: Sequence[Piece], note: Note) -> xr.DataArray:
    # Files of the same levels follow each other in time; then sets of levels are put on each other.
    by_levels: dict[tuple[float, ...], list[Piece]] = {}
    for where, array in pieces:
        if "time" not in array.dims:
            msg = f"{where}: {name} has no time, dimensions {array.dims}; add a time coordinate"
            raise StoreError(msg)
        by_levels.setdefault(tuple(_levels(array)), []).append((where, array))
    joined = [_join_times(name, group, note) for group in by_levels.values()]
    if len(joined) == 1:
        return joined[0][1]
    return _join_levels(name, joined)


def _join_times(name: str, pieces: Sequence[Piece], note: Note) -> Piece:
    ordered = [(where, array.sortby("time")) for where, array in pieces]
    ordered.sort(key=lambda piece: piece[1]["time"].values[0])
    joined: list[Piece] = []
    for where, array in ordered:
        times, counts = np.unique(array["time"].values, return_counts=True)
        if (counts > 1).any():
            msg = f"{where}: {name} holds {times[counts > 1][0]} more than once; keep one of these states"
            raise StoreError(msg)
        # What an earlier file holds already must be equal, and is taken once.
        new = array
        for other, earlier in joined:
            shared = np.intersect1d(new["time"].values, earlier["time"].values)
            for time in shared:
                if not np.array_equal(new.sel(time=time).values, earlier.sel(time=time).values, equal_nan=True):
                    msg = f"{where} and {other} both hold {name} at {time}, with different values; remove one of them"
                    raise StoreError(msg)
            if shared.size:
                note(f"{name}: states that two files hold alike were taken once")
                new = new.isel(time=~np.isin(new["time"].values, shared))
        if new.sizes["time"]:
            joined.append((where, new))
    if len(joined) == 1:
        return joined[0]
    return joined[0][0], _concatenated([array for _, array in joined], "time").sortby("time")


def _join_levels(name: str, groups: Sequence[Piece]) -> xr.DataArray:
    first_where, first = groups[0]
    taken: set[float] = set()
    for where, array in groups:
        levels = set(_levels(array))
        if levels & taken or not levels:
            sides = "; ".join(f"{w}: {listed(_levels(a))}" for w, a in groups if "level" in a.dims)
            msg = f"{name} comes on overlapping sets of levels (hPa): {sides}; give files with equal or disjoint levels"
            raise StoreError(msg)
        if not np.array_equal(array["time"].values, first["time"].values):
            msg = (
                f"{name}: {where} holds {_span(array)}, {first_where} holds {_span(first)} on other levels; "
                "give all levels for the same times"
            )
            raise StoreError(msg)
        taken |= levels
    return _concatenated([array for _, array in groups], "level").sortby("level")


def _levels(array: xr.DataArray) -> list[float]:
    return list(array["level"].values.tolist()) if "level" in array.dims else []


def _span(array: xr.DataArray) -> str:
    times = array["time"].values.astype("datetime64[m]")
    return f"{len(times)} times from {times[0]} to {times[-1]}"


def _concatenated(arrays: list[xr.DataArray], dimension: str) -> xr.DataArray:
    return xr.concat(arrays, dim=dimension, coords="minimal", compat="override", join="exact", combine_attrs="override")
