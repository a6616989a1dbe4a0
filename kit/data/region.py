"""A box in degrees as rows and columns of a grid: what a build takes of its data, and what a run takes of a store.

A region goes eastwards from west to east, borders included, across Greenwich where west is the greater one; an east of
360 is the end of the circle. Of a curvilinear grid it is the smallest rectangle of points that holds the box. A build
takes the points of a region with context around it (``cropped``), a run whole patches of them (``select_grid``).

Dimension letters: H latitude, W longitude.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.grid import AxisSelection, Grid, Range, distance_east, is_closed, spacing, western_edge
from kit.io.errors import SettingsError, StoreError

if TYPE_CHECKING:
    from kit.data.store.reader import Store

_logger = logging.getLogger(__name__)

Region = tuple[float, float, float, float]
"""North, west, south, east in degrees, borders included."""
_DIGITS = 6
"""Digits of a distance in degrees; what is beyond is rounding."""
_TINY = 10**-_DIGITS

Degrees = npt.NDArray[np.float64]
Points = npt.NDArray[np.bool_]
Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


# Degrees on the circle.


def _width(west: float, east: float) -> float:
    return round((east - west) % 360, _DIGITS) or 360.0


def _columns_within(longitude: Degrees, region: Region) -> Points:
    _, west, _, east = region
    offsets = distance_east(longitude, west)
    # An east of 360 is the end of the circle; an east of 0 is Greenwich.
    if east > 0 and east % 360 == 0:
        return np.asarray(offsets < _width(west, east))
    return np.asarray(offsets <= _width(west, east))


def _run_starts(chosen_W: Points, *, closed: bool) -> npt.NDArray[np.intp]:
    """Where runs of chosen columns begin, of columns from a box's western edge on."""
    before = np.roll(chosen_W, 1)
    before[0] &= closed
    return np.flatnonzero(chosen_W & ~before)


def _range_of(chosen: Points) -> Range:
    """The smallest range that holds everything chosen, of which there is something."""
    positions = np.flatnonzero(chosen)
    return int(positions[0]), int(positions[-1]) + 1


def _rectangle(points_HW: Points) -> tuple[Range, Range]:
    """Rows and columns of the smallest rectangle that holds all points, of which there is one."""
    rows, columns = np.asarray(points_HW.any(axis=1)), np.asarray(points_HW.any(axis=0))
    return _range_of(rows), _range_of(columns)


# What messages say.


def _extent(latitude: Degrees, longitude: Degrees) -> str:
    return f"{latitude.max():g} to {latitude.min():g} degrees north, {_eastern_extent(longitude)}"


def _eastern_extent(longitude: Degrees) -> str:
    eastwards = np.unique(longitude)
    # A curvilinear grid crosses Greenwich nowhere: no order of its matrices could.
    edge = 0 if longitude.ndim == 2 or is_closed(eastwards) else western_edge(eastwards)
    return f"{eastwards[edge]:g} to {eastwards[edge - 1]:g} degrees east"


def _nothing(where: object, what: str, region: Region, held: str) -> StoreError:
    return StoreError(f"{where}: {what} {region} (north, west, south, east) selects no grid point; {held}")


def _both_ends(where: object, what: str, region: Region, whose: str, held: str) -> StoreError:
    return StoreError(
        f"{where}: {what} {region} (north, west, south, east) selects both ends of the {whose} and not what is "
        f"between them; {held}. Choose one end"
    )


# What a build takes of its data, before any value is read.


def with_context(region: Region, degrees: float) -> Region:
    """Widen a region by degrees all around; the poles end it, and the circle is not passed twice."""
    if not degrees:
        return region
    north, west, south, east = region
    around = _width(west, east) + 2 * degrees
    north, south = min(north + degrees, 90.0), max(south - degrees, -90.0)
    if around >= 360 - _TINY:
        return north, 0.0, south, 360.0
    west = round(west - degrees, _DIGITS) % 360
    # An east of 360 would leave Greenwich out.
    return north, west, south, round(west + around, _DIGITS) % 360


