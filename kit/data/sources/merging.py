"""Pieces of a variable put together: files by month, by level, or both."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.accumulation import with_one_window
from kit.data.sources.fields import Note
from kit.data.sources.leads import LEAD, STATE_COORDINATES, VERSION, WINDOW
from kit.data.sources.one_grid import Piece, on_one_grid
from kit.data.store.format import STATIC_PREFIX, listed
from kit.io.errors import StoreError

# The first and the last lead in hours.
Leads = tuple[float, float]
_LISTED = 8
"""Most leads in a message."""
_PRELIMINARY = 5
"""ERA5T's ``expver``."""


def merge(
    found: dict[str, list[Piece]], note: Note, leads: Leads | None = None, step: int | None = None
) -> dict[str, xr.DataArray]:
    """Join pieces to one field per name, on one grid.

    Args:
        found: Pieces with the name of the file each is from, by the store's name.
        note: Takes what was done.
        leads: The first and the last lead in hours that states are taken of; None for analyses alone.
        step: Hours between states of the store.

    Raises:
        StoreError: Pieces lie on different grids, contradict each other, or do not join up; prints both
            sides.
    """
    fields: dict[str, xr.DataArray] = {}
    if not found:
        return fields
    for name, aligned in on_one_grid(found).items():
        if name.startswith(STATIC_PREFIX):
            fields[name] = constant_field(name, aligned)
        else:
            fields[name] = _dynamic(name, aligned, leads, step, note)
    return fields


def origin_of(pieces: Sequence[Piece]) -> str:
    """Describe the files that pieces are from, for messages about the field that they make."""
    names = list(dict.fromkeys(where for where, _ in pieces))
    if len(names) == 1:
        return names[0]
    return f"{names[0]} and {len(names) - 1} more"


@contextmanager
def named_by_file(origin: str) -> Iterator[None]:
    """Put the files that a field is from before what is said to be wrong with it, where it does not name them."""
    try:
        yield
    except StoreError as error:
        first = origin.partition(" and ")[0]
        if first and first not in str(error):
            error.args = (f"{origin}: {error}",)
        raise


def constant_field(name: str, pieces: Sequence[Piece]) -> xr.DataArray:
    """Take the one field of a static variable, however often it comes.

    Args:
        name: Name of the variable, for messages.
        pieces: Fields with the name of the file each is from, with times or without.

    Raises:
        StoreError: States or files differ.
    """
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


def _dynamic(name: str, pieces: Sequence[Piece], leads: Leads | None, step: int | None, note: Note) -> xr.DataArray:
    # Files of the same levels follow each other in time; then sets of levels are put on each other.
    by_levels: dict[tuple[float, ...], list[Piece]] = {}
    for where, array in pieces:
        if "time" not in array.dims:
            msg = f"{where}: {name} has no time, dimensions {array.dims}; add a time coordinate"
            raise StoreError(msg)
        by_levels.setdefault(tuple(_levels(array)), []).append((where, array))
    joined = [_join_times(name, group, leads, note) for group in by_levels.values()]
    field = joined[0][1] if len(joined) == 1 else _join_levels(name, joined)
    field = field.drop_vars(VERSION, errors="ignore")
    if WINDOW in field.coords:
        with named_by_file(origin_of(pieces)):
            return with_one_window(field, step, note)
    return field


def _join_times(name: str, pieces: Sequence[Piece], chosen: Leads | None, note: Note) -> Piece:
    """Join pieces in time: of each valid time one state, of the chosen leads, final before preliminary."""
    states = _States(name, pieces)
    if not states.is_accumulated:
        states.keep_leads(chosen, note)
    elif chosen is not None:
        # What adds up to the first lead lies before it.
        states.keep(states.lead > 0)
        states.keep_leads(chosen, note)
    states.keep_best(note)
    return pieces[0][0], states.joined()


