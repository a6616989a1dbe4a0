"""Put the pieces of a variable together: files by month, by level, or both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.store.format import STATIC_PREFIX, listed
from kit.io.errors import StoreError

__all__ = ["merge"]

Piece = tuple[str, xr.DataArray]


def merge(found: dict[str, list[Piece]], note: Note) -> dict[str, xr.DataArray]:
    """One field per name, on one grid.

    Args:
        found: pieces with the name of the file each is from, by the store's name.
        note: is told what was done.

    Raises:
        StoreError: pieces lie on different grids, contradict each other, or do not join up; prints both
            sides.
    """
    reference = next((pieces[0] for pieces in found.values()), None)
    fields = {}
    for name, pieces in found.items():
        assert reference is not None
        aligned = [(where, _on_grid(where, array, *reference)) for where, array in pieces]
        fields[name] = _static(name, aligned) if name.startswith(STATIC_PREFIX) else _dynamic(name, aligned, note)
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
    return array.assign_coords(latitude=reference["latitude"], longitude=reference["longitude"])


def _extent(name: str, values: npt.NDArray[np.float64]) -> str:
    if values.ndim == 2:
        return f"{values.shape[0]} x {values.shape[1]} {name}s from {values.min():g} to {values.max():g}"
    return f"{len(values)} {name}s from {values[0]:g} to {values[-1]:g}"


def _static(name: str, pieces: Sequence[Piece]) -> xr.DataArray:
    where, first = pieces[0]
    constant = first.isel(time=0, drop=True) if "time" in first.dims else first
    values = constant.values
    for other, array in pieces:
        for index in range(array.sizes.get("time", 1)):
            state = array.isel(time=index, drop=True) if "time" in array.dims else array
            if not np.array_equal(state.values, values, equal_nan=True):
                when = f" at {array['time'].values[index]}" if "time" in array.dims else ""
                msg = (
                    f"{name.removeprefix(STATIC_PREFIX)} has no pressure levels and so is taken to be static, but "
                    f"{other}{when} differs from {where}; a field on a level needs its level as a coordinate"
                )
                raise StoreError(msg)
    return constant.copy(data=values)


def _dynamic(name: str, pieces: Sequence[Piece], note: Note) -> xr.DataArray:
    for where, array in pieces:
        if "time" not in array.dims:
            msg = f"{where}: {name} has no time, dimensions {array.dims}; add a time coordinate"
            raise StoreError(msg)
    groups: dict[tuple[float, ...], list[Piece]] = {}
    for where, array in pieces:
        levels = tuple(array["level"].values.tolist()) if "level" in array.dims else ()
        groups.setdefault(levels, []).append((where, array))
    joined = [_in_time(name, group, note) for group in groups.values()]
    return joined[0][1] if len(joined) == 1 else _in_level(name, joined)


def _in_time(name: str, pieces: Sequence[Piece], note: Note) -> Piece:
    ordered = sorted(((where, array.sortby("time")) for where, array in pieces), key=lambda p: p[1]["time"].values[0])
    parts: list[Piece] = []
    for where, array in ordered:
        _distinct(name, where, array)
        new = array
        for other, earlier in parts:
            shared = np.intersect1d(new["time"].values, earlier["time"].values)
            if shared.size:
                _equal(name, (where, new), (other, earlier), shared)
                note(f"{name}: states that two files hold alike were taken once")
                new = new.isel(time=~np.isin(new["time"].values, shared))
        if new.sizes["time"]:
            parts.append((where, new))
    if len(parts) == 1:
        return parts[0]
    return parts[0][0], _concatenated([array for _, array in parts], "time").sortby("time")


def _distinct(name: str, where: str, array: xr.DataArray) -> None:
    times, counts = np.unique(array["time"].values, return_counts=True)
    if (counts > 1).any():
        msg = f"{where}: {name} holds {times[counts > 1][0]} more than once; keep one of these states"
        raise StoreError(msg)


def _equal(name: str, mine: Piece, theirs: Piece, shared: npt.NDArray[np.datetime64]) -> None:
    for time in shared:
        one, other = (array.sel(time=time).values for _, array in (mine, theirs))
        if not np.array_equal(one, other, equal_nan=True):
            msg = f"{mine[0]} and {theirs[0]} both hold {name} at {time}, with different values; remove one of them"
            raise StoreError(msg)


def _in_level(name: str, groups: Sequence[Piece]) -> xr.DataArray:
    first_where, first = groups[0]
    seen: set[float] = set()
    for where, array in groups:
        levels = set(array["level"].values.tolist()) if "level" in array.dims else set()
        if levels & seen or not levels:
            sides = "; ".join(f"{w}: {listed(a['level'].values.tolist())}" for w, a in groups if "level" in a.dims)
            msg = f"{name} comes on overlapping sets of levels (hPa): {sides}; give files with equal or disjoint levels"
            raise StoreError(msg)
        if not np.array_equal(array["time"].values, first["time"].values):
            msg = (
                f"{name}: {where} holds {_span(array)}, {first_where} holds {_span(first)} on other levels; "
                "give all levels for the same times"
            )
            raise StoreError(msg)
        seen |= levels
    return _concatenated([array for _, array in groups], "level").sortby("level")


def _span(array: xr.DataArray) -> str:
    times = array["time"].values.astype("datetime64[m]")
    return f"{len(times)} times from {times[0]} to {times[-1]}"


def _concatenated(arrays: list[xr.DataArray], dimension: str) -> xr.DataArray:
    return xr.concat(arrays, dim=dimension, coords="minimal", compat="override", join="exact", combine_attrs="override")