def cropped(data: Labelled, region: Region | None, where: str) -> Labelled:
    """Take the part of a dataset or field within a region, still lazy.

    Args:
        data: Data with latitudes and longitudes in [0, 360), in the store's form or not; without them it stays as it
            is.
        region: Region, context included; None for everything.
        where: Name of the data, for messages.

    Raises:
        StoreError: The region selects nothing, or both ends of the data and not what is between them.
    """
    if region is None or not {"latitude", "longitude"} <= set(data.coords):
        return data
    latitude = np.asarray(data["latitude"].values, dtype=np.float64)
    longitude = np.asarray(data["longitude"].values, dtype=np.float64)
    north, _, south, _ = region
    degrees = np.round(latitude, _DIGITS)
    rows = np.asarray((degrees <= round(north, _DIGITS)) & (degrees >= round(south, _DIGITS)))
    columns = _columns_within(longitude, region)
    if latitude.ndim == 2:
        rows = columns = rows & columns
    if not rows.any() or not columns.any():
        raise _nothing(where, "the region", region, f"the data hold {_extent(latitude, longitude)}")
    if latitude.ndim == 2:
        return data.isel(dict(zip(data["latitude"].dims, (slice(*side) for side in _rectangle(rows)), strict=True)))
    order = np.argsort(longitude)
    eastwards = longitude[order]
    if not is_closed(eastwards):
        from_edge = np.roll(columns[order], -western_edge(eastwards))
        if len(_run_starts(from_edge, closed=False)) > 1:
            raise _both_ends(where, "the region", region, "data", _eastern_extent(eastwards))
    indexers: dict[str, slice | npt.NDArray[np.intp]] = {}
    for axis, chosen in (("latitude", rows), ("longitude", columns)):
        start, stop = _range_of(chosen)
        if axis in data.dims:
            # A slice where positions follow each other: a source then reads one piece.
            indexers[axis] = slice(start, stop) if chosen[start:stop].all() else np.flatnonzero(chosen)
    return data.isel(indexers)


# What a run takes of a store: whole patches, with context around the region.


def select_grid(store: Store, region: Region | None, patch: int, halo: float = 0.0) -> Grid:
    """Select a region of a store with its halo, in whole patches.

    The halo gives way before the region does. In a box across Greenwich 0 degrees begins a patch: columns are
    added as context where the store has them, else left out. On a curvilinear grid the region is the smallest
    rectangle of grid points that contains it.

    Args:
        store: Store whose grid it is.
        region: North, west, south, east in degrees, borders included; None for the whole grid. It goes eastwards
            from west to east, across Greenwich where west is the greater one.
        patch: Patch size of the model in grid points.
        halo: Degrees of context around the region; it ends where the store ends.

    Raises:
        SettingsError: The region leaves so little of the circle out that no patch lies outside.
        StoreError: The region selects nothing, less than a patch, or two pieces; or a global grid's longitudes
            would lose their periodicity.
    """
    if store.curvilinear:
        rows, columns = _curvilinear(store, region, halo, patch)
    else:
        rows, columns = _rows(store, region, halo, patch), _Columns(store).select(region, halo, patch)
    grid = Grid(rows.read, columns.read, (rows.cropped, columns.cropped), (rows.scored, columns.scored))
    height, width = grid.shape
    empty = any(start >= stop for start, stop in (rows.scored, columns.scored))
    if min(height, width) < patch or empty:
        around = f" with data.halo {halo:g}" if halo else ""
        msg = (
            f"{store.path}: {rows.requested} x {columns.requested} grid points are selected, less than a patch of "
            f"{patch} x {patch}; data.region is {region}{around}, {_covered(store)}"
        )
        raise StoreError(msg)
    # Nothing around the region is read: losses and scores need no window.
    if grid.scored == ((0, height), (0, width)):
        return replace(grid, scored=None)
    return grid


def _covered(store: Store) -> str:
    return f"the store covers {_extent(store.latitude, store.longitude)}"


def _warn_of_cut(store: Store, side: str, missing: float, usual: float) -> None:
    """Warn that a halo ends with the store, if so much is missing that a grid point would have been there."""
    if missing >= usual - _TINY:
        short = f"{round(missing, _DIGITS):g}"
        # Edges of a curvilinear grid follow no parallel or meridian: this is the most that is missing anywhere.
        if store.curvilinear:
            short = f"up to {round(missing, 3):g}"
        _logger.warning(
            "%s: data.halo is cut in the %s, %s degrees short: %s", store.path, side, short, _covered(store)
        )


