"""Count of something in a store, and where it was.

Dimensions: C level (1 where there are none), H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.store_format import GRID
from kit.qa.subject import Channel, Place, Subject

__all__ = ["Tally", "box", "extent", "form"]

Array = npt.NDArray[Any]

_SCATTERED = 0.01
"""Largest share of the points of a field that is still called scattered."""


@dataclass
class Tally:
    """Count of something, where it was first, and everywhere that it was."""

    count: int = 0
    states: int = 0
    first: Place | None = None
    last: int = 0
    """The last state with some."""
    ever: Array | None = field(default=None, repr=False)
    """Points, [C, H, W], or levels, [C], that had it in any state."""

    def add(self, time: int, mask: Array) -> None:
        """Count the true elements of a state's mask, shape [C, H, W] or [C]."""
        found = int(np.count_nonzero(mask))
        if not found:
            return
        if self.first is None or self.ever is None:
            self.first = Place(time, *(int(index) for index in np.unravel_index(np.argmax(mask), mask.shape)))
            self.ever = mask.copy()
        else:
            self.ever |= mask
        self.count += found
        self.states += 1
        self.last = time

    @property
    def levels(self) -> list[int]:
        """Positions of the levels concerned."""
        return [] if self.ever is None else np.flatnonzero(self.ever.reshape(len(self.ever), -1).any(axis=1)).tolist()

    @property
    def points(self) -> Array | None:
        """Points concerned on any level, [H, W]; None where fields as a whole are counted."""
        return np.asarray(self.ever.any(axis=0)) if self.ever is not None and self.ever.ndim == 3 else None


def form(tally: Tally, states: int, empty: int = 0) -> str:
    """Say whether what was found is sparse or structured.

    Args:
        tally: of points.
        states: that were looked at.
        empty: fields (one level of one state) that have nothing else.

    Returns:
        ``whole fields``, ``the same points in every state``, ``growing with pressure, as below the ground``,
        ``a block`` or ``scattered``; or an empty text for what is none of these.
    """
    assert tally.ever is not None
    size = tally.ever[0].size
    if empty and tally.count == empty * size:
        return "whole fields"
    points = tally.ever.sum(axis=(1, 2))
    nested = len(tally.levels) > 1 and bool((tally.ever[:-1] <= tally.ever[1:]).all()) and points[0] < points[-1]
    if nested:
        return "growing with pressure, as below the ground"
    if states > 1 and tally.count == int(points.sum()) * states:
        return "the same points in every state"
    if tally.count > 1 and tally.count == tally.states * len(tally.levels) * _area(np.asarray(tally.ever.any(axis=0))):
        return "a block"
    return "scattered" if tally.count <= _SCATTERED * size * tally.states * len(tally.levels) else ""


def _area(points_HW: Array) -> int:
    rows, columns = (np.flatnonzero(points_HW.any(axis=axis)) for axis in (1, 0))
    return int((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1))


def box(subject: Subject, channel: Channel, tally: Tally) -> dict[str, Any]:
    """Say between which times, levels, latitudes and longitudes something is, for machines."""
    assert tally.first is not None
    found: dict[str, Any] = {"count": tally.count}
    if channel.kind != "static" and tally.first.time is not None:
        times = subject.coordinates["time"][[tally.first.time, tally.last]].astype("datetime64[m]")
        found |= {"states": tally.states, "times": [str(time) for time in times]}
    if channel.kind == "atmospheric":
        found["levels"] = [float(level) for level in subject.coordinates["level"][tally.levels]]
    if (points := tally.points) is not None:
        chosen = (points, points) if subject.curvilinear else (points.any(axis=1), points.any(axis=0))
        latitude, longitude = (subject.coordinates[name][which] for name, which in zip(GRID, chosen, strict=True))
        found["latitude"] = [float(latitude.min()), float(latitude.max())]
        found["longitude"] = list(extent(longitude))
    return found


def extent(longitude: Array) -> tuple[float, float]:
    """West and east of longitudes on the circle, across Greenwich where that is shorter; then west is the greater."""
    values = np.sort(np.asarray(longitude, dtype=np.float64) % 360)
    gaps = np.diff(values, append=values[0] + 360)
    widest = int(np.argmax(gaps))
    return float(values[(widest + 1) % len(values)]), float(values[widest])
