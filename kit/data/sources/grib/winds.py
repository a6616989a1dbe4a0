"""Winds along the rows and columns of a grid, turned to east and north."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.sources.grib.grid import GribGrid
from kit.data.sources.grib.scan import Message
from kit.io.errors import StoreError

_PAIRS = (("u", "v"), ("10u", "10v"), ("100u", "100v"))
OTHER_COMPONENT = {"u": "v", "v": "u", "10u": "10v", "10v": "10u", "100u": "100v", "100v": "100u"}
"""The other component of each component of a wind."""
_UNTURNED = frozenset(
    {"ustm", "vstm", "vucsh", "vvcsh", "uflx", "vflx", "utaua", "vtaua", "ugwd", "vgwd", "ewss", "nsss"}
)
"""Short names of components that come without a rule here by which they could be turned: storm motion, stresses."""


def is_along_axes(message: Message) -> bool:
    """Whether a message's components are those along a grid's axes, which are not east and north."""
    # On a grid of parallels and meridians they are the same, whatever the header says.
    return message.grid.relative and message.grid.curved and not message.grid.problem


def check_vectors(name: str, messages: Sequence[Message]) -> None:
    """Refuse components that cannot be turned, and such that come in both forms.

    Raises:
        StoreError: one of the two.
    """
    if name not in OTHER_COMPONENT and name not in _UNTURNED:
        return
    along_axes = [message for message in messages if is_along_axes(message)]
    if not along_axes:
        return
    first = along_axes[0]
    if len(along_axes) < len(messages):
        other = next(message for message in messages if not is_along_axes(message))
        msg = f"{first} holds {name} along the grid's axes, {other} along parallels; give files of one kind"
        raise StoreError(msg)
    kind = ""
    if name in _UNTURNED:
        kind = "of this quantity"
    elif first.grid.cone is None:
        kind = f"of a {first.grid.kind} grid"
    if kind:
        msg = (
            f"{first}: {name} is a component along the grid's own axes, and the kit turns none {kind}; leave it "
            "out, or turn it to east and north first, such as with `wgrib2 IN -new_grid_winds earth ...`"
        )
        raise StoreError(msg)


def turn_winds(
    fields: Mapping[str, xr.DataArray], grids: Mapping[str, GribGrid], where: Mapping[str, str], note: Note
) -> dict[str, xr.DataArray]:
    """Turn pairs of components along a grid's axes to east and north; still lazy.

    NOAA gives the formula for HRRR, whose cone has the constant sin(38.5 degrees) and the meridian 262.5 (HRRR FAQ,
    https://rapidrefresh.noaa.gov/faq/HRRR.faq.html); the angle is Snyder's theta, eq. 14-4 (USGS Professional Paper
    1395, 1987).

    Args:
        fields: all of one source, by name.
        grids: of those components that must be turned, by name.
        where: files of each field, for messages.
        note: receiver of one sentence for each pair.

    Raises:
        StoreError: a component lacks the other one, or its times or levels.
    """
    result = dict(fields)
    for x_name, y_name in _PAIRS:
        if x_name not in grids and y_name not in grids:
            continue
        for present, absent in ((x_name, y_name), (y_name, x_name)):
            if absent not in grids:
                msg = (
                    f"{where[present]}: {present} is a component along the grid's own axes, and {absent}, without "
                    "which it cannot be turned to east and north, is not there; give both"
                )
                raise StoreError(msg)
        x, y = fields[x_name], fields[y_name]
        for name in ("time", "level"):
            if name in x.dims and not np.array_equal(x[name].values, y[name].values):
                msg = (
                    f"{where[x_name]}: {x_name} and {y_name} are components along the grid's own axes, which are "
                    f"turned together, but they differ in their {name}s; give both for the same ones"
                )
                raise StoreError(msg)
        # In double precision, whatever the components have.
        angle = np.radians(angle_of(grids[x_name]))
        sine, cosine = np.sin(angle), np.cos(angle)
        result[x_name] = x.copy(data=x.data * cosine + y.data * sine)
        result[y_name] = y.copy(data=y.data * cosine - x.data * sine)
        constant, meridian = grids[x_name].cone or (0.0, 0.0)
        note(
            f"{x_name} and {y_name} turned from the grid's axes to east and north, by {constant:.6f} x (longitude - "
            f"{meridian:g}) degrees"
        )
    return result


def angle_of(grid: GribGrid) -> npt.NDArray[np.float64]:
    """Compute the degrees by which a grid's y axis points east of north, [H, W]."""
    constant, meridian = grid.cone or (0.0, 0.0)
    return np.asarray(constant * ((grid.longitude - meridian + 180) % 360 - 180))
