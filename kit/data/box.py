"""A box in degrees as ranges of a store's rows and columns, with context around it, in whole patches."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.circle import is_closed, western_edge
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError

__all__ = ["Range", "Region", "Side", "columns_of", "extent", "nothing", "rows_of", "two_pieces"]

_logger = logging.getLogger(__name__)

Region = tuple[float, float, float, float]
"""North, west, south, east in degrees, borders included."""
Range = tuple[int, int]
"""First index, and one past the last."""
_DIGITS = 6
"""Of a distance in degrees; what is beyond is rounding."""


@dataclass(frozen=True)
class Side:
    """A range of rows or columns.

    Attributes:
        read: what the model sees.
        scored: of that, the region's.
        asked: rows or columns of region and halo, before they were fitted to patches.
        cropped: rows or columns of the region that were left out.
    """

    read: Range
    scored: Range
    asked: int
    cropped: int

    @classmethod
    def of(cls, region: Range, read: Range, asked: Range) -> Side:
        """Put together what was asked for and what is read."""
        inside = max(region[0], read[0]), min(region[1], read[1])
        cropped = _length(region) - _length(inside)
        return cls(read, (inside[0] - read[0], inside[1] - read[0]), _length(asked), cropped)

    @classmethod
    def fitted(cls, region: Range, asked: Range, patch: int) -> Side:
        """Leave out what makes no whole patch: of the wider halo, then of the other, then of the region's end."""
        start, stop = asked
        for _ in range(_length(asked) % patch):
            if region[0] - start > max(stop - region[1], 0):
                start += 1
            else:
                stop -= 1
        return cls.of(region, (start, stop), asked)


def rows_of(store: Store, region: Region | None, halo: float, patch: int) -> Side:
    """Rows of a region with its halo.

    Raises:
        StoreError: the region selects none.
    """
    everything = (0, len(store.latitude))
    if region is None:
        return Side.fitted(everything, everything, patch)
    north, _, south, _ = region
    inner, outer = (
        np.flatnonzero((store.latitude <= north + beyond) & (store.latitude >= south - beyond)) for beyond in (0, halo)
    )
    if not inner.size:
        raise StoreError(nothing(store, region))
    if halo:
        _note_cut(store, "north", min(north + halo, 90.0) - store.latitude[0], store.latitude)
        _note_cut(store, "south", store.latitude[-1] - max(south - halo, -90.0), store.latitude)
    return Side.fitted((int(inner[0]), int(inner[-1]) + 1), (int(outer[0]), int(outer[-1]) + 1), patch)


def columns_of(store: Store, region: Region | None, halo: float, patch: int) -> Side:
    """Columns of a region with its halo; negative ones lie west of Greenwich.

    Raises:
        SettingsError: the region leaves so little of the circle out that no patch lies outside.
        StoreError: the region selects none, or two pieces; or the circle is no multiple of the patch size.
    """
    circle = _Circle(store)
    inner = circle.everything if region is None else circle.within(region)
    outer = circle.widened(inner, region, halo) if region is not None and halo else inner
    if circle.is_closed and _length(outer) >= circle.count:
        return circle.whole(inner, region, patch)
    turns = -1 if outer[1] > circle.count else 1 if outer[1] <= 0 else 0
    inner, outer = (_shifted(part, turns * circle.count) for part in (inner, outer))
    if outer[0] >= 0:
        return Side.fitted(inner, outer, patch)
    read = circle.aligned(outer, patch)
    if circle.is_closed and _length(read) >= circle.count:
        return circle.whole(inner, region, patch)
    side = Side.of(inner, read, outer)
    return side if read[1] > 0 else replace(side, read=_shifted(read, circle.count))


