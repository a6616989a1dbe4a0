"""A box in degrees as rows and columns of a curvilinear grid: the smallest rectangle of points that contains it."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from kit.data.box import Range, Region, Side, extent, nothing, two_pieces
from kit.data.store.reader import Store
from kit.io.errors import StoreError

__all__ = ["points_within", "rectangle", "sides_of"]

_logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
Points = npt.NDArray[np.bool_]
_TINY = 1e-6
"""Degrees; what is below is rounding."""


def sides_of(store: Store, region: Region | None, halo: float, patch: int) -> tuple[Side, Side]:
    """Rows and columns of a region with its halo on a curvilinear grid.

    What is scored is the smallest rectangle of grid points that contains the region; its corners lie beyond. What is
    read is the smallest one that contains the region widened by the halo, in latitude and in longitude, as on any grid.

    Raises:
        StoreError: the region selects no point, or both ends of the store.
    """
    height, width = store.shape
    inner = outer = ((0, height), (0, width))
    if region is not None:
        placed = _placed(store, region)
        wide = placed[0] + halo, placed[1] - halo, placed[2] - halo, placed[3] + halo
        found, around = (rectangle(points_within(store.latitude, store.longitude, box)) for box in (placed, wide))
        assert found is not None
        assert around is not None
        inner, outer = found, around
        if halo:
            _note_cuts(store, wide)
    rows, columns = (Side.fitted(within, asked, patch) for within, asked in zip(inner, outer, strict=True))
    return rows, columns


def points_within(latitude_HW: Array, longitude_HW: Array, region: Region) -> Points:
    """Which points lie in a box, borders included, [H, W].

    Args:
        latitude_HW: degrees north.
        longitude_HW: degrees east.
        region: north, west, south, east; west and east count as the longitudes do.
    """
    north, west, south, east = region
    across = (longitude_HW >= west - _TINY) & (longitude_HW <= east + _TINY)
    return across & (latitude_HW <= north + _TINY) & (latitude_HW >= south - _TINY)


def rectangle(points_HW: Points) -> tuple[Range, Range] | None:
    """Rows and columns of the smallest rectangle that holds all points; None where there are none."""
    rows, columns = (np.flatnonzero(points_HW.any(axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _placed(store: Store, region: Region) -> Region:
    """The region with its west and east where the store's longitudes are: no such store crosses Greenwich.

    Raises:
        StoreError: no point lies in it, or some do on either side of Greenwich, at both ends of the store.
    """
    north, west, south, east = region
    span = (east - west) % 360 or 360.0
    places = [(north, start, south, start + span) for start in (west % 360, west % 360 - 360)]
    holding = [place for place in places if points_within(store.latitude, store.longitude, place).any()]
    if len(holding) != 1 and span < 360:
        raise StoreError(two_pieces(store, region) if holding else nothing(store, region))
    if not holding:
        raise StoreError(nothing(store, region))
    return holding[0] if span < 360 else (north, 0.0, south, 360.0)


def _note_cuts(store: Store, wide: Region) -> None:
    """Say where a halo ends with the store, if so much is missing that a grid point would have been there."""
    lat, lon = store.latitude, store.longitude
    north, west, south, east = min(wide[0], 90.0), wide[1], max(wide[2], -90.0), wide[3]
    across, along = (lon >= west) & (lon <= east), (lat <= north) & (lat >= south)
    for side, edge, beyond, there in (
        ("north", lat[:2], north - lat[0], across[0]),
        ("south", lat[-2:], lat[-1] - south, across[-1]),
        ("west", lon[:, :2].T, lon[:, 0] - west, along[:, 0]),
        ("east", lon[:, -2:].T, east - lon[:, -1], along[:, -1]),
    ):
        missing = float(beyond[there].max(initial=0.0))
        spacing = float(np.abs(np.diff(edge, axis=0)).mean()) if len(edge) > 1 else 360.0
        if missing >= spacing - _TINY:
            _logger.warning(
                "%s: data.halo is cut in the %s, up to %g degrees short: the store covers %s",
                store.path, side, round(missing, 3), extent(store),
            )  # fmt: skip
