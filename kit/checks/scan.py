"""Count of something in a store, and where it was.

Dimensions: C level (1 where there are none), H latitude, W longitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.store_reader import READ_ERRORS, Channel, Place, Subject
from kit.data.moments import LevelMoments
from kit.data.statistics import VariableStatistics
from kit.data.store.format import GRID

__all__ = ["Bounds", "MAP_SIDE", "Survey", "Tally", "box", "extent", "form", "survey"]

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


# One pass over a variable, state by state: everything that the checks want to know about its values.
#
# Two states of one variable are in memory at a time, and a few fields of the same size.
#
# Dimensions: T time, C level (1 where there are none), H latitude, W longitude; h and w those of a map.


MAP_SIDE = 360
"""Most columns of a map, and twice the most rows; a finer grid is thinned to it."""

_TAILS = 15.0
"""How many scales a value may lie from the mean."""
_LONG_TAILS = 100.0
"""The same for what is mostly small and sometimes not: rain, vertical velocity, smoke."""
_NORMAL_SPAN = 4.65
"""Distance of the quantiles 0.01 and 0.99 of a normal distribution, in standard deviations."""
LONG_TAILED = frozenset({"w", "vo", "d", "pv", "co", "no", "no2", "so2", "go3", "o3", "e", "pev"})
"""Variables with rare large values of either sign or of a small background."""


@dataclass(frozen=True)
class Bounds:
    """What values are held against, for each level."""

    low: float
    """Physically plausible values, from the table of variables."""
    high: float
    low_C: Array
    """Values that the store's own statistics make likely."""
    high_C: Array
    negative: float | None = None
    """Values below are negative in earnest, where the quantity cannot be; None where it can."""

    @classmethod
    def of(cls, channel: Channel, statistics: list[VariableStatistics | None]) -> Bounds:
        """Bounds of a variable by the table and the statistics of its levels."""
        known = channel.known
        low, high, negative = -math.inf, math.inf, None
        if known is not None:
            low, high = known.low - known.margin, known.high + known.margin
            if known.non_negative:
                low, negative = -math.inf, -known.margin
            elif known.name in ("q", "r"):
                # Spectral truncation leaves a little below zero; plausible ranges allow for it.
                negative = -1e-4 if known.name == "q" else -0.05
        tails = _LONG_TAILS if channel.long_tailed or channel.name in LONG_TAILED else _TAILS
        limits = [_likely(one, tails) for one in statistics]
        return cls(low, high, np.array([a for a, _ in limits]), np.array([b for _, b in limits]), negative)


def _likely(statistics: VariableStatistics | None, tails: float) -> tuple[float, float]:
    if statistics is None:
        return -math.inf, math.inf
    span = statistics.quantiles.get("0.99", math.nan) - statistics.quantiles.get("0.01", math.nan)
    scale = max(statistics.std, span / _NORMAL_SPAN) if math.isfinite(span) else statistics.std
    if not (math.isfinite(statistics.mean) and math.isfinite(scale) and scale > 0):
        return -math.inf, math.inf
    return statistics.mean - tails * scale, statistics.mean + tails * scale


def _zeros() -> Array:
    return np.zeros(1, dtype=np.int64)


