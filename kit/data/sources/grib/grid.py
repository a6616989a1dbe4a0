"""Where the values of a GRIB message lie, and in which order they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CURVED", "DECIMALS", "Grid", "Header", "MOST", "REGULAR", "Values", "read_curved", "read_regular"]

Values = npt.NDArray[np.float64]
REGULAR = ("regular_ll", "regular_gg")
"""Kinds of grid that are vectors of latitudes and longitudes."""
MOST = 100_000
"""Rows or columns that are believed: a damaged header may claim billions."""
DECIMALS = 6
"""GRIB 2 counts in millionths of a degree, GRIB 1 in thousandths."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Rows and columns of a message, brought into one order: rows southwards, columns eastwards.

    Attributes:
        kind: the grid's name in eccodes.
        problem: why it cannot be read; empty if it can.
        note: what was odd about the header; empty if nothing.
        latitude: of the rows, degrees, decreasing, [H]; of the points, [H, W], where rows are no parallels.
        longitude: of the columns, degrees east from the first, increasing, [W], which may pass 360 or begin below 0;
            or of the points, [H, W], in [0, 360).
        along_columns: the values come column by column.
        alternating: every second row (or column) comes backwards.
        northwards: rows come from south to north.
        westwards: columns come from east to west.
        relative: components of vectors are those along rows and columns, which are not east and north.
        cone: what turns such components: the cone's constant, and its central meridian in degrees east; None where
            they cannot be turned.
        projection: the attributes of a CF grid mapping, where they are known.
    """

    kind: str
    problem: str = ""
    note: str = ""
    latitude: Values = field(default_factory=lambda: np.empty(0))
    longitude: Values = field(default_factory=lambda: np.empty(0))
    along_columns: bool = False
    alternating: bool = False
    northwards: bool = False
    westwards: bool = False
    relative: bool = False
    cone: tuple[float, float] | None = None
    projection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def curved(self) -> bool:
        """Whether rows and columns are no parallels and meridians."""
        return self.latitude.ndim == 2

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.latitude.shape[0], self.longitude.shape[-1]

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    def arranged(self, values: Values) -> Values:
        """Bring the values of a message, [H * W] in its own order, into rows and columns, [H, W]."""
        height, width = self.shape
        lines = values.reshape((width, height) if self.along_columns else (height, width))
        if self.alternating:
            lines = lines.copy()
            lines[1::2] = lines[1::2, ::-1]
        rows = lines.T if self.along_columns else lines
        return rows[:: -1 if self.northwards else 1, :: -1 if self.westwards else 1]

    def same_points(self, other: Grid) -> bool:
        """Whether two grids have the same rows and columns, whatever the order of their values."""
        if self is other:
            return True
        pairs = ((self.latitude, other.latitude), (self.longitude, other.longitude))
        return all(a.shape == b.shape and np.abs((a - b + 180) % 360 - 180).max() < 1e-4 for a, b in pairs)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.kind} grid"
        lat, lon = self.latitude.ravel(), self.longitude.ravel()
        points = " x ".join(map(str, self.shape))
        return f"{points} points, {lat[0]:g} to {lat[-1]:g} N, {lon[0]:g} to {lon[-1]:g} E"


@dataclass(frozen=True)
class Header:
    """The keys of a message, as eccodes reads them."""

    eccodes: Any
    handle: Any

    @property
    def kind(self) -> str:
        """The grid's name."""
        return str(self.eccodes.codes_get(self.handle, "gridType"))

    def number(self, key: str) -> float | None:
        """A key's value; None where the message has none."""
        try:
            missing = self.eccodes.codes_is_missing(self.handle, key)
            return None if missing else self.eccodes.codes_get_double(self.handle, key)
        except self.eccodes.KeyValueNotFoundError:
            return None

    def latitudes(self) -> Values:
        """Those that occur, increasing."""
        return np.sort(self.eccodes.codes_get_double_array(self.handle, "distinctLatitudes"))

    def places(self) -> tuple[Values, Values] | str:
        """Latitude and longitude of every point, [H * W] each; or why eccodes does not know them."""
        try:
            found = [self.eccodes.codes_get_double_array(self.handle, key) for key in ("latitudes", "longitudes")]
        except self.eccodes.CodesInternalError as error:
            return str(error)
        return found[0], found[1]


