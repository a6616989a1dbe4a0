"""Grids: longitudes on a circle, cells and their areas, and the part of a store's grid that a run reads.

Columns are numbered from Greenwich eastwards. West of it they are negative, as in Python: column -1 is the store's
last one. So the columns of a box that crosses Greenwich are a range like those of any other box.

Dimensions: T time, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kit.data.chunks import ChunkSlice, Columns
    from kit.data.store.reader import Store

Array = npt.NDArray[np.float64]
Range = tuple[int, int]
"""First index, and one past the last."""


# Longitudes on a circle.


def continuous(values_W: npt.NDArray[Any]) -> Array:
    """Return longitudes without a jump, as figures and files want them: those west of Greenwich are negative.

    Args:
        values_W: Degrees east in [0, 360), each one east of the one before, [W]; they may pass 0 once.
    """
    values = np.asarray(values_W, dtype=np.float64)
    passed = np.flatnonzero(np.diff(values) < 0)
    if not passed.size:
        return values
    return np.where(np.arange(len(values)) <= passed[0], values - 360, values)


def western_edge(increasing_W: npt.NDArray[Any]) -> int:
    """Find where a box begins: the first column after its only hole, if the box goes on at 0 degrees, else 0.

    Args:
        increasing_W: All longitudes of a store, strictly increasing in [0, 360), [W].
    """
    # The step from the last column around to the first is among them: of most boxes it is the one that is wide.
    steps = np.diff(increasing_W, append=increasing_W[0] + 360)
    usual = 1.5 * float(np.median(steps)) + 1e-9
    wide = np.flatnonzero(steps > usual)
    if len(wide) == 1 and wide[0] + 1 < len(steps):
        return int(wide[0]) + 1
    return 0


def is_closed(eastwards_W: npt.NDArray[Any]) -> bool:
    """Whether longitudes, each one east of the one before, go around the whole circle, [W]."""
    if len(eastwards_W) < 2:
        return False
    steps = np.diff(eastwards_W) % 360
    return bool(np.isclose(steps.sum() + steps.mean(), 360))


def distance_east(degrees: npt.NDArray[Any] | float, west: float) -> Any:
    """Measure how far east of a longitude others are, in [0, 360) degrees; what is beyond 6 digits is rounding."""
    return np.round((degrees - west) % 360, 6) % 360


def from_western_edge(increasing_W: npt.NDArray[Any]) -> Array:
    """Sort longitudes from the western edge of a box on, increasing; those west of Greenwich become negative.

    Args:
        increasing_W: All longitudes of a store, strictly increasing in [0, 360), [W].
    """
    edge = western_edge(increasing_W)
    if is_closed(increasing_W) or not edge:
        return np.asarray(increasing_W)
    return np.concatenate([increasing_W[edge:] - 360, increasing_W[:edge]])


def spacing(degrees: npt.NDArray[Any]) -> float:
    """Return the usual distance of neighbours, in degrees; 360 where there is one point alone."""
    if len(degrees) < 2:
        return 360.0
    return float(np.median(np.abs(np.diff(degrees))))


# Cells on the sphere.


def edges(centres: npt.NDArray[Any], axis: int = 0) -> Array:
    """Place edges of cells halfway between centres; the outermost cells are as wide outwards as inwards.

    Args:
        centres: Degrees, at least one along the axis; one alone is taken to be a degree wide.
        axis: Axis along which the edges are found.

    Returns:
        One more along that axis.
    """
    values = np.moveaxis(np.asarray(centres, dtype=np.float64), axis, 0)
    if len(values) == 1:
        return np.moveaxis(np.concatenate([values - 0.5, values + 0.5]), 0, axis)
    middle = (values[1:] + values[:-1]) / 2
    found = np.concatenate([2 * values[:1] - middle[:1], middle, 2 * values[-1:] - middle[-1:]])
    return np.moveaxis(found, 0, axis)


def corners(centres_HW: npt.NDArray[Any]) -> Array:
    """Place corners of a curvilinear grid's cells, [H + 1, W + 1], in the middle of the four centres around each."""
    return edges(edges(centres_HW, 0), 1)


