"""Forecasts in GRIB, laid out by member, initial time and lead for those that read states, not build stores.

Every message is a state of one member on one level; it is decoded when it is read, and no other.

Dimensions: M member, T state (an initial time and a lead), H latitude, W longitude.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from kit.data.sources.fields import Note
from kit.data.sources.grib.scan import Message
from kit.data.sources.grib.source import name_of
from kit.data.sources.grib.values import decoded
from kit.data.sources.grib.windows import states_of, window_of
from kit.data.sources.leads import WINDOW
from kit.data.store.format import CURVILINEAR, GRID, STATIC_PREFIX
from kit.io.errors import StoreError

_DERIVED = ("em", "es", "ses", "ep", "efi", "cm", "cs", "fcmean", "fcstdev")
"""ECMWF's types of data that are made of an ensemble: its mean, its spread, probabilities."""
Cell = tuple[int, np.datetime64, float]
"""Member, initial time, and lead in hours."""


def forecasts_of(messages: Sequence[Message], where: str, note: Note) -> xr.Dataset:
    """Lay messages out, lazily.

    Args:
        messages: Messages of all files.
        where: Name of the files, for messages.
        note: Takes what is left out.

    Returns:
        Variables by the store's name, on levels with the level in hPa (``z_500hPa``), with the dimensions ``number``
        (where there are several members), ``time`` (the valid time, with ``forecast_reference_time`` beside it), and
        those of the grid.

    Raises:
        StoreError: Messages lie on several grids, contradict each other, or leave holes.
    """
    groups: dict[str, list[Message]] = {}
    accumulated = set()
    for message in messages:
        name, variable = name_of(message)
        if message.data_type in _DERIVED:
            note(f"{where}: {name} is left out where it is made of an ensemble ({message.data_type})")
        elif variable is not None and not name.startswith(STATIC_PREFIX):
            if message.on_pressure:
                groups.setdefault(f"{name}_{message.level:g}hPa", []).append(message)
            elif variable.kind == "surface":
                groups.setdefault(name, []).append(message)
            if variable.accumulated:
                accumulated.add(name)
    if not groups:
        msg = f"{where}: none of {len(messages)} GRIB messages is a forecast of a variable that the kit knows"
        raise StoreError(msg)
    cells = {}
    for name, group in groups.items():
        cells[name] = _cells(states_of(name, group, name in accumulated, note))
    first = next(iter(next(iter(cells.values())).values()))
    members = sorted({member for held in cells.values() for member, _, _ in held})
    states = sorted({(start, lead) for held in cells.values() for _, start, lead in held})
    arrays = {}
    for name, held in cells.items():
        holes = [(m, *state) for m in members for state in states if (m, *state) not in held]
        if holes:
            member, start, lead = holes[0]
            msg = (
                f"{where}: {name} is missing in {len(holes)} of {len(members)} members x {len(states)} states, first "
                f"in member {member} from {start} + {lead:g} h; give all of them, or leave out the files that lack some"
            )
            raise StoreError(msg)
        _check_grid(name, list(held.values()), first)
        arrays[name] = _array([[held[m, *state] for state in states] for m in members])
    if len(members) == 1:
        arrays = {name: array.isel(number=0) for name, array in arrays.items()}
    windows = _windows({name: held for name, held in cells.items() if name in accumulated}, states, where)
    dimensions = CURVILINEAR if first.grid.curved else GRID
    seconds = [np.timedelta64(round(lead * 3600), "s") for _, lead in states]
    coordinates: dict[str, Any] = {
        "time": ("time", np.array([start for start, _ in states]) + np.array(seconds)),
        "forecast_reference_time": ("time", np.array([start for start, _ in states])),
        "latitude": (dimensions if first.grid.curved else "latitude", first.grid.latitude),
        "longitude": (dimensions if first.grid.curved else "longitude", first.grid.longitude),
        **windows,
    }
    return xr.Dataset(arrays, coordinates)


def _cells(messages: Sequence[Message]) -> dict[Cell, Message]:
    """Sort the messages of a variable and level by member and state."""
    found: dict[Cell, Message] = {}
    for message in messages:
        start = message.time - np.timedelta64(round(message.lead * 3600), "s")
        cell = (message.member or 0, start, message.lead)
        if cell in found:
            msg = (
                f"{found[cell]} and {message} both hold {message.short_name} of member {cell[0]} from {start} + "
                f"{message.lead:g} h; give each once, and members with numbers (perturbationNumber)"
            )
            raise StoreError(msg)
        found[cell] = message
    return found


def _check_grid(name: str, messages: Sequence[Message], first: Message) -> None:
    for message in messages:
        if message.grid.problem:
            msg = f"{message}: {name} {message.grid.problem}; rows that go south and columns that go east are expected"
            raise StoreError(msg)
        if not message.grid.same_points(first.grid):
            msg = (
                f"{message} has {message.grid}, {first} has {first.grid}: forecasts are read on one grid; leave one of "
                "them out"
            )
            raise StoreError(msg)


def _windows(
    accumulated: Mapping[str, Mapping[Cell, Message]], states: Sequence[tuple[np.datetime64, float]], where: str
) -> dict[str, Any]:
    """Read over which hours accumulated variables add up, state by state; empty where there are none."""
    found: npt.NDArray[np.float64] | None = None
    for name, held in accumulated.items():
        member = min(number for number, _, _ in held)
        hours = np.array([window_of(held[member, *state]) for state in states])
        if found is not None and not np.array_equal(found, hours):
            msg = f"{where}: {name} adds up over other hours than other variables; leave one of them out of the file"
            raise StoreError(msg)
        found = hours
    return {} if found is None else {WINDOW: ("time", found)}


def _array(messages: Sequence[Sequence[Message]]) -> xr.Variable:
    first = messages[0][0]
    dimensions = CURVILINEAR if first.grid.curved else GRID
    attributes = {"units": first.units, "long_name": first.short_name}
    attributes["GRIB_uvRelativeToGrid"] = str(int(first.grid.relative))
    values = indexing.LazilyIndexedArray(_Messages(messages))
    return xr.Variable(("number", "time", *dimensions), values, attributes)


class _Messages(BackendArray):
    """What xarray reads from: a shape, and messages that are decoded as they are asked for."""

    def __init__(self, messages: Sequence[Sequence[Message]]) -> None:
        self._messages = np.array(messages, dtype=object)
        self.shape = (*self._messages.shape, *messages[0][0].grid.shape)
        # Converted in double precision, then rounded once.
        self.dtype = np.dtype(np.float64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[np.float64]:
        chosen = np.asarray(self._messages[key[:2]], dtype=object)
        fields = np.stack(list(decoded(chosen.ravel().tolist())))
        states = fields.reshape(*chosen.shape, *self.shape[2:])
        return states[(slice(None),) * chosen.ndim + tuple(key[2:])]
