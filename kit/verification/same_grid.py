"""Whether a forecast's points are those of a store, or of a part of it, and where they are in either."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kit.data.grid import Grid, spacing
from kit.data.store.reader import Store
from kit.io.errors import StoreError

Float64 = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]

_SAME = 1e-4
"""Degrees by which the same points may differ: one writer has single precision, another millidegrees."""


@dataclass(frozen=True)
class SharedGrid:
    """Points that a forecast and a store share.

    Attributes:
        grid: Part of the store's grid.
        rows: Position in the forecast of each of its rows.
        columns: Position in the forecast of each of its columns.
    """

    grid: Grid
    rows: Positions
    columns: Positions

    def take(self, name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:  # noqa: ARG002
        """Take the shared points of values, [..., H, W], whatever the variable."""
        return np.ascontiguousarray(values[..., self.rows, :][..., self.columns])


def shared_grid(path: Path, latitude: Float64, longitude: Float64, store: Store) -> SharedGrid:
    """Find the points that a forecast shares with a store: all of the one, or all of the other.

    Args:
        path: File of the forecast, for messages.
        latitude: Its latitudes in any order, degrees north, [H]; [H, W] on a curvilinear grid.
        longitude: Its longitudes in any order, degrees east, [W] or [H, W].
        store: Store that it is compared with.

    Raises:
        StoreError: It lies on another grid.
    """
    found = find_shared(latitude, longitude, store)
    if found is None:
        mine, theirs = _described(latitude, longitude), _described(store.latitude, store.longitude)
        msg = (
            f"{path}: its grid ({mine}) is not that of {store.path} ({theirs}), nor a part of it; interpolate the "
            "forecast to the store's points with --regrid_method linear, or name a store on the forecast's grid"
        )
        raise StoreError(msg)
    return found


def find_shared(latitude: Float64, longitude: Float64, store: Store) -> SharedGrid | None:
    """Find the points that a forecast shares with a store; arguments as of ``shared_grid``, None where none."""
    if latitude.ndim == 2 and store.curvilinear:
        return _block(latitude, longitude, store)
    if latitude.ndim == 1 and not store.curvilinear:
        return _rows_and_columns(latitude, longitude, store)
    return None


def _block(latitude: Float64, longitude: Float64, store: Store) -> SharedGrid | None:
    """Find a forecast on a curvilinear grid as a block of the store's."""
    apart = np.abs(store.latitude - latitude[0, 0]) + np.abs((store.longitude - longitude[0, 0] + 180) % 360 - 180)
    row, column = map(int, np.unravel_index(int(apart.argmin()), apart.shape))
    rows, columns = (row, row + latitude.shape[0]), (column, column + latitude.shape[1])
    held = store.latitude[slice(*rows), slice(*columns)], store.longitude[slice(*rows), slice(*columns)]
    if held[0].shape != latitude.shape:
        return None
    east = (held[1] - longitude + 180) % 360 - 180
    if max(np.abs(held[0] - latitude).max(), np.abs(east).max()) > _SAME:
        return None
    grid = Grid(rows, columns, (0, 0))
    return SharedGrid(grid, np.arange(latitude.shape[0]), np.arange(latitude.shape[1]))


def _rows_and_columns(latitude: Float64, longitude: Float64, store: Store) -> SharedGrid | None:
    # What has every second point of another grid, or every second of its own on another, lies on another grid.
    for mine, theirs in ((latitude, store.latitude), (np.unique(longitude % 360), store.longitude)):
        if abs(spacing(mine) - spacing(theirs)) > _SAME and min(len(mine), len(theirs)) > 1:
            return None
    rows = _positions(store.latitude, latitude, circle=False)
    columns = _positions(store.longitude, longitude, circle=True)
    row_range, column_range = range_of(rows >= 0), range_of(columns >= 0)
    if row_range is None or column_range is None:
        return None
    # A meridian may be there twice, as 0 and as 360 degrees.
    distinct = len(np.unique(np.round(longitude % 360, 4) % 360))
    is_whole = (rows >= 0).sum() in (len(latitude), len(rows)) and (columns >= 0).sum() in (distinct, len(columns))
    if not is_whole:
        return None
    taken_rows, taken_columns = rows[np.arange(*row_range)], columns[np.arange(*column_range)]
    return SharedGrid(Grid(row_range, column_range, (0, 0)), taken_rows, taken_columns)


def _positions(wanted: Float64, held: Float64, *, circle: bool) -> Positions:
    """Find the position among some degrees of each wanted one; -1 where there is none."""
    degrees, positions = held, np.arange(len(held))
    if circle:
        degrees = np.concatenate([held % 360 - 360, held % 360, held % 360 + 360])
        positions = np.tile(positions, 3)
    order = np.argsort(degrees)
    degrees, positions = degrees[order], positions[order]
    after = np.clip(np.searchsorted(degrees, wanted), 1, len(degrees) - 1) if len(degrees) > 1 else np.zeros(1, int)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(degrees[before] - wanted) <= np.abs(degrees[after] - wanted), before, after)
    return np.where(np.abs(degrees[nearest] - wanted) <= _SAME, positions[nearest], -1)


def range_of(shared: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """Return the run of shared rows or columns, which may pass the end and go on at the beginning; None for none."""
    places = np.flatnonzero(shared)
    if not places.size:
        return None
    breaks = np.flatnonzero(np.diff(places) > 1)
    if not breaks.size:
        return int(places[0]), int(places[-1]) + 1
    passes = len(breaks) == 1 and places[0] == 0 and places[-1] == len(shared) - 1
    if not passes:
        return None
    first = int(breaks[0])
    return int(places[first + 1]) - len(shared), int(places[first]) + 1


def _described(latitude: Float64, longitude: Float64) -> str:
    return (
        f"{latitude.shape[0]} x {longitude.shape[-1]} points, {latitude.min():g} to {latitude.max():g} degrees north, "
        f"{longitude.min():g} to {longitude.max():g} degrees east"
    )
