"""Grids of GRIB messages: where the values lie, and in which order they come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.sources.projections import mapping_of_grib

Values = npt.NDArray[np.float64]
_REGULAR = ("regular_ll", "regular_gg")
"""Kinds of grid that are vectors of latitudes and longitudes."""
_CURVED = ("lambert", "polar_stereographic", "mercator", "lambert_azimuthal_equal_area", "rotated_ll")
"""Kinds of grid whose points eccodes places, row by row."""
_MAX_SIDE = 100_000
"""Rows or columns that are believed: a damaged header may claim billions."""
_MAX_PARALLELS = 4000
"""Parallels between a pole and the equator of a Gaussian grid that are believed; ECMWF's finest has 2560."""
_DECIMALS = 6
"""GRIB 2 counts in millionths of a degree, GRIB 1 in thousandths."""
_NORTHWARDS = 0x40
"""Scanning mode: rows go east, one after the other to the north."""
_LATITUDES = (
    "latitudeOfFirstGridPoint", "latitudeOfLastGridPoint", "latitudeOfSouthernPole", "LaD", "Latin1", "Latin2",
    "standardParallel",
)  # fmt: skip
"""Keys of latitudes by which projections are defined."""
_NEAR = 1e-2
"""Degrees between the first point that a header states and the one that is computed; GRIB 1 counts in thousandths."""
_RELATIVE = 0x08
"""Flag table 3.3 of GRIB 2, and 7 of GRIB 1: components of vectors are those along the grid's own axes."""


@dataclass(frozen=True, eq=False)
class GribGrid:
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
        cone: what turns such components on a cone: its constant, and its central meridian in degrees east; None of
            other projections.
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
        return math.prod(self.shape)

    def arrange(self, values: Values) -> Values:
        """Bring the values of a message, [H * W] in its own order, into rows and columns, [H, W]."""
        height, width = self.shape
        lines = values.reshape((width, height) if self.along_columns else (height, width))
        if self.alternating:
            # The caller's values stay as they are.
            lines = lines.copy()
            lines[1::2] = lines[1::2, ::-1]
        if self.along_columns:
            lines = lines.T
        if self.northwards:
            lines = lines[::-1]
        if self.westwards:
            lines = lines[:, ::-1]
        return lines

    def same_points(self, other: GribGrid) -> bool:
        """Whether two grids have the same rows and columns, whatever the order of their values."""
        if self is other:
            return True
        # Around the circle: 360 and 0 degrees are the same.
        pairs = ((self.latitude, other.latitude), (self.longitude, other.longitude))
        return all(a.shape == b.shape and np.abs((a - b + 180) % 360 - 180).max() < 1e-4 for a, b in pairs)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.kind} grid"
        lat, lon = self.latitude.ravel(), self.longitude.ravel()
        points = " x ".join(map(str, self.shape))
        return f"{points} points, {lat[0]:g} to {lat[-1]:g} N, {lon[0]:g} to {lon[-1]:g} E"


@dataclass(frozen=True)
class _Header:
    """The keys of a message, as eccodes reads them."""

    eccodes: Any
    handle: Any

    def number(self, key: str, default: float = math.nan) -> float:
        """Read a key's value; ``default`` where the message has none."""
        try:
            if self.eccodes.codes_is_missing(self.handle, key):
                return default
            return float(self.eccodes.codes_get_double(self.handle, key))
        except self.eccodes.KeyValueNotFoundError:
            return default


def read_grid(eccodes: Any, handle: Any) -> GribGrid:
    """Read the grid of a message; one that cannot be read says why in its ``problem``.

    Args:
        eccodes: The library.
        handle: Its handle of the message's headers.

    Returns:
        The grid; of kinds that are curved, latitudes and longitudes are matrices, [H, W].
    """
    header, kind = _Header(eccodes, handle), str(eccodes.codes_get(handle, "gridType"))
    if kind in _REGULAR:
        return _read_regular(header, kind)
    if kind in _CURVED:
        return _read_curved(header, kind)
    return GribGrid(kind, problem=f"lies on a {kind} grid")