def read_regular(header: Header, kind: str) -> Grid:
    """Read the grid of a message whose rows and columns are parallels and meridians: regular_ll or regular_gg."""
    keys = ("Ni", "Nj", "scanningMode", *(f"{a}Of{b}GridPointInDegrees" for b in ("First", "Last") for a in _ENDS))
    found = [header.number(key) for key in keys]
    if any(value is None for value in found):
        gone = ", ".join(key for key, value in zip(keys, found, strict=True) if value is None)
        return Grid(kind, problem=f"lies on a {kind} grid whose header lacks {gone}")
    columns, rows, mode, north, west, south, east = (float(value) for value in found if value is not None)
    flags = int(mode)
    if flags & 0x0F:
        return Grid(kind, problem=f"lies on a {kind} grid with shifted rows (scanning mode {flags})")
    if not (0 < rows <= MOST and 0 < columns <= MOST):
        return Grid(kind, problem=f"lies on a {kind} grid of {rows:.0f} x {columns:.0f} points, which cannot be")
    westwards, northwards = bool(flags & 0x80), bool(flags & 0x40)
    latitude = np.linspace(north, south, int(rows))
    if kind == "regular_gg":
        latitude = header.latitudes()[:: 1 if northwards else -1]
    longitude = _eastwards(*((east, west) if westwards else (west, east)), int(columns))
    problem = _contradiction(kind, latitude, longitude, int(rows), northwards)
    if not problem and (points := int(header.number("numberOfDataPoints") or 0)) != int(rows * columns):
        problem = f"lies on a {kind} grid of {int(rows)} x {int(columns)}, but its header counts {points} points"
    steps = (header.number("iDirectionIncrementInDegrees"), header.number("jDirectionIncrementInDegrees"))
    return Grid(
        kind=kind,
        problem=problem,
        note=_odd_steps(steps, latitude, longitude) if kind == "regular_ll" and not problem else "",
        latitude=np.round(latitude[::-1] if northwards else latitude, DECIMALS),
        longitude=np.round(longitude, DECIMALS),
        along_columns=bool(flags & 0x20),
        alternating=bool(flags & 0x10),
        northwards=northwards,
        westwards=westwards,
    )


_ENDS = ("latitude", "longitude")


def _eastwards(west: float, east: float, count: int) -> Values:
    """Columns of a row that goes east, across Greenwich or the date line where its end is the smaller number."""
    columns = np.linspace(west, east if east >= west else east + 360, count)
    step = columns[1] - columns[0] if count > 1 else 0.0
    if count > 1 and abs(count * step - 360) < 0.01 * step:
        # The whole circle: its step is known better than a header in thousandths of a degree can say it.
        columns = np.linspace(west, west + 360, count, endpoint=False)
    return columns


def _contradiction(kind: str, latitude: Values, longitude: Values, rows: int, northwards: bool) -> str:
    steps = np.diff(latitude) if northwards else -np.diff(latitude)
    if len(latitude) != rows:
        return f"lies on a {kind} grid of {rows} rows, but its header gives {len(latitude)} latitudes"
    if steps.size and steps.min() <= 0:
        way = "northwards" if northwards else "southwards"
        return f"has rows that go {way} by its scanning mode, but from {latitude[0]:g} to {latitude[-1]:g} degrees"
    if len(longitude) > 1 and np.diff(longitude).min() <= 0:
        return f"has {len(longitude)} columns, all at {longitude[0]:g} degrees east"
    return ""


def _odd_steps(steps: tuple[float | None, float | None], latitude: Values, longitude: Values) -> str:
    """Say so where the header's steps are not those between its ends; ends and counts say all there is to say."""
    real = tuple(float(abs(v[-1] - v[0]) / max(1, len(v) - 1)) for v in (longitude, latitude))
    said = tuple(real[i] if step is None else step for i, step in enumerate(steps))
    if all(abs(a - b) <= 1e-3 for a, b in zip(said, real, strict=True)):
        return ""
    return (
        f"a header gives steps of {said[0]:g} x {said[1]:g} degrees, its ends and counts {real[0]:g} x {real[1]:g}: "
        "ends and counts were taken"
    )


# Where the values of a GRIB message lie whose rows and columns are no parallels and meridians.

CURVED = ("lambert", "polar_stereographic", "mercator", "lambert_azimuthal_equal_area", "rotated_ll")
"""Kinds of grid whose points eccodes places, row by row."""
_NORTHWARDS = 0x40
"""Scanning mode: rows go east, one after the other to the north."""
_NEAR = 1e-2
"""Degrees between the first point that a header states and the one that is computed; GRIB 1 counts in thousandths."""
_RELATIVE = 0x08
"""Flag table 3.3 of GRIB 2, and 7 of GRIB 1: components of vectors are those along the grid's own axes."""