class _Circle:
    """A store's columns, numbered from Greenwich eastwards."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._degrees = store.longitude
        self.count = len(store.longitude)
        self.is_closed = is_closed(store.longitude)
        west = 0 if self.is_closed else western_edge(store.longitude)
        self.everything: Range = (west - self.count if west else 0, west or self.count)
        """For a store that is a box across Greenwich, from its western edge on."""

    def within(self, region: Region) -> Range:
        """Columns between the borders of a region."""
        _, west, _, east = region
        span = _rounded((east - west) % 360) or 360.0
        offsets = _rounded((self._degrees - west) % 360) % 360
        # An east of 360 is the end of the circle; an east of 0 is Greenwich.
        inside = offsets < span if east > 0 and east % 360 == 0 else offsets <= span
        if self.is_closed and inside.all():
            return self.everything
        columns = np.arange(*self.everything)
        chosen = inside[columns]
        before = np.roll(chosen, 1)
        if not self.is_closed:
            before[0] = False
        starts = columns[chosen & ~before]
        if len(starts) != 1:
            raise StoreError(nothing(self._store, region) if not len(starts) else two_pieces(self._store, region))
        start, stop = int(starts[0]), int(starts[0]) + int(chosen.sum())
        return (start, stop) if stop <= self.everything[1] else (start - self.count, stop - self.count)

    def widened(self, inner: Range, region: Region, halo: float) -> Range:
        """Columns of a region and its halo, the circle at most."""
        _, west, _, east = region
        first, last = inner[0], inner[1] - 1
        reach_west = halo + _rounded((self._at(first) - west) % 360) % 360
        reach_east = halo + _rounded((east - self._at(last)) % 360) % 360
        start, stop = inner
        while self._goes_on(start - 1, stop) and _rounded(self._at(first) - self._at(start - 1)) <= reach_west:
            start -= 1
        while self._goes_on(start, stop + 1) and _rounded(self._at(stop) - self._at(last)) <= reach_east:
            stop += 1
        if not self.is_closed and start == self.everything[0]:
            _note_cut(self._store, "west", reach_west - (self._at(first) - self._at(start)), self._degrees)
        if not self.is_closed and stop == self.everything[1]:
            _note_cut(self._store, "east", reach_east - (self._at(stop - 1) - self._at(last)), self._degrees)
        return start, stop

    def aligned(self, asked: Range, patch: int) -> Range:
        """Whole patches on either side of Greenwich, outwards where the store has them, else inwards."""
        start, stop = asked
        outwards = start // patch * patch, -(-stop // patch) * patch
        inwards = -(-start // patch) * patch, stop // patch * patch
        held = self.is_closed or self.everything[0] <= outwards[0], self.is_closed or outwards[1] <= self.everything[1]
        read = outwards[0] if held[0] else inwards[0], outwards[1] if held[1] else inwards[1]
        if read != asked:
            _logger.info(
                "%s: the box crosses Greenwich, where a patch of %d has to begin: columns %d to %d become %d to %d",
                self._store.path, patch, *asked, *read,
            )  # fmt: skip
        return read

    def whole(self, inner: Range, region: Region | None, patch: int) -> Side:
        """The whole circle, begun where the region is in one piece.

        Raises:
            SettingsError: there is no such place.
            StoreError: the circle is no multiple of the patch size.
        """
        if self.count % patch:
            msg = (
                f"{self._store.path}: {self.count} longitudes around the globe are no multiple of the patch size "
                f"{patch}, and cropping them would open a gap; regrid the data"
            )
            raise StoreError(msg)
        start = 0 if inner[0] >= 0 else (inner[0] - (self.count - _length(inner)) // 2) // patch * patch
        if start + self.count < inner[1]:
            msg = (
                f"data.region: {region} (north, west, south, east) leaves less than a patch out of the circle, which "
                "cannot be opened there; take the whole circle (west 0, east 360)"
            )
            raise SettingsError(msg)
        return Side.of(inner, (start, start + self.count), (start, start + self.count))

    def _at(self, column: int) -> float:
        turns, place = divmod(column, self.count)
        return float(self._degrees[place]) + 360 * turns

    def _goes_on(self, start: int, stop: int) -> bool:
        """Whether the store holds these columns, each once."""
        if self.is_closed:
            return stop - start <= self.count
        return self.everything[0] <= start and stop <= self.everything[1]


def extent(store: Store) -> str:
    """What a store covers, for messages."""
    if store.curvilinear:
        return (
            f"{store.latitude.max():g} to {store.latitude.min():g} degrees north, "
            f"{store.longitude.min():g} to {store.longitude.max():g} degrees east"
        )
    west = 0 if is_closed(store.longitude) else western_edge(store.longitude)
    return (
        f"{store.latitude[0]:g} to {store.latitude[-1]:g} degrees north, "
        f"{store.longitude[west]:g} to {store.longitude[west - 1]:g} degrees east"
    )


def _note_cut(store: Store, side: str, missing: float, degrees: npt.NDArray[np.float64]) -> None:
    """Say that a halo ends with the store, if so much is missing that a grid point would have been there."""
    spacing = float(np.median(np.abs(np.diff(degrees)))) if len(degrees) > 1 else 360.0
    if missing >= spacing - 10**-_DIGITS:
        _logger.warning(
            "%s: data.halo is cut in the %s, %g degrees short: the store covers %s",
            store.path, side, round(missing, _DIGITS), extent(store),
        )  # fmt: skip


def nothing(store: Store, region: Region) -> str:
    """Message where a region selects nothing."""
    return (
        f"{store.path}: data.region {region} (north, west, south, east) selects no grid point; the store covers "
        f"{extent(store)}"
    )


def two_pieces(store: Store, region: Region) -> str:
    """Message where a region selects a store's two ends."""
    return (
        f"{store.path}: data.region {region} (north, west, south, east) selects both ends of the store and not what is "
        f"between them; the store covers {extent(store)}. Choose one end"
    )


def _rounded(degrees: Any) -> Any:
    return np.round(degrees, _DIGITS)


def _shifted(columns: Range, by: int) -> Range:
    return columns[0] + by, columns[1] + by


def _length(columns: Range) -> int:
    return columns[1] - columns[0]