@dataclass
class Survey:
    """What one pass over a variable found."""

    channel: Channel
    bounds: Bounds
    weights: Array | None = field(default=None, repr=False)
    """Of rows or points, in the statistics; all weigh 1 where there are none."""
    size: int = 0
    """Values seen."""
    states: int = 0
    """States read, until one could not be."""
    nan: Tally = field(default_factory=Tally)
    infinite: Tally = field(default_factory=Tally)
    outside: Tally = field(default_factory=Tally)
    """Finite values beyond the plausible range of the table of variables."""
    negative: Tally = field(default_factory=Tally)
    """Values below zero where there can be none."""
    unlikely: Tally = field(default_factory=Tally)
    """Finite values far beyond what the store's statistics make likely."""
    low: float = np.inf
    high: float = -np.inf
    """Smallest and largest finite value."""
    zero_C: Array = field(default_factory=_zeros)
    """For each level, values that are exactly zero, but for those of fields that are zero everywhere."""
    flat: Tally = field(default_factory=Tally)
    """Levels of states with one value everywhere, but for those that may be zero everywhere, like rain."""
    flat_C: Array = field(default_factory=_zeros)
    """For each level, states with one value everywhere, zero or not."""
    repeated: Tally = field(default_factory=Tally)
    """Levels of states equal to the state before in every point, but for those with one value everywhere."""
    repeated_C: Array = field(default_factory=_zeros)
    """For each level, states equal to the state before."""
    empty_C: Array = field(default_factory=_zeros)
    """For each level, states without any value."""
    training: LevelMoments = field(default_factory=LevelMoments)
    """Of the states that the statistics are made of."""
    mean_TC: list[Array] = field(default_factory=list)
    """Mean of each level of each state; NaN where it has no value."""
    total_Chw: Array | None = field(default=None, repr=False)
    """Sums over the states at the points of a map."""
    counted_Chw: Array | None = field(default=None, repr=False)
    """Finite values in them."""
    sample: list[Array] = field(default_factory=list, repr=False)
    """Some values of each level, [C, n], for a histogram."""
    damage: str = ""
    """Why a state could not be read."""

    def add(self, time: int, field_CHW: Array, before_CHW: Array | None, *, trains: bool) -> None:
        """Take in one state, with the state before it.

        Args:
            time: its position.
            field_CHW: its values.
            before_CHW: those of the state before.
            trains: the statistics are made of it too.
        """
        finite = np.isfinite(field_CHW)
        whole = bool(finite.all())
        low_C, high_C = self._extremes(time, field_CHW, finite, whole=whole)
        self.size += field_CHW.size
        self.states += 1
        self._compare(time, field_CHW, finite, low_C, high_C)
        flat_C = (low_C == high_C) & (np.ones(len(low_C), dtype=bool) if whole else finite.all(axis=(1, 2)))
        self.flat_C = self.flat_C + flat_C
        self.flat.add(time, flat_C & ~((low_C == 0) & self.channel.may_be_zero))
        present = None if whole else finite
        moments = LevelMoments.of(field_CHW, present)
        zeros_C = np.zeros(len(field_CHW))
        for level in np.flatnonzero((low_C <= 0) & (high_C >= 0) & ~flat_C):
            zeros_C[level] = np.count_nonzero(field_CHW[level] == 0)
        self.zero_C = self.zero_C + zeros_C
        if trains:
            there = None if whole else finite
            weighted = self.weights is not None
            self.training = self.training.merged(LevelMoments.of(field_CHW, there, self.weights) if weighted else moments)
        self.mean_TC.append(np.where(moments.weight_C > 0, moments.mean_C, np.nan).astype(np.float32))
        self._map(field_CHW, finite)
        if before_CHW is not None:
            self._repeats(time, field_CHW, before_CHW, flat_C, whole=whole)

    def _extremes(self, time: int, field_CHW: Array, finite: Array, *, whole: bool) -> tuple[Array, Array]:
        """Smallest and largest finite value of each level; what is not finite is counted."""
        if whole:
            low_C, high_C = field_CHW.min(axis=(1, 2)), field_CHW.max(axis=(1, 2))
        else:
            missing = np.isnan(field_CHW)
            self.nan.add(time, missing)
            self.infinite.add(time, ~finite & ~missing)
            self.empty_C = self.empty_C + missing.all(axis=(1, 2))
            low_C = np.min(field_CHW, axis=(1, 2), where=finite, initial=np.inf)
            high_C = np.max(field_CHW, axis=(1, 2), where=finite, initial=-np.inf)
        self.low, self.high = min(self.low, float(low_C.min())), max(self.high, float(high_C.max()))
        return low_C, high_C

    def _compare(self, time: int, field_CHW: Array, finite: Array, low_C: Array, high_C: Array) -> None:
        """Hold values against their bounds; most fields are inside, which their extremes tell."""
        bounds = self.bounds
        if low_C.min() < bounds.low or high_C.max() > bounds.high:
            self.outside.add(time, finite & ((field_CHW < bounds.low) | (field_CHW > bounds.high)))
        if bounds.negative is not None and low_C.min() < bounds.negative:
            self.negative.add(time, finite & (field_CHW < bounds.negative))
        if (low_C < bounds.low_C).any() or (high_C > bounds.high_C).any():
            low, high = bounds.low_C[:, None, None], bounds.high_C[:, None, None]
            self.unlikely.add(time, finite & ((field_CHW < low) | (field_CHW > high)))

    def _repeats(self, time: int, field_CHW: Array, before_CHW: Array, flat_C: Array, *, whole: bool) -> None:
        same = field_CHW == before_CHW
        if not whole:
            same |= np.isnan(field_CHW) & np.isnan(before_CHW)
        repeated_C = same.all(axis=(1, 2))
        self.repeated_C = self.repeated_C + repeated_C
        empty_C = False if whole else np.isnan(field_CHW).all(axis=(1, 2))
        self.repeated.add(time, repeated_C & ~flat_C & ~empty_C)

    def _map(self, field_CHW: Array, finite: Array) -> None:
        rows, columns = thinning(field_CHW.shape[1:])
        some, there = field_CHW[:, ::rows, ::columns], finite[:, ::rows, ::columns]
        if self.total_Chw is None or self.counted_Chw is None:
            self.total_Chw = np.zeros(some.shape, dtype=np.float64)
            self.counted_Chw = np.zeros(some.shape, dtype=np.int32)
        self.total_Chw += np.where(there, some, 0)
        self.counted_Chw += there
        per_state = max(1, min(self._wanted, some[0].size))
        step = max(1, some[0].size // per_state)
        # From a place that moves on with the states, so that no point is always left out.
        self.sample.append(some.reshape(len(some), -1)[:, self.states % step :: step][:, :per_state].copy())

    @property
    def _wanted(self) -> int:
        return max(1, 65536 // max(1, self.channel.states))

    @property
    def mean_Chw(self) -> Array:
        """Mean over the states at the points of a map; NaN where there is no value."""
        assert self.total_Chw is not None
        assert self.counted_Chw is not None
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.counted_Chw > 0, self.total_Chw / self.counted_Chw, np.nan)

    @property
    def mean_C(self) -> Array:
        """Mean over states and points of each level, each state counted once; NaN where there is no value."""
        means = np.asarray(self.mean_TC, dtype=np.float64)
        there = np.isfinite(means)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(there, means, 0).sum(axis=0) / there.sum(axis=0))


def thinning(shape: tuple[int, ...]) -> tuple[int, int]:
    """Every how many rows and columns a grid is thinned to make a map of it."""
    return -(-shape[-2] // (MAP_SIDE // 2)), -(-shape[-1] // MAP_SIDE)


def survey(
    channel: Channel,
    bounds: Bounds,
    trains: frozenset[int],
    watch: Callable[[], None] = lambda: None,
    weights: Array | None = None,
) -> Survey:
    """Read a variable once, from the first state to the last or to one that cannot be read.

    Args:
        channel: the variable.
        bounds: what its values are held against.
        trains: positions of the states that the statistics are made of.
        watch: called after each state.
        weights: of the points in the statistics.
    """
    result, before = Survey(channel, bounds, weights), None
    for time in range(channel.states):
        try:
            values = channel.read(time)
        except READ_ERRORS as error:
            result.damage = f"state {time} of {channel.states} cannot be read ({error})"
            break
        result.add(time, values, before, trains=channel.kind == "static" or time in trains)
        before = values
        watch()
    return result