def _read_regular(header: _Header, kind: str) -> GribGrid:
    """Read a grid whose rows and columns are parallels and meridians."""
    ends = [f"{axis}Of{end}GridPointInDegrees" for end in ("First", "Last") for axis in ("latitude", "longitude")]
    keys = np.array(["Ni", "Nj", "scanningMode", *ends])
    found = np.array(list(map(header.number, keys)))
    if np.isnan(found).any():
        gone = ", ".join(keys[np.isnan(found)])
        return GribGrid(kind, problem=f"lies on a {kind} grid whose header lacks {gone}")
    columns, rows, mode, north, west, south, east = found.tolist()
    flags = int(mode)
    # The lower half of the flags shifts rows or columns against each other (flag table 3.4 of GRIB 2).
    if flags & 0x0F:
        return GribGrid(kind, problem=f"lies on a {kind} grid with shifted rows (scanning mode {flags})")
    # Before any memory is taken.
    if not (0 < rows <= _MAX_SIDE and 0 < columns <= _MAX_SIDE):
        return GribGrid(kind, problem=f"lies on a {kind} grid of {rows:.0f} x {columns:.0f} points, which cannot be")
    westwards, northwards = bool(flags & 0x80), bool(flags & 0x40)
    # Ends and counts place every point; increments only repeat it, and many writers get them wrong.
    latitude: Values = np.linspace(north, south, int(rows))
    if kind == "regular_gg":
        parallels = header.number("N")
        latitude = _gaussian_rows(parallels, north, south)
        if not latitude.size:
            problem = (
                f"lies on a {kind} grid with {parallels:g} parallels between a pole and the equator, and ends at "
                f"{north:g} and {south:g} degrees, which are not among them"
            )
            return GribGrid(kind, problem=problem)
    if westwards:
        west, east = east, west
    longitude = _columns_eastwards(west, east, int(columns))
    problem = _contradiction(kind, latitude, longitude, int(rows), northwards)
    points = int(header.number("numberOfDataPoints", 0))
    if not problem and points != int(rows * columns):
        problem = f"lies on a {kind} grid of {int(rows)} x {int(columns)}, but its header counts {points} points"
    note = ""
    if kind == "regular_ll" and not problem:
        note = _odd_increments(header, latitude, longitude)
    if northwards:
        latitude = latitude[::-1]
    return GribGrid(
        kind=kind,
        problem=problem,
        note=note,
        latitude=np.round(latitude, _DECIMALS),
        longitude=np.round(longitude, _DECIMALS),
        along_columns=bool(flags & 0x20),
        alternating=bool(flags & 0x10),
        northwards=northwards,
        westwards=westwards,
    )


def _gaussian_rows(parallels: float, first: float, last: float) -> Values:
    """Compute Gaussian latitudes from the first to the last, in this order; none where one of these is no such.

    They are the arcsines of the roots of the Legendre polynomial of twice the number of parallels between a pole and
    the equator (WMO FM 92 GRIB, note on Gaussian grids). eccodes crashes on headers that contradict themselves here.
    """
    if not 0 < parallels <= _MAX_PARALLELS:
        return np.empty(0)
    # Most files lie on other grids.
    from scipy.special import roots_legendre

    roots, _ = roots_legendre(2 * int(parallels))
    latitudes = np.degrees(np.arcsin(roots))
    start, stop = (int(np.abs(latitudes - end).argmin()) for end in (first, last))
    away = max(abs(latitudes[start] - first), abs(latitudes[stop] - last))
    if away > _NEAR:
        return np.empty(0)
    if start <= stop:
        return np.asarray(latitudes[start : stop + 1])
    return np.asarray(latitudes[stop : start + 1][::-1])


