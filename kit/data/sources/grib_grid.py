"""Where the values of a GRIB message lie, and in which order they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DECIMALS", "MOST", "REGULAR", "Grid", "Header", "Values", "read_regular"]

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
