"""Winds of GRIB messages: whether they lie along the grid's axes, and the angles of those."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.grib.grid import GribGrid
from kit.data.sources.grib.scan import Message
from kit.data.sources.projections import angle_of_mapping
from kit.data.sources.winds import ORIGIN, OTHER_COMPONENT, UNTURNED, X_ANGLE
from kit.data.store.format import CURVILINEAR
from kit.io.errors import StoreError


def along_grid(message: Message, winds_are: str | None = None) -> bool:
    """Return whether a message's components are those along a grid's axes, which are not east and north.

    Args:
        message: The message.
        winds_are: Direction that the user states: ``earth`` or ``grid``; None for what the message states.
    """
    # On a grid of parallels and meridians they are the same, whatever the header says.
    if not message.grid.curved or message.grid.problem:
        return False
    return winds_are == "grid" or (winds_are is None and message.grid.relative)


def check_vectors(name: str, messages: Sequence[Message], winds_are: str | None = None) -> None:
    """Refuse components that cannot be turned, and such that come in both forms.

    Args:
        name: The store's name of the component.
        messages: Messages that hold it.
        winds_are: Direction that the user states.

    Raises:
        StoreError: one of the two.
    """
    if name not in OTHER_COMPONENT and name not in UNTURNED:
        return
    turned = [message for message in messages if along_grid(message, winds_are)]
    if not turned:
        return
    first = turned[0]
    if len(turned) < len(messages):
        other = next(message for message in messages if not along_grid(message, winds_are))
        msg = f"{first} holds {name} along the grid's axes, {other} along parallels; give files of one kind"
        raise StoreError(msg)
    if name in UNTURNED:
        msg = (
            f"{first}: {name} is a component along the grid's own axes, and the kit turns none of this quantity; leave "
            f"it out with --leave_out {name}, or turn it to east and north first, such as with `wgrib2 IN "
            "-new_grid_winds earth ...`"
        )
        raise StoreError(msg)


def with_angles(dataset: xr.Dataset, grid: GribGrid) -> xr.Dataset:
    """Add the angles of a grid's axes to a component, where the header says enough of them."""
    if grid.cone is not None:
        degrees = angle_of_cone(grid)
        constant, meridian = grid.cone
        said = f"by {constant:.6f} x (longitude - {meridian:g}) degrees"
    else:
        degrees, said = angle_of_mapping(grid.projection, grid.latitude, grid.longitude, f"a {grid.kind} grid")
    if not degrees.size:
        return dataset
    attributes = {"standard_name": X_ANGLE, "units": "degree", ORIGIN: said}
    return dataset.assign({X_ANGLE: (CURVILINEAR, -degrees, attributes)})


def angle_of_cone(grid: GribGrid) -> npt.NDArray[np.float64]:
    """Compute the degrees by which the y axis of a cone's grid points east of north, [H, W]."""
    constant, meridian = grid.cone or (0.0, 0.0)
    return np.asarray(constant * ((grid.longitude - meridian + 180) % 360 - 180))