def _columns_eastwards(west: float, east: float, count: int) -> Values:
    """Place the columns of a row that goes east, across Greenwich or the date line where it ends at less."""
    if east < west:
        east += 360
    columns = np.linspace(west, east, count)
    step = np.ptp(columns[:2])
    # The whole circle: its step is known better than a header in thousandths of a degree can say it.
    if abs(count * step - 360) < 0.01 * step:
        return np.linspace(west, west + 360, count, endpoint=False)
    return columns


def _contradiction(kind: str, latitude: Values, longitude: Values, rows: int, northwards: bool) -> str:
    """Say where a header contradicts itself; empty if it does not."""
    steps, order = -np.diff(latitude), "southwards"
    if northwards:
        steps, order = -steps, "northwards"
    if len(latitude) != rows:
        return f"lies on a {kind} grid of {rows} rows, but its header gives {len(latitude)} latitudes"
    # The rows could lie either way: by the scanning mode, or by the ends.
    if steps.size and steps.min() <= 0:
        return f"has rows that go {order} by its scanning mode, but from {latitude[0]:g} to {latitude[-1]:g} degrees"
    if len(longitude) > 1 and np.diff(longitude).min() <= 0:
        return f"has {len(longitude)} columns, all at {longitude[0]:g} degrees east"
    return ""


def _odd_increments(header: _Header, latitude: Values, longitude: Values) -> str:
    """Say where the header's increments are not those between its ends; empty if they are."""
    real = [float(np.ptp(side)) / max(1, len(side) - 1) for side in (longitude, latitude)]
    # An increment that is not stated is not odd.
    stated = [header.number(f"{side}DirectionIncrementInDegrees", step) for side, step in zip("ij", real, strict=True)]
    if np.abs(np.subtract(stated, real)).max() <= 1e-3:
        return ""
    return (
        f"a header gives steps of {stated[0]:g} x {stated[1]:g} degrees, its ends and counts {real[0]:g} x "
        f"{real[1]:g}: ends and counts were taken"
    )


def _read_curved(header: _Header, kind: str) -> GribGrid:
    """Read a grid from the points that eccodes computes, [H, W], the northernmost row first."""
    found = list(map(header.number, ("Ni", "Nj", "scanningMode")))
    if np.isnan(found).any():
        return GribGrid(kind, problem=f"lies on a {kind} grid whose header does not count its rows and columns")
    columns, rows, flags = map(int, found)
    if flags != _NORTHWARDS and (flags or kind != "rotated_ll"):
        # eccodes places the points of a projection as if their rows went east and north, whatever the header says.
        problem = f"lies on a {kind} grid in an order in which its points cannot be placed (scanning mode {flags})"
        return GribGrid(kind, problem=problem)
    if not (0 < rows <= _MAX_SIDE and 0 < columns <= _MAX_SIDE):
        return GribGrid(kind, problem=f"lies on a {kind} grid of {rows} x {columns} points, which cannot be")
    # Before any memory is taken: a damaged header may claim billions.
    if (points := int(header.number("numberOfDataPoints", 0))) != rows * columns:
        return GribGrid(
            kind, problem=f"lies on a {kind} grid of {rows} x {columns}, but its header counts {points} points"
        )
    unplaced = f"lies on a {kind} grid whose points eccodes cannot compute"
    # eccodes frees memory twice where it finds this itself (2.50, Mercator).
    for key in _LATITUDES:
        stated = header.number(f"{key}InDegrees", 0)
        if abs(stated) > 90:
            return GribGrid(kind, problem=f"{unplaced} ({key} is {stated:g} degrees)")
    try:
        latitude = header.eccodes.codes_get_double_array(header.handle, "latitudes")
        longitude = header.eccodes.codes_get_double_array(header.handle, "longitudes")
    except header.eccodes.CodesInternalError as error:
        return GribGrid(kind, problem=f"{unplaced} ({error})")
    if latitude.size != rows * columns:
        return GribGrid(kind, problem=f"{unplaced} ({latitude.size} of them for {rows} x {columns})")
    latitude, longitude = latitude.reshape(rows, columns), longitude.reshape(rows, columns)
    # A rotated grid states its first point in its own, rotated degrees.
    problem = ""
    if kind != "rotated_ll":
        problem = _wrong_start(header, latitude[0, 0], longitude[0, 0])
    if flags == _NORTHWARDS:
        latitude, longitude = latitude[::-1], longitude[::-1]
    latitude, longitude = np.round(latitude, _DECIMALS), np.round(longitude, _DECIMALS) % 360
    cone, projection = _projection(header, kind)
    return GribGrid(
        kind=kind,
        problem=problem or _disorder(kind, latitude, longitude),
        latitude=latitude,
        longitude=longitude,
        northwards=flags == _NORTHWARDS,
        relative=bool(int(header.number("resolutionAndComponentFlags", 0)) & _RELATIVE),
        cone=cone,
        projection=projection,
    )


