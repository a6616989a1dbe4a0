"""Winds along the rows and columns of a grid, turned to east and north."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.sources.grib.grid import Grid
from kit.data.sources.grib.scan import Message
from kit.io.errors import StoreError

__all__ = ["check_vectors", "partner", "turned", "turns"]

_PAIRS = {"u": "v", "10u": "10v", "100u": "100v"}
_PARTNERS = _PAIRS | {second: first for first, second in _PAIRS.items()}
_VECTORS = frozenset(
    {"ustm", "vstm", "vucsh", "vvcsh", "uflx", "vflx", "utaua", "vtaua", "ugwd", "vgwd", "ewss", "nsss"}
)
"""Short names of components that come without a rule here by which they could be turned."""


def partner(name: str) -> str | None:
    """The other component of a wind; None for what is none."""
    return _PARTNERS.get(name)


def turns(message: Message) -> bool:
    """Whether a message's components are those along a grid's axes, which are not east and north."""
    # On a grid of parallels and meridians they are the same, whatever the header says.
    return message.grid.relative and message.grid.curved and not message.grid.problem


def check_vectors(name: str, messages: Sequence[Message]) -> None:
    """Refuse components that cannot be turned, and such that come in both forms.

    Raises:
        StoreError: one of the two.
    """
    if partner(name) is None and name not in _VECTORS:
        return
    relative = [message for message in messages if turns(message)]
    if not relative:
        return
    first = relative[0]
    if len(relative) < len(messages):
        other = next(message for message in messages if not turns(message))
        msg = f"{first} holds {name} along the grid's axes, {other} along parallels; give files of one kind"
        raise StoreError(msg)
    if first.grid.cone is None or name in _VECTORS:
        kind = "of this quantity" if name in _VECTORS else f"of a {first.grid.kind} grid"
        msg = (
            f"{first}: {name} is a component along the grid's own axes, and the kit turns none {kind}; leave it "
            "out, or turn it to east and north first, such as with `wgrib2 IN -new_grid_winds earth ...`"
        )
        raise StoreError(msg)


def turned(
    fields: Mapping[str, xr.DataArray], grids: Mapping[str, Grid], where: Mapping[str, str], note: Note
) -> dict[str, xr.DataArray]:
    """Turn pairs of components along a grid's axes to east and north; still lazy.

    Args:
        fields: all of one source, by name.
        grids: of those components that must be turned, by name.
        where: files of each field, for messages.
        note: is told.

    Raises:
        StoreError: a component lacks the other one, or its times or levels.
    """
    result = dict(fields)
    for name in (name for name in _PAIRS if name in grids or _PAIRS[name] in grids):
        other = _PAIRS[name]
        for one, two in ((name, other), (other, name)):
            if one not in grids:
                msg = (
                    f"{where[two]}: {two} is a component along the grid's own axes, and {one}, without which it cannot "
                    "be turned to east and north, is not there; give both"
                )
                raise StoreError(msg)
        _check_same(fields[name], fields[other], where)
        result[name], result[other] = _turned(fields[name], fields[other], grids[name])
        constant, meridian = grids[name].cone or (0.0, 0.0)
        note(
            f"{name} and {other} turned from the grid's axes to east and north, by {constant:.6f} x (longitude - "
            f"{meridian:g}) degrees"
        )
    return result


def _check_same(one: xr.DataArray, other: xr.DataArray, where: Mapping[str, str]) -> None:
    for name in ("time", "level"):
        if name in one.dims and not np.array_equal(one[name].values, other[name].values):
            msg = (
                f"{where[str(one.name)]}: {one.name} and {other.name} are components along the grid's own axes, which "
                f"are turned together, but they differ in their {name}s; give both for the same ones"
            )
            raise StoreError(msg)


def _turned(x: xr.DataArray, y: xr.DataArray, grid: Grid) -> tuple[xr.DataArray, xr.DataArray]:
    """Turn components along x and y; in double precision.

    NOAA gives the formula for HRRR, whose cone has the constant sin(38.5 degrees) and the meridian 262.5 (HRRR FAQ,
    https://rapidrefresh.noaa.gov/faq/HRRR.faq.html); the angle is Snyder's theta, eq. 14-4 (USGS Professional Paper
    1395, 1987).
    """
    angle = np.radians(angle_of(grid))
    sine, cosine = np.sin(angle), np.cos(angle)
    return x.copy(data=x.data * cosine + y.data * sine), y.copy(data=y.data * cosine - x.data * sine)


def angle_of(grid: Grid) -> npt.NDArray[np.float64]:
    """Degrees by which a grid's y axis points east of north, [H, W]."""
    constant, meridian = grid.cone or (0.0, 0.0)
    return np.asarray(constant * ((grid.longitude - meridian + 180) % 360 - 180))