def cell_areas(latitude_HW: npt.NDArray[Any], longitude_HW: npt.NDArray[Any]) -> Array:
    """Compute areas of the cells of a curvilinear grid on the unit sphere.

    The map from longitude and sine of latitude keeps areas (Lambert's cylindrical equal-area projection, Snyder 1987,
    equations 10-1 and 10-2), so the area of a cell is that of its quadrilateral there: half the cross product of its
    diagonals. Parallels and meridians are straight lines there, and the cells of a regular grid come out exactly;
    other edges are taken to be straight between corners. No cell reaches beyond a pole.

    Args:
        latitude_HW: Latitudes of the centres, degrees north.
        longitude_HW: Longitudes of the centres, degrees east, without a jump.

    Returns:
        Steradians, positive, [H, W].
    """
    x = np.deg2rad(corners(longitude_HW))
    y = np.sin(np.deg2rad(np.clip(corners(latitude_HW), -90, 90)))
    falling = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    rising = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    return np.asarray(np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2)


def area_weights(latitude: npt.ArrayLike, longitude: npt.ArrayLike | None = None) -> Array:
    """Weight latitude rows, or the points of a curvilinear grid, by the area of the sphere that their cells cover.

    A cell reaches halfway to its neighbours, the outermost ones as far outwards as inwards but never beyond
    a pole; its area is the difference of the sines of its edges. A row on a pole is thus half a cell, not nothing.
    Areas of a curvilinear grid's cells (``cell_areas``) are the same where the grid is regular.

    Args:
        latitude: Row centres, degrees north, strictly decreasing, shape [H]; a regional box may hold any part. Or
            latitudes of all points, decreasing along every column, [H, W].
        longitude: Longitudes of all points, degrees east, [H, W]; without effect where latitudes are a vector.

    Returns:
        Dimensionless float64 weights of mean 1, shape [H] or [H, W].

    Raises:
        ValueError: The latitudes are empty, beyond a pole, or not strictly decreasing, or longitudes do not fit them.
    """
    rows_H = np.asarray(latitude, dtype=np.float64)
    if rows_H.ndim not in (1, 2) or rows_H.size == 0:
        msg = f"latitudes must be a vector or a matrix and not empty, got shape {list(rows_H.shape)}"
        raise ValueError(msg)
    # Written so that a latitude that is not a number fails too.
    if not bool((np.abs(rows_H) <= 90).all()):
        msg = f"latitudes must lie in [-90, 90] degrees north, got {rows_H.min():g} to {rows_H.max():g}"
        raise ValueError(msg)
    wrong = np.argwhere(rows_H[1:] >= rows_H[:-1])
    if len(wrong):
        row, *column = map(int, wrong[0])
        after, before = rows_H[(row + 1, *column)], rows_H[(row, *column)]
        msg = f"latitudes must strictly decrease, but row {row + 1} is {after:g} after {before:g} degrees"
        raise ValueError(msg)
    if rows_H.ndim == 2:
        got = None if longitude is None else list(np.shape(longitude))
        if got != list(rows_H.shape):
            msg = f"longitudes of the latitudes' shape {list(rows_H.shape)} are needed, got {got}"
            raise ValueError(msg)
        areas = cell_areas(rows_H, np.asarray(longitude))
    elif len(rows_H) == 1:
        return np.ones(1)
    else:
        sines = np.sin(np.deg2rad(np.clip(edges(rows_H), -90, 90)))
        areas = sines[:-1] - sines[1:]
    return np.asarray(areas / areas.mean())


# The part that a run reads.


@dataclass(frozen=True)
class AxisSelection:
    """A range of rows or columns of a store.

    Attributes:
        read: Range that the model sees.
        scored: Of that, the region's.
        requested: Rows or columns of region and halo, before they were fitted to patches.
        cropped: Rows or columns of the region that were left out.
    """

    read: Range
    scored: Range
    requested: int
    cropped: int

    @classmethod
    def of(cls, region: Range, read: Range, requested: Range) -> AxisSelection:
        """Put together what was asked for and what is read."""
        start, stop = max(region[0], read[0]), min(region[1], read[1])
        cropped = region[1] - region[0] - (stop - start)
        return cls(read, (start - read[0], stop - read[0]), requested[1] - requested[0], cropped)

    @classmethod
    def fitted(cls, region: Range, requested: Range, patch: int) -> AxisSelection:
        """Leave out what makes no whole patch: of the wider halo, then of the other, then of the region's end."""
        start, stop = requested
        for _ in range((stop - start) % patch):
            if region[0] - start > max(stop - region[1], 0):
                start += 1
            else:
                stop -= 1
        return cls.of(region, (start, stop), requested)