class _States:
    """States of a variable, of all pieces, in the order of their valid times and leads.

    Attributes:
        time: Valid times, seconds since 1970.
        lead: Hours; 0 where no piece says.
        version: 0 for ERA5 and what has no version, 1 for preliminary ERA5T.
        window: Hours that a value adds up over; 0 where it is of a moment.
        piece: Position of the piece.
        index: Position in the piece.
    """

    def __init__(self, name: str, pieces: Sequence[Piece]) -> None:
        self.name, self.pieces = name, pieces
        self.is_accumulated = any(WINDOW in array.coords for _, array in pieces)
        self.states_leads = any(LEAD in array.coords for _, array in pieces)
        self.time = np.concatenate([array["time"].values.astype("datetime64[s]") for _, array in pieces])
        self.lead = self._coordinate(LEAD)
        self.window = self._coordinate(WINDOW)
        self.version = self._coordinate(VERSION) == _PRELIMINARY
        lengths = [array.sizes["time"] for _, array in pieces]
        self.piece = np.repeat(np.arange(len(pieces)), lengths)
        self.index = np.concatenate([np.arange(length) for length in lengths])
        self.keep(np.lexsort((self.version, self.window, self.lead, self.time)))

    def _coordinate(self, coordinate: str) -> npt.NDArray[np.float64]:
        parts = []
        for _, array in self.pieces:
            values = array[coordinate].values if coordinate in array.coords else np.zeros(array.sizes["time"])
            parts.append(np.nan_to_num(values.astype(np.float64)))
        return np.concatenate(parts)

    def keep(self, which: npt.NDArray[Any]) -> None:
        """Keep some states, by positions or by a mask."""
        for attribute in ("time", "lead", "version", "window", "piece", "index"):
            setattr(self, attribute, getattr(self, attribute)[which])

    def keep_leads(self, chosen: Leads | None, note: Note) -> None:
        """Keep states of the chosen leads; analyses where none are chosen.

        Raises:
            StoreError: There are none; says which there are.
        """
        first, last = chosen or (0.0, 0.0)
        inside = (self.lead >= first) & (self.lead <= last)
        leads = sorted(set(self.lead.tolist()))
        held = listed(leads)
        if len(leads) > _LISTED:
            held = f"{listed(leads[:_LISTED])}, ... {leads[-1]:g}"
        if chosen is not None and not self.states_leads:
            msg = (
                f"{self.pieces[0][0]}: {self.name} has neither leads nor reference times, among which --lead could "
                "choose; leave --lead out"
            )
            raise StoreError(msg)
        if not inside.any():
            advice = "no forecast goes back in time: mend the reference times of the file"
            ahead = [lead for lead in leads if lead >= 0]
            if ahead:
                advice = f"choose others with --lead, such as --lead {ahead[0]:g}h"
            if len(ahead) > 1:
                advice += f", or a range of leads that follow one another, such as --lead {ahead[0]:g}h/{ahead[-1]:g}h"
            msg = (
                f"{self.pieces[0][0]}: {self.name} comes from forecasts {held} h ahead, and the store is to hold "
                f"{_described(chosen)}; {advice}"
            )
            raise StoreError(msg)
        if not inside.all():
            note(f"{self.name}: {_described(chosen)} taken of states {held} h ahead")
        self.keep(inside)

    def keep_best(self, note: Note) -> None:
        """Keep one state of those with equal times and windows: final ones first, then those of the shortest lead.

        Raises:
            StoreError: Two are alike in all but their values; names both.
        """
        same = self.time[1:] == self.time[:-1]
        if self.is_accumulated:
            # Values over other hours are sums of their own, which ``with_one_window`` chooses among.
            same &= (self.window[1:] == self.window[:-1]) & (self.lead[1:] == self.lead[:-1])
        keep = np.ones(len(self.time), dtype=bool)
        first = 0
        for position in (np.flatnonzero(same) + 1).tolist():
            if keep[position - 1]:
                first = position - 1
            keep[position] = False
            if self.lead[first] != self.lead[position]:
                note(f"{self.name}: where forecasts overlap, the one of the shortest lead was taken")
            elif self.version[first] != self.version[position]:
                note("ERA5 and ERA5T combined: preliminary values where there are no final ones")
            else:
                self._check_equal(first, position)
                note(f"{self.name}: states that two files hold alike were taken once")
        self.keep(keep)
        preliminary = int(self.version.sum())
        if preliminary:
            note(f"{self.name}: {preliminary} of {len(self.time)} states are preliminary (ERA5T)")

    def _check_equal(self, one: int, other: int) -> None:
        (first, mine), (second, theirs) = (self.pieces[self.piece[state]] for state in (one, other))
        a, b = mine.isel(time=self.index[one]).values, theirs.isel(time=self.index[other]).values
        if np.array_equal(a, b, equal_nan=True):
            return
        at, apart = self.time[one], np.nanmax(np.abs(a - b), initial=0.0)
        if first == second:
            msg = f"{first}: {self.name} holds {at} more than once, with different values; keep one of these states"
        else:
            msg = (
                f"{second} and {first} both hold {self.name} at {at}, with different values (up to {apart:g} apart); "
                "remove one of them"
            )
        raise StoreError(msg)

    def joined(self) -> xr.DataArray:
        """Lay the states out along increasing times."""
        parts, order = [], []
        for number, (_, array) in enumerate(self.pieces):
            mine = np.flatnonzero(self.piece == number)
            if not mine.size:
                continue
            # As slices where states follow one another, which lazy arrays read in one piece.
            indices = self.index[mine]
            whole = len(indices) == array.sizes["time"] and (np.diff(indices) > 0).all()
            parts.append(array if whole else array.isel(time=indices))
            order.append(mine)
        if not parts:
            return self.pieces[0][1].isel(time=[])
        result = parts[0] if len(parts) == 1 else _concatenated(_alike(parts), "time")
        positions = np.concatenate(order)
        if (np.diff(positions) > 0).all():
            return result
        return result.isel(time=np.argsort(positions))


def _described(chosen: Leads | None) -> str:
    if chosen is None:
        return "analyses (lead 0)"
    first, last = chosen
    return f"leads of {first:g} h" if first == last else f"leads from {first:g} to {last:g} h"


def _alike(arrays: list[xr.DataArray]) -> list[xr.DataArray]:
    """Give all arrays the coordinates of states that any has, so that they can be joined."""
    names = [name for name in STATE_COORDINATES if any(name in array.coords for array in arrays)]
    result = []
    for array in arrays:
        missing = {name: ("time", np.full(array.sizes["time"], np.nan)) for name in names if name not in array.coords}
        result.append(array.assign_coords(missing))
    return result


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