def _wrong_start(header: _Header, latitude: float, longitude: float) -> str:
    """Say where the first point of a header is not the computed one; empty if it is, or is not stated."""
    north = header.number("latitudeOfFirstGridPointInDegrees")
    east = header.number("longitudeOfFirstGridPointInDegrees")
    away = np.abs((np.array([north - latitude, east - longitude]) + 180) % 360 - 180)
    if math.isnan(north + east) or away.max() <= _NEAR:
        return ""
    return f"begins at {north:g} N {east:g} E by its header, but at {latitude:g} N {longitude:g} E"


def _disorder(kind: str, latitude: Values, longitude: Values) -> str:
    """Say why points have no order that the store could keep: upstream's model asks for one; empty if they have."""
    eastwards = np.diff(longitude, axis=1) > 0
    if not eastwards.all():
        row, column = np.argwhere(~eastwards)[0]
        before, after = longitude[row, column], longitude[row, column + 1]
        crosses = before > 270 and after < 90
        order = "crosses Greenwich" if crosses else "has columns that do not go east throughout"
        return f"lies on a {kind} grid that {order} ({before:g} E, then {after:g} E in row {row})"
    southwards = np.diff(latitude, axis=0) < 0
    if not southwards.all():
        row, column = np.argwhere(~southwards)[0]
        found = f"{latitude[row, column]:g} N, then {latitude[row + 1, column]:g} N in column {column}"
        return f"lies on a {kind} grid whose rows do not follow each other southwards throughout ({found})"
    return ""


def _projection(header: _Header, kind: str) -> tuple[tuple[float, float] | None, dict[str, Any]]:
    """Read what winds are turned by, and the attributes of a CF grid mapping (CF conventions, appendix F).

    Snyder, Map Projections - A Working Manual (USGS Professional Paper 1395, 1987): eq. 15-3 of a sphere, for one
    standard parallel its sine; a polar stereographic grid is the cone of constant 1 around its pole.

    Returns:
        The cone's constant and its central meridian in degrees east, None where there are none; and the attributes,
        empty where they are not known whole.
    """
    orientation = header.number("orientationOfTheGridInDegrees")
    if kind == "mercator" and not abs(orientation) > 0:
        return (0.0, 0.0), {}
    mapping = mapping_of_grib(kind, header.number)
    if kind == "polar_stereographic" and mapping:
        south = mapping["latitude_of_projection_origin"] < 0
        return (-1.0 if south else 1.0, orientation), mapping
    # On an ellipsoid the constant is another.
    if kind != "lambert" or "semi_major_axis" in mapping or not mapping:
        return None, mapping
    meridian = mapping["longitude_of_central_meridian"]
    parallels = [header.number(f"Latin{index}InDegrees") for index in (1, 2)]
    one, two = map(math.radians, parallels)
    constant = math.sin(one)
    if abs(one - two) >= 1e-9:
        tangents = [math.tan(math.pi / 4 + angle / 2) for angle in (one, two)]
        constant = math.log(math.cos(one) / math.cos(two)) / math.log(tangents[1] / tangents[0])
    return (constant, meridian), mapping
