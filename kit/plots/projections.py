"""Map projections of a sphere of radius 1: those that suit a globe, a pole, a region, and a curvilinear grid.

Own formulas, because matplotlib has none of these and pyproj is no package that every user has; tests hold them
against pyproj.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree

Array = npt.NDArray[np.float64]

# Robinson, The American Cartographer 1 (1974), table 1: lengths of parallels and their distances from the equator,
# every 5 degrees from 0 to 90.
_LENGTHS = (
    1.0, 0.9986, 0.9954, 0.99, 0.9822, 0.973, 0.96, 0.9427, 0.9216, 0.8962, 0.8679, 0.835, 0.7986, 0.7597, 0.7186,
    0.6732, 0.6213, 0.5722, 0.5322,
)  # fmt: skip
_DISTANCES = (
    0.0, 0.062, 0.124, 0.186, 0.248, 0.31, 0.372, 0.434, 0.4958, 0.5571, 0.6176, 0.6769, 0.7346, 0.7903, 0.8435,
    0.8936, 0.9394, 0.9761, 1.0,
)  # fmt: skip
_TABLE = np.arange(-90, 91, 5)
_MOST_STRETCHED = 1.5
"""Most that a flat map of a region may stretch its poleward edge over its other one; beyond it a cone suits better."""


_MARGIN = 2
"""Cells around a curvilinear grid in which places are still found, for lines that lead out of it."""


class Projection(Protocol):
    """Map from longitudes and latitudes in degrees to a plane."""

    rectangular: bool
    """Whether the edges of a grid are the sides of a rectangle, so that they can be axes."""

    def __call__(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Return x eastwards and y northwards; NaN where a place is not on the map."""