@dataclass(frozen=True)
class Grid:
    """The part of a store's grid that is read; ``kit.data.region.select_grid`` makes one.

    Attributes:
        rows: First index, and one past the last, along latitude.
        columns: The same along longitude; a negative first column lies west of Greenwich, counted from the store's end.
        cropped: Rows and columns of the region that are left out, so that the patch size divides the sides.
        scored: Rows and columns, of those that are read, that losses and scores are taken over; None for all. The
            others are context.
    """

    rows: Range
    columns: Range
    cropped: tuple[int, int]
    scored: tuple[Range, Range] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are read."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def window(self) -> tuple[slice, slice] | None:
        """Rows and columns that are scored, of those that are read; None for all."""
        if self.scored is None:
            return None
        rows, columns = self.scored
        return slice(*rows), slice(*columns)

    def latitude(self, store: Store) -> Array:
        """Latitudes of the rows, degrees north, [H]; [H, W] on a curvilinear grid."""
        rows = store.latitude[slice(*self.rows)]
        if store.curvilinear:
            return rows[:, slice(*self.columns)]
        return rows

    def longitude(self, store: Store) -> Array:
        """Longitudes of the columns, degrees in [0, 360), each one east of the one before, [W] or [H, W]."""
        if store.curvilinear:
            return store.longitude[slice(*self.rows), slice(*self.columns)]
        return store.longitude[np.arange(*self.columns)]

    def scored_coordinates(self, store: Store) -> tuple[Array, Array]:
        """Latitudes and longitudes of what is scored, [H] and [W], or both [H, W]."""
        return self.in_window(self.latitude(store), self.longitude(store))

    def in_window(self, latitude: Array, longitude: Array) -> tuple[Array, Array]:
        """Cut coordinates of what is read to the part that is scored."""
        rows, columns = self.window or (slice(None), slice(None))
        if latitude.ndim == 2:
            return latitude[rows, columns], longitude[rows, columns]
        return latitude[rows], longitude[columns]

    def chunk_slice(self, store: Store, name: str, time: int, levels: Sequence[int] | None = None) -> ChunkSlice:
        """Name what is read of one state of a variable."""
        # Across Greenwich columns are the store's last and its first, no run that is read as one piece.
        columns: Columns = range(*self.columns) if self.columns[0] < 0 else slice(*self.columns)
        return store.chunk_slice(name, time, slice(*self.rows), columns, levels)

    def read_static(self, store: Store, name: str) -> npt.NDArray[np.float32]:
        """Read a static variable by its name without prefix, [H, W]."""
        whole = store.read_static(name, slice(*self.rows))
        return np.take(whole, np.arange(*self.columns), axis=-1, mode="wrap")

    def distance(self, store: Store) -> npt.NDArray[np.int64] | None:
        """Count grid points between each point and the nearest edge of what is read, [H, W]; 0 at the edge.

        A pole is no edge, and the whole circle has none in the west and the east; a curvilinear grid has all four.
        None where there is no edge at all.
        """
        height, width = self.shape
        rows, columns = np.arange(height), np.arange(width)
        latitude = self.latitude(store)
        # A pole that is less than a row away is no edge.
        step = abs(latitude[1] - latitude[0])
        sides = []
        if store.curvilinear or 90 - latitude[0] >= step:
            sides.append(rows[:, None])
        if store.curvilinear or latitude[-1] + 90 >= step:
            sides.append(rows[::-1, None])
        if store.curvilinear or not is_closed(self.longitude(store)):
            sides += [columns[None], columns[None, ::-1]]
        if not sides:
            return None
        return np.asarray(np.minimum.reduce([np.broadcast_to(side, self.shape) for side in sides]))

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