def read_curved(header: Header, kind: str) -> Grid:
    """Read the grid of a message from the points that eccodes computes.

    Args:
        header: of the message.
        kind: of grid, one of ``CURVED``.

    Returns:
        Latitudes and longitudes are matrices, [H, W], the northernmost row first.
    """
    found = [header.number(key) for key in ("Ni", "Nj", "scanningMode")]
    if any(value is None for value in found):
        return Grid(kind, problem=f"lies on a {kind} grid whose header does not count its rows and columns")
    columns, rows, flags = (int(value) for value in found if value is not None)
    if flags != _NORTHWARDS and (flags or kind != "rotated_ll"):
        # eccodes places the points of a projection as if their rows went east and north, whatever the header says.
        problem = f"lies on a {kind} grid in an order in which its points cannot be placed (scanning mode {flags})"
        return Grid(kind, problem=problem)
    if not (0 < rows <= MOST and 0 < columns <= MOST):
        return Grid(kind, problem=f"lies on a {kind} grid of {rows} x {columns} points, which cannot be")
    # Before any memory is taken: a damaged header may claim billions.
    if (points := int(header.number("numberOfDataPoints") or 0)) != rows * columns:
        return Grid(kind, problem=f"lies on a {kind} grid of {rows} x {columns}, but its header counts {points} points")
    placed = header.places()
    if isinstance(placed, str) or placed[0].size != rows * columns:
        why = placed if isinstance(placed, str) else f"{placed[0].size} of them for {rows} x {columns}"
        return Grid(kind, problem=f"lies on a {kind} grid whose points eccodes cannot compute ({why})")
    latitude, longitude = (values.reshape(rows, columns) for values in placed)
    northwards = flags == _NORTHWARDS
    # A rotated grid states its first point in its own, rotated degrees.
    problem = "" if kind == "rotated_ll" else _far_off(header, latitude, longitude)
    if northwards:
        latitude, longitude = latitude[::-1], longitude[::-1]
    latitude, longitude = np.round(latitude, DECIMALS), np.round(longitude, DECIMALS) % 360
    return Grid(
        kind=kind,
        problem=problem or _disorder(kind, latitude, longitude),
        latitude=latitude,
        longitude=longitude,
        northwards=northwards,
        relative=bool(int(header.number("resolutionAndComponentFlags") or 0) & _RELATIVE),
        cone=_cone(header, kind),
        projection=_projection(header, kind),
    )


def _far_off(header: Header, latitude: Values, longitude: Values) -> str:
    stated = [header.number(f"{name}OfFirstGridPointInDegrees") for name in ("latitude", "longitude")]
    computed = (float(latitude[0, 0]), float(longitude[0, 0]))
    if any(value is None for value in stated):
        return ""
    away = [abs((a - b + 180) % 360 - 180) for a, b in zip(stated, computed, strict=True) if a is not None]
    if max(away) <= _NEAR:
        return ""
    return f"begins at {stated[0]:g} N {stated[1]:g} E by its header, but at {computed[0]:g} N {computed[1]:g} E"


def _disorder(kind: str, latitude: Values, longitude: Values) -> str:
    """Why points have no order that the store could keep, if so: upstream's model asks for it."""
    eastwards = np.diff(longitude, axis=1) > 0
    if not eastwards.all():
        row, column = map(int, np.argwhere(~eastwards)[0])
        before, after = longitude[row, column], longitude[row, column + 1]
        crosses = "crosses Greenwich" if before > 270 and after < 90 else "has columns that do not go east throughout"
        return f"lies on a {kind} grid that {crosses} ({before:g} E, then {after:g} E in row {row})"
    southwards = np.diff(latitude, axis=0) < 0
    if not southwards.all():
        row, column = map(int, np.argwhere(~southwards)[0])
        found = f"{latitude[row, column]:g} N, then {latitude[row + 1, column]:g} N in column {column}"
        return f"lies on a {kind} grid whose rows do not follow each other southwards throughout ({found})"
    return ""


def _cone(header: Header, kind: str) -> tuple[float, float] | None:
    """The cone that winds are turned by: its constant, and its central meridian in degrees east.

    Snyder, Map Projections - A Working Manual (USGS Professional Paper 1395, 1987): eq. 15-3 of a sphere, for one
    standard parallel its sine; a polar stereographic grid is the cone of constant 1 around its pole.
    """
    if kind == "mercator":
        return (0.0, 0.0) if not header.number("orientationOfTheGridInDegrees") else None
    if kind == "polar_stereographic":
        meridian = header.number("orientationOfTheGridInDegrees")
        south = bool(int(header.number("projectionCentreFlag") or 0) & 0x80)
        return None if meridian is None else (-1.0 if south else 1.0, meridian)
    parallels, meridian = _parallels(header), header.number("LoVInDegrees")
    if kind != "lambert" or len(parallels) != 2 or meridian is None:
        return None
    one, two = map(math.radians, parallels)
    if abs(one - two) < 1e-9:
        return math.sin(one), meridian
    tangents = [math.tan(math.pi / 4 + angle / 2) for angle in (one, two)]
    return math.log(math.cos(one) / math.cos(two)) / math.log(tangents[1] / tangents[0]), meridian


def _parallels(header: Header) -> list[float]:
    found = [header.number(f"Latin{index}InDegrees") for index in (1, 2)]
    return [value for value in found if value is not None]


def _projection(header: Header, kind: str) -> dict[str, Any]:
    """The attributes of a CF grid mapping (CF conventions, appendix F); empty where they are not known whole."""
    radius, meridian = header.number("radius"), header.number("LoVInDegrees")
    if kind != "lambert" or radius is None or radius <= 0 or meridian is None:
        return {}
    parallels = list(dict.fromkeys(_parallels(header)))
    origin = header.number("LaDInDegrees")
    return {
        "grid_mapping_name": "lambert_conformal_conic",
        "standard_parallel": parallels[0] if len(parallels) == 1 else parallels,
        "longitude_of_central_meridian": meridian,
        "latitude_of_projection_origin": parallels[0] if origin is None else origin,
        "earth_radius": radius,
    }