@dataclass(frozen=True)
class Equirectangular:
    """Parallels and meridians as straight lines, at true shape on one parallel (Snyder 1987, 12-1 and 12-2).

    Attributes:
        parallel: Degrees north at which shapes are true.
    """

    parallel: float = 0.0
    rectangular = True

    def __call__(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Return x eastwards and y northwards."""
        return np.radians(longitude) * np.cos(np.radians(self.parallel)), np.radians(latitude)


@dataclass(frozen=True)
class Robinson:
    """The whole globe, neither equal in area nor in angle (Robinson 1974); splines between the table's parallels."""

    rectangular = False

    def __call__(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Return x eastwards and y northwards."""
        lengths = CubicSpline(_TABLE, [*_LENGTHS[:0:-1], *_LENGTHS])
        distances = CubicSpline(_TABLE, [*(-np.array(_DISTANCES[:0:-1])), *_DISTANCES])
        return 0.8487 * lengths(latitude) * np.radians(longitude), 1.3523 * distances(latitude)


@dataclass(frozen=True)
class PolarEqualArea:
    """Lambert's azimuthal equal-area projection around a pole (Snyder 1987, 24-3 to 24-14).

    Attributes:
        pole: 90 or -90 degrees north; the meridian of Greenwich points down from the north pole, up from the south.
    """

    pole: float
    rectangular = False

    def __call__(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Return x and y."""
        side = np.sign(self.pole)
        radius = 2 * np.sin(np.pi / 4 - side * np.radians(latitude) / 2)
        return radius * np.sin(np.radians(longitude)), -side * radius * np.cos(np.radians(longitude))


@dataclass(frozen=True)
class LambertConformal:
    """A cone through two parallels, true in angle (Snyder 1987, 15-1 to 15-5).

    Attributes:
        parallels: Degrees north of the two parallels of true scale, both on one side of the equator.
        origin: Degrees north of the parallel, and degrees east of the meridian, that meet at x = y = 0.
    """

    parallels: tuple[float, float]
    origin: tuple[float, float]
    rectangular = False

    def __call__(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Return x eastwards and y northwards."""
        first, second = np.radians(self.parallels)
        tangents = np.tan(np.pi / 4 + first / 2), np.tan(np.pi / 4 + second / 2)
        cone = np.sin(first)
        if first != second:
            cone = np.log(np.cos(first) / np.cos(second)) / np.log(tangents[1] / tangents[0])
        scale = np.cos(first) * tangents[0] ** cone / cone
        radius, middle = (
            scale / np.tan(np.pi / 4 + np.radians(each) / 2) ** cone for each in (latitude, self.origin[0])
        )
        angle = cone * np.radians(np.asarray(longitude) - self.origin[1])
        return radius * np.sin(angle), middle - radius * np.cos(angle)


class GridPlane:
    """Plane in which a curvilinear grid's own rows and columns are straight, as in the projection that it was made in.

    Its unit is the distance of columns. No formula is needed: a place is found among the grid's points.
    """

    rectangular = True

    def __init__(self, latitude_HW: Array, longitude_HW: Array) -> None:
        points = _unit_vectors(longitude_HW, latitude_HW)
        self._shape = latitude_HW.shape
        self._step = max(1, int(np.sqrt(latitude_HW.size / 40_000)))
        along_rows, along_columns = (np.linalg.norm(np.diff(points, axis=axis), axis=0) for axis in (2, 1))
        self.row_distance = float(np.median(along_columns) / np.median(along_rows))
        """Distance of rows over distance of columns."""
        # The grid goes on beyond its edges as it ends there, so that a line that leaves it is not bent.
        self._points = np.pad(points, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)), "reflect", reflect_type="odd")

    def at(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        """Return x and y of points by their numbers in the grid, fractions included."""
        return np.asarray(columns, dtype=np.float64), -self.row_distance * np.asarray(rows, dtype=np.float64)

    def __call__(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> tuple[Array, Array]:
        """Return x along rows and y against columns; NaN for places more than two cells outside the grid."""
        longitude, latitude = np.broadcast_arrays(*np.atleast_1d(longitude, latitude))
        places = _unit_vectors(longitude, latitude)
        known = np.isfinite(places).all(0)
        position = np.full((2, *longitude.shape), np.nan)
        if known.any():
            position[:, known] = self._find(places[:, known])
        outside = np.zeros(longitude.shape, dtype=bool)
        for numbers, count in zip(position, self._shape, strict=True):
            outside |= ~((numbers >= -_MARGIN) & (numbers <= count - 1 + _MARGIN))
        position[:, outside] = np.nan
        return self.at(*position)

    def _find(self, places: Array) -> Array:
        """Find row and column of unit vectors, [3, N], by Newton's method from the nearest of some points on."""
        step = self._step
        thinned = self._points[:, _MARGIN:-_MARGIN:step, _MARGIN:-_MARGIN:step]
        _, nearest = KDTree(thinned.reshape(3, -1).T).query(places.T)
        position = step * np.array(np.unravel_index(nearest, thinned.shape[1:]), dtype=np.float64)
        half = np.array([[0.5], [0.0]])
        for _ in range(8):
            down = self._interpolated(position + half) - self._interpolated(position - half)
            along = self._interpolated(position + half[::-1]) - self._interpolated(position - half[::-1])
            missing = places - self._interpolated(position)
            # Least squares for two unknowns in three equations.
            dd, da, aa = (down**2).sum(0), (down * along).sum(0), (along**2).sum(0)
            dm, am = (down * missing).sum(0), (along * missing).sum(0)
            determinant = dd * aa - da**2
            with np.errstate(divide="ignore", invalid="ignore"):
                change = np.array([aa * dm - da * am, dd * am - da * dm]) / determinant
            position = position + np.nan_to_num(np.clip(change, -2 * step - 2, 2 * step + 2))
        return position

    def _interpolated(self, position: Array) -> Array:
        return np.stack([map_coordinates(part, position + _MARGIN, order=1, mode="nearest") for part in self._points])


def _unit_vectors(longitude: Array, latitude: Array) -> Array:
    """Return points on the sphere in space, [3, ...]."""
    east, north = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])


def suitable_projection(west: float, south: float, east: float, north: float, *, closed: bool) -> Projection:
    """Choose the projection for a box of degrees.

    Args:
        west: Degrees east of the western edge.
        south: Degrees north of the southern edge.
        east: Degrees east of the eastern edge.
        north: Degrees north of the northern edge.
        closed: Whether the box goes around the whole circle.

    Returns:
        Robinson's for a globe, equal area around a pole for a cap, a cone where a flat map would stretch one edge far
        beyond the other, and a flat map for anything else.
    """
    if closed and north - south > 120:
        return Robinson()
    for pole, poleward, other in ((90.0, north, south), (-90.0, -south, -north)):
        if closed and poleward > 85 and other >= 0:
            return PolarEqualArea(pole)
    middle = (south + north) / 2
    widths = np.cos(np.radians([south, north]))
    one_side = south > 0 or north < 0
    if one_side and east - west <= 180 and widths.max() > _MOST_STRETCHED * widths.min() and max(north, -south) < 88:
        # Parallels a sixth within either edge: the usual choice (Snyder 1987, page 105).
        sixth = (north - south) / 6
        return LambertConformal((south + sixth, north - sixth), (middle, (west + east) / 2))
    # No middle stands for a map that reaches from one side far into the other.
    return Equirectangular(0.0 if north - south > 120 else float(np.clip(middle, -75, 75)))
