"""A grid as it is drawn: in one piece, in a projection that suits it, with its edges, degrees and coasts.

Dimensions: H latitude, W longitude; M columns as they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Polygon
from matplotlib.ticker import MaxNLocator

from kit.data.grid import area_weights, continuous, corners, edges
from kit.plots.coastlines import earth_lines
from kit.plots.projections import GridPlane, PolarEqualArea, Projection, Robinson, suitable_projection
from kit.plots.styles import GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]

_WIDE = 100.0
"""Degrees of longitude from which on a map is drawn with the coarse coasts."""
_SAMPLES = 91
"""Points of a meridian or parallel."""
_BEYOND = 3.0
"""Degrees around a map in which lines are kept, so that they reach its edge."""


@dataclass(frozen=True)
class MapGrid:
    """A grid in a plane.

    Attributes:
        projection: Map from degrees to the plane.
        columns_M: Columns of the grid in the order in which they are drawn, from west to east; on a whole circle the
            column at 180 degrees may be drawn in two halves.
        longitude, latitude: Degrees of the cells' corners, [H + 1, M + 1]; longitudes without a jump, the middle of the
            map between -180 and 180.
        x, y: The same in the plane.
        centres: Coordinates of the cells' centres in the plane, each [H, M].
        weights_HW: Area of each cell, of mean 1; [H, 1] where rows are parallels.
    """

    projection: Projection
    columns_M: Array
    longitude: Array
    latitude: Array
    x: Array
    y: Array
    centres: tuple[Array, Array]
    weights_HW: Array

    @classmethod
    def of(cls, latitude: Array, longitude: Array) -> MapGrid:
        """Lay out a grid.

        Args:
            latitude: Degrees north, strictly decreasing, [H]; or of every point, [H, W].
            longitude: Degrees east, each one east of the one before, [W] or [H, W].
        """
        latitude = np.asarray(latitude, dtype=np.float64)
        longitude = np.asarray(longitude, dtype=np.float64)
        if latitude.ndim == 2:
            return cls._of_matrices(latitude, longitude)
        unrolled, columns, west_to_east, closed = _in_one_piece(longitude)
        north_to_south = np.clip(edges(latitude), -90, 90)
        west, east, south, north = (float(value) for value in (*west_to_east[[0, -1]], *north_to_south[[-1, 0]]))
        projection = suitable_projection(west, south, east, north, closed=closed)
        corner_longitude, corner_latitude = np.meshgrid(west_to_east, north_to_south)
        return cls(
            projection,
            columns,
            corner_longitude,
            corner_latitude,
            *projection(corner_longitude, corner_latitude),
            projection(*np.meshgrid(unrolled, latitude)),
            area_weights(latitude)[:, None],
        )

    @classmethod
    def _of_matrices(cls, latitude: Array, longitude: Array) -> MapGrid:
        weights_HW = area_weights(latitude, longitude)
        plane = GridPlane(latitude, longitude)
        height, width = latitude.shape
        # Neighbours are less than half a turn apart.
        unrolled = np.unwrap(np.unwrap(longitude, period=360, axis=1), period=360, axis=0)
        unrolled -= 360 * np.round(unrolled.mean() / 360)
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        corner_rows, corner_columns = np.meshgrid(np.arange(height + 1), np.arange(width + 1), indexing="ij")
        return cls(
            plane,
            np.arange(width),
            corners(unrolled),
            corners(latitude),
            *plane.at(corner_rows - 0.5, corner_columns - 0.5),
            plane.at(rows, columns),
            weights_HW,
        )

    @property
    def height_per_width(self) -> float:
        """Shape of the map."""
        return float(np.ptp(self.y) / np.ptp(self.x))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """West, south, east and north in degrees."""
        return (
            float(self.longitude.min()),
            float(self.latitude.min()),
            float(self.longitude.max()),
            float(self.latitude.max()),
        )

    def outlines(self, rows: slice, columns: slice) -> list[Array]:
        """Return closed lines around a box of the grid, [N, 2]: one, or two where it is drawn in two pieces."""
        height, width = self.x.shape[0] - 1, int(self.columns_M.max()) + 1
        top, bottom, _ = rows.indices(height)
        first, last, _ = columns.indices(width)
        inside = (self.columns_M >= first) & (self.columns_M < last)
        found = []
        for west, east in np.flatnonzero(np.diff(inside, prepend=False, append=False)).reshape(-1, 2):
            box = np.stack([self.x, self.y], -1)[top : bottom + 1, west : east + 1]
            found.append(np.concatenate([box[0], box[1:, -1], box[-1, -2::-1], box[-2::-1, 0]]))
        return found

    def draw_earth(self, axes: Axes) -> None:
        """Draw coasts and borders of the Earth."""
        west, south, east, north = self.box
        scale = "110m" if east - west > _WIDE else "50m"
        for kind, width, alpha in (("borders", 0.45, 0.6), ("coasts", 0.7, 1.0)):
            beyond = west - _BEYOND, south - _BEYOND, east + _BEYOND, north + _BEYOND
            lines = earth_lines(kind, scale).within(*beyond)
            axes.plot(
                *self.projection(lines.longitude, lines.latitude),
                color=INK,
                linewidth=width,
                alpha=alpha,
                label=f"_{kind}",
                clip_path=self._clip(axes),
            )

    def draw_mask(self, axes: Axes, mask_HW: Array) -> None:
        """Draw the outline of land by a mask: what is no Earth has other coasts."""
        # Only where there is a coast: matplotlib warns of a contour outside the data.
        if np.nanmin(mask_HW) < 0.5 < np.nanmax(mask_HW):
            mask = np.ma.masked_invalid(mask_HW[:, self.columns_M])
            axes.contour(*self.centres, mask, levels=[0.5], colors=[INK], linewidths=0.7)

    def _clip(self, axes: Axes) -> Polygon | None:
        """Return the edge of a map that is no rectangle, to cut lines off at; axes cut them off at any other."""
        if self.projection.rectangular:
            return None
        everything = slice(None), slice(None)
        return Polygon(self.outlines(*everything)[0], transform=axes.transData)

    def draw_frame(self, axes: Axes, *, below: bool, left: bool) -> None:
        """Draw meridians, parallels and the edge of the map.

        Args:
            axes: Axes of one map.
            below: Whether degrees of longitude are written.
            left: Whether degrees of latitude are written.
        """
        axes.set_aspect("equal")
        west, south, east, north = self.box
        # Meridians are named where they leave the map at its lower edge, parallels where they leave it at its left one;
        # around the South Pole the outer edge is the upper one.
        row = 0 if self.projection == PolarEqualArea(-90.0) else -1
        edge_longitude, edge_latitude = self.longitude[row], self.latitude[::-1, 0]
        meridians = _round_degrees(edge_longitude, west, east)
        parallels = _round_degrees(edge_latitude, south, north)
        if not self.projection.rectangular:
            # Poles are points or edges, and on a whole circle the map begins and ends at 180 degrees.
            parallels = parallels[np.abs(parallels) < 90]
            meridians = meridians[meridians > -180]
        if isinstance(self.projection, PolarEqualArea):
            room = 0.1 * (north - south)
            parallels = parallels[(parallels > south + room) & (parallels < north - room)]
        elif isinstance(self.projection, Robinson):
            meridians = meridians[meridians < 180]
        line: dict[str, Any] = {"color": GREY, "linewidth": 0.4, "alpha": 0.7, "label": "_degrees"}
        for meridian in meridians:
            axes.plot(*self.projection(np.full(_SAMPLES, meridian), np.linspace(south, north, _SAMPLES)), **line)
        for parallel in parallels:
            axes.plot(*self.projection(np.linspace(west, east, _SAMPLES), np.full(_SAMPLES, parallel)), **line)
        below_at = meridians[(meridians >= edge_longitude[0]) & (meridians <= edge_longitude[-1])]
        left_at = parallels[(parallels >= edge_latitude[0]) & (parallels <= edge_latitude[-1])]
        below_xy = [np.interp(below_at, edge_longitude, edge[row]) for edge in (self.x, self.y)]
        left_xy = [np.interp(left_at, edge_latitude, edge[::-1, 0]) for edge in (self.x, self.y)]
        if isinstance(self.projection, PolarEqualArea):
            # At the top of the map its title stands.
            below_at = below_at[below_xy[1] < 0.99 * self.y.max()]
            below_xy = [np.interp(below_at, edge_longitude, edge[row]) for edge in (self.x, self.y)]
        below_text = [degrees_text(value, ("E", "W")) for value in below_at if below]
        left_text = [degrees_text(value, ("N", "S")) for value in left_at if left]
        axes.set_xlim(float(self.x.min()), float(self.x.max()))
        axes.set_ylim(float(self.y.min()), float(self.y.max()))
        if self.projection.rectangular:
            axes.set_xticks(below_xy[0], below_text or [""] * len(below_at))
            axes.set_yticks(left_xy[1], left_text or [""] * len(left_at))
            axes.tick_params(labelsize=8, color=GREY, labelcolor=INK, bottom=below, left=left)
            for spine in axes.spines.values():
                spine.set(color=GREY, linewidth=0.6)
            return
        axes.axis("off")
        edge = self._clip(axes)
        assert edge is not None
        edge.set(facecolor="none", edgecolor=GREY, linewidth=0.6, clip_on=False)
        axes.add_patch(edge)
        self._write(axes, below_xy, below_text)
        self._write(axes, left_xy, left_text)

    def _write(self, axes: Axes, places: list[Array], texts: list[str]) -> None:
        """Write degrees outside of an edge that is no straight line."""
        middle = (self.x.max() + self.x.min()) / 2, (self.y.max() + self.y.min()) / 2
        for place_x, place_y, text in zip(*places, texts, strict=False):
            away = np.array([place_x - middle[0], place_y - middle[1]])
            away /= np.hypot(*away) or 1.0
            beside, above = (np.sign(np.round(part)) for part in away)
            axes.annotate(
                text,
                (place_x, place_y),
                xytext=tuple(4 * away),
                textcoords="offset points",
                ha={-1.0: "right", 0.0: "center", 1.0: "left"}[float(beside)],
                va={-1.0: "top", 0.0: "center", 1.0: "bottom"}[float(above)],
                fontsize=8,
                color=INK,
                annotation_clip=False,
            )


def _in_one_piece(longitude_W: Array) -> tuple[Array, Array, Array, bool]:
    """Begin after the widest gap between longitudes: a box across Greenwich stays in one piece.

    Returns:
        Longitudes and numbers of the columns as they are drawn, [M]; edges of the columns, [M + 1]; and whether they go
        around the whole circle.
    """
    longitude_W = continuous(longitude_W)
    gaps = np.diff(longitude_W, append=longitude_W[0] + 360)
    widest = int(np.argmax(gaps))
    closed = len(gaps) > 1 and bool(gaps[widest] <= 1.5 * np.median(gaps))
    # A map of the whole circle has Greenwich in its middle.
    first = int(np.sum(longitude_W < 180)) if closed else widest + 1
    first %= len(longitude_W)
    columns = np.roll(np.arange(len(longitude_W)), -first)
    unrolled = np.where((columns >= first) & (first > 0), longitude_W[columns] - 360, longitude_W[columns])
    if not closed:
        # The middle of the map lies in the circle from -180 to 180, whatever 0 to 360 would make of it.
        unrolled = unrolled - 360 * np.round((unrolled[0] + unrolled[-1]) / 720)
        return unrolled, columns, edges(unrolled), False
    if edges(unrolled)[0] < -180:
        # The cell that the meridian of 180 degrees runs through is drawn on both sides of it.
        unrolled, columns = np.append(unrolled, unrolled[0] + 360), np.append(columns, columns[0])
    elif edges(unrolled)[-1] > 180:
        unrolled, columns = np.insert(unrolled, 0, unrolled[-1] - 360), np.insert(columns, 0, columns[-1])
    return unrolled, columns, np.clip(edges(unrolled), -180, 180), True


def _round_degrees(edge: Array, first: float, last: float) -> Array:
    """Choose round degrees between two, about four of them along an edge of the map."""
    # Of a wide map multiples of 30, 45, 60 or 90 degrees are what a reader expects.
    steps = [1, 3, 4.5, 6, 9, 10] if np.ptp(edge) > 60 else [1, 2, 2.5, 5, 10]
    ticks = MaxNLocator(4, steps=steps).tick_values(float(edge.min()), float(edge.max()))
    step = ticks[1] - ticks[0]
    return np.asarray(step * np.arange(np.ceil(first / step - 1e-9), np.floor(last / step + 1e-9) + 1))


def degrees_text(value: float, hemispheres: tuple[str, str]) -> str:
    """Write degrees as ``10°W``; east of 180 degrees is west."""
    if hemispheres == ("E", "W"):
        value = (value + 180) % 360 - 180
    positive, negative = hemispheres
    # The equator and the two meridians are in neither hemisphere.
    if value == 0 or abs(value) == 180:
        return f"{abs(value):.4g}°"
    return f"{abs(value):.4g}°{positive if value > 0 else negative}"