def _rows(store: Store, region: Region | None, halo: float, patch: int) -> AxisSelection:
    latitude = store.latitude
    if region is None:
        return AxisSelection.fitted((0, len(latitude)), (0, len(latitude)), patch)
    north, _, south, _ = region
    inside = (latitude <= north) & (latitude >= south)
    if not inside.any():
        raise _nothing(store.path, "data.region", region, _covered(store))
    # Degrees, not rows: a recipe means the same at another resolution.
    north, south = north + halo, south - halo
    if halo:
        # A pole is no end of the store.
        _warn_of_cut(store, "north", min(north, 90.0) - latitude[0], spacing(latitude))
        _warn_of_cut(store, "south", latitude[-1] - max(south, -90.0), spacing(latitude))
    return AxisSelection.fitted(_range_of(inside), _range_of((latitude <= north) & (latitude >= south)), patch)


class _Columns:
    """Columns of a regular grid, numbered from Greenwich eastwards; those west of it may be negative."""

    def __init__(self, store: Store) -> None:
        self._store, self._longitude = store, store.longitude
        self._count = len(store.longitude)
        self._closed = is_closed(store.longitude)
        edge = 0 if self._closed else western_edge(store.longitude)
        first = edge - self._count if edge else 0
        # Of a store that is a box across Greenwich, from its western edge on.
        self._everything: Range = (first, first + self._count)

    def select(self, region: Region | None, halo: float, patch: int) -> AxisSelection:
        """Select columns of a region with its halo."""
        inner = outer = self._everything
        if region is not None:
            inner = outer = self._within(region)
            if halo:
                outer = self._widened(inner, region, halo)
        if self._closed and outer[1] - outer[0] >= self._count:
            return self._whole_circle(inner, region, patch)
        # Numbers from 0 on wherever they do not cross Greenwich, so that columns are read as one piece.
        turns = 0
        if outer[1] > self._count:
            turns = -1
        elif outer[1] <= 0:
            turns = 1
        inner, outer = _shifted(inner, turns * self._count), _shifted(outer, turns * self._count)
        if outer[0] >= 0:
            return AxisSelection.fitted(inner, outer, patch)
        read = self._aligned(outer, patch)
        if self._closed and read[1] - read[0] >= self._count:
            return self._whole_circle(inner, region, patch)
        selection = AxisSelection.of(inner, read, outer)
        if read[1] <= 0:
            # What is left ends at Greenwich: the store's last columns, counted from its first.
            return replace(selection, read=_shifted(read, self._count))
        return selection

    def _within(self, region: Region) -> Range:
        """Columns between the borders of a region."""
        inside = _columns_within(self._longitude, region)
        if self._closed and inside.all():
            return self._everything
        columns = np.arange(*self._everything)
        starts = columns[_run_starts(inside[columns], closed=self._closed)]
        if not len(starts):
            raise _nothing(self._store.path, "data.region", region, _covered(self._store))
        if len(starts) > 1:
            raise _both_ends(self._store.path, "data.region", region, "store", _covered(self._store))
        found = (int(starts[0]), int(starts[0] + inside.sum()))
        if found[1] > self._everything[1]:
            return _shifted(found, -self._count)
        return found

    def _widened(self, inner: Range, region: Region, halo: float) -> Range:
        """Columns of a region and its halo, the circle at most."""
        # The store's columns, each once; of the circle as many turns as a region and its halo may reach into.
        columns = np.arange(-self._count, 2 * self._count) if self._closed else np.arange(*self._everything)
        degrees = self._longitude[columns % self._count] + 360 * (columns // self._count)
        _, west, _, east = region
        first, last = degrees[inner[0] - columns[0]], degrees[inner[1] - 1 - columns[0]]
        reach_west, reach_east = halo + distance_east(first, west), halo + distance_east(east, last)
        start = max(int(columns[np.round(first - degrees, _DIGITS) <= reach_west][0]), inner[1] - self._count)
        stop = min(int(columns[np.round(degrees - last, _DIGITS) <= reach_east][-1]) + 1, start + self._count)
        usual = spacing(self._longitude)
        if not self._closed and start == columns[0]:
            _warn_of_cut(self._store, "west", reach_west - (first - degrees[0]), usual)
        if not self._closed and stop == columns[-1] + 1:
            _warn_of_cut(self._store, "east", reach_east - (degrees[-1] - last), usual)
        return start, stop

    def _aligned(self, requested: Range, patch: int) -> Range:
        """Whole patches on either side of Greenwich, outwards where the store has them, else inwards."""
        # Upstream's encoder describes a patch by the mean and the extremes of its longitudes, which says nothing of a
        # patch that holds 359 and 0; where 0 begins a patch, each is described as it is on the globe.
        start, stop = requested[0] // patch * patch, -(-requested[1] // patch) * patch
        if not self._closed and start < self._everything[0]:
            start += patch
        if not self._closed and stop > self._everything[1]:
            stop -= patch
        if (start, stop) != requested:
            _logger.info(
                "%s: the box crosses Greenwich, where a patch of %d has to begin: columns %d to %d become %d to %d",
                self._store.path, patch, *requested, start, stop,
            )  # fmt: skip
        return start, stop

    def _whole_circle(self, inner: Range, region: Region | None, patch: int) -> AxisSelection:
        """The whole circle, begun where the region is in one piece."""
        count = self._count
        if count % patch:
            msg = (
                f"{self._store.path}: {count} longitudes around the globe are no multiple of the patch size "
                f"{patch}, and cropping them would open a gap; regrid the data"
            )
            raise StoreError(msg)
        start = 0
        if inner[0] < 0:
            # Half of what the region leaves out lies west of it, up to the next patch.
            left_out = count - (inner[1] - inner[0])
            start = (inner[0] - left_out // 2) // patch * patch
        if start + count < inner[1]:
            msg = (
                f"data.region: {region} (north, west, south, east) leaves less than a patch out of the circle, which "
                "cannot be opened there; take the whole circle (west 0, east 360)"
            )
            raise SettingsError(msg)
        return AxisSelection.of(inner, (start, start + count), (start, start + count))


def _shifted(columns: Range, by: int) -> Range:
    return columns[0] + by, columns[1] + by


def _curvilinear(store: Store, region: Region | None, halo: float, patch: int) -> tuple[AxisSelection, AxisSelection]:
    """Select rows and columns of a curvilinear grid.

    What is scored is the smallest rectangle of grid points that contains the region; its corners lie beyond. What is
    read is the smallest one that contains the region widened by the halo, in latitude and in longitude, as on any grid.
    Losses, scores, files and maps of a rectangle need no mask.
    """
    if region is None:
        rows, columns = (0, store.shape[0]), (0, store.shape[1])
        return AxisSelection.fitted(rows, rows, patch), AxisSelection.fitted(columns, columns, patch)
    north, west, south, east = region
    span = (east - west) % 360 or 360.0
    # The region where the store's longitudes are: no such store crosses Greenwich.
    boxes = [(north, start, south, start + span) for start in (west % 360, west % 360 - 360)]
    holding = [box for box in boxes if _points_within(store, box).any()]
    if not holding:
        raise _nothing(store.path, "data.region", region, _covered(store))
    if span == 360:
        holding = [(north, 0.0, south, 360.0)]
    elif len(holding) > 1:
        raise _both_ends(store.path, "data.region", region, "store", _covered(store))
    north, west, south, east = holding[0]
    inner = _rectangle(_points_within(store, holding[0]))
    north, west, south, east = north + halo, west - halo, south - halo, east + halo
    outer = _rectangle(_points_within(store, (north, west, south, east)))
    if halo:
        lat, lon = store.latitude, store.longitude
        north, south = min(north, 90.0), max(south, -90.0)
        across, along = (lon >= west) & (lon <= east), (lat <= north) & (lat >= south)
        for side, edge, beyond, there in (
            ("north", lat[:2], north - lat[0], across[0]),
            ("south", lat[-2:], lat[-1] - south, across[-1]),
            ("west", lon[:, :2].T, lon[:, 0] - west, along[:, 0]),
            ("east", lon[:, -2:].T, east - lon[:, -1], along[:, -1]),
        ):
            usual = float(np.abs(np.diff(edge, axis=0)).mean()) if len(edge) > 1 else 360.0
            _warn_of_cut(store, side, float(beyond[there].max(initial=0.0)), usual)
    return AxisSelection.fitted(inner[0], outer[0], patch), AxisSelection.fitted(inner[1], outer[1], patch)


def _points_within(store: Store, box: Region) -> Points:
    """Which points lie in a box, borders included, [H, W]; its west and east count as the store's longitudes do."""
    north, west, south, east = box
    across = (store.longitude >= west - _TINY) & (store.longitude <= east + _TINY)
    return np.asarray(across & (store.latitude <= north + _TINY) & (store.latitude >= south - _TINY))
