"""Which part of a store's grid is read, and which part of that is scored.

Columns are numbered from Greenwich eastwards. West of it they are negative, as in Python: column -1 is the store's
last one. So the columns of a box that crosses Greenwich are a range like those of any other box.

Dimensions: T time, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.box import Range, Region, columns_of, extent, rows_of
from kit.data.chunks import Columns, ChunkSlice
from kit.data.circle import is_closed
from kit.data.rectangle import sides_of
from kit.data.store.reader import Store
from kit.io.errors import StoreError

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """The part of a store's grid that is read.

    Attributes:
        rows: first index, and one past the last, along latitude.
        columns: the same along longitude; a negative first column lies west of Greenwich, counted from the store's end.
        cropped: rows and columns of the region that are left out, so that the patch size divides the sides.
        scored: of the rows and columns that are read, those that losses and scores are taken over; None for all. The
            others are context.
    """

    rows: Range
    columns: Range
    cropped: tuple[int, int]
    scored: tuple[Range, Range] | None = None

    @classmethod
    def of(cls, store: Store, region: Region | None, patch: int, halo: float = 0.0) -> Grid:
        """Select a region with its halo, in whole patches.

        The halo gives way before the region does. In a box across Greenwich 0 degrees begins a patch: columns are
        added as context where the store has them, else left out. On a curvilinear grid the region is the smallest
        rectangle of grid points that contains it.

        Args:
            store: whose grid it is.
            region: north, west, south, east in degrees, borders included; None for the whole grid. It goes eastwards
                from west to east, across Greenwich where west is the greater one.
            patch: patch size of the model in grid points.
            halo: degrees of context around the region; it ends where the store ends.

        Raises:
            SettingsError: the region leaves so little of the circle out that no patch lies outside.
            StoreError: the region selects nothing, less than a patch, or two pieces; or a global grid's longitudes
                would lose their periodicity.
        """
        if store.curvilinear:
            rows, columns = sides_of(store, region, halo, patch)
        else:
            rows, columns = rows_of(store, region, halo, patch), columns_of(store, region, halo, patch)
        grid = cls(rows.read, columns.read, (rows.cropped, columns.cropped), (rows.scored, columns.scored))
        height, width = grid.shape
        empty = any(start >= stop for start, stop in (rows.scored, columns.scored))
        if height < patch or width < patch or empty:
            around = f" with data.halo {halo:g}" if halo else ""
            msg = (
                f"{store.path}: {rows.asked} x {columns.asked} grid points are selected, less than a patch of {patch} "
                f"x {patch}; data.region is {region}{around}, the store covers {extent(store)}"
            )
            raise StoreError(msg)
        if grid.scored == ((0, height), (0, width)):
            return cls(grid.rows, grid.columns, grid.cropped)
        return grid

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are read."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def window(self) -> tuple[slice, slice] | None:
        """Rows and columns that are scored, of those that are read; None for all."""
        return None if self.scored is None else (slice(*self.scored[0]), slice(*self.scored[1]))

    def latitude(self, store: Store) -> npt.NDArray[np.float64]:
        """Latitudes of the rows, degrees north, [H]; [H, W] on a curvilinear grid."""
        rows = store.latitude[slice(*self.rows)]
        return rows[:, slice(*self.columns)] if store.curvilinear else rows

    def longitude(self, store: Store) -> npt.NDArray[np.float64]:
        """Longitudes of the columns, degrees in [0, 360), each one east of the one before, [W] or [H, W]."""
        if store.curvilinear:
            return store.longitude[slice(*self.rows), slice(*self.columns)]
        return store.longitude[np.arange(*self.columns)]

    def scored_coordinates(self, store: Store) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Latitudes and longitudes of what is scored, [H] and [W], or both [H, W]."""
        return self.in_window(self.latitude(store), self.longitude(store))

    def in_window(
        self, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The part that is scored, of the coordinates of what is read."""
        rows, columns = self.window or (slice(None), slice(None))
        if latitude.ndim == 2:
            return latitude[rows, columns], longitude[rows, columns]
        return latitude[rows], longitude[columns]

    def read(
        self, store: Store, name: str, times: Sequence[int], levels: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]:
        """Read states of a variable: [T, H, W] at the surface, [T, C, H, W] in the atmosphere."""
        return store.read(name, times, slice(*self.rows), self._columns, levels)

    def part(self, store: Store, name: str, time: int, levels: Sequence[int] | None = None) -> ChunkSlice:
        """Name what is read of one state of a variable."""
        return store.part(name, time, slice(*self.rows), self._columns, levels)

    def read_static(self, store: Store, name: str) -> npt.NDArray[np.float32]:
        """Read a static variable by its name without prefix, [H, W]."""
        whole = store.read_static(name, slice(*self.rows))
        return np.take(whole, np.arange(*self.columns), axis=-1, mode="wrap")

    def distance(self, store: Store) -> npt.NDArray[np.int64] | None:
        """Grid points between each point and the nearest edge of what is read, [H, W]; 0 at the edge.

        A pole is no edge, and the whole circle has none in the west and the east; a curvilinear grid has all four.
        None where there is no edge at all.
        """
        height, width = self.shape
        rows, columns = np.arange(height), np.arange(width)
        latitude = self.latitude(store)
        spacing = abs(latitude[1] - latitude[0])
        sides = []
        if store.curvilinear or 90 - latitude[0] >= spacing:
            sides.append(rows[:, None])
        if store.curvilinear or latitude[-1] + 90 >= spacing:
            sides.append(rows[::-1, None])
        if store.curvilinear or not is_closed(self.longitude(store)):
            sides += [columns[None], columns[None, ::-1]]
        return np.minimum.reduce([np.broadcast_to(side, self.shape) for side in sides]) if sides else None

    @property
    def crosses_greenwich(self) -> bool:
        """Whether the columns begin west of Greenwich and end east of it."""
        return self.columns[0] < 0

    @property
    def _columns(self) -> Columns:
        return range(*self.columns) if self.crosses_greenwich else slice(*self.columns)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
