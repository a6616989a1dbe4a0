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

from kit.checks.change import Change, change_of
from kit.checks.store_reader import READ_ERRORS, Channel, Position, StoreReader
from kit.data.moments import LevelMoments
from kit.data.statistics import VariableStatistics

Array = npt.NDArray[Any]

_SCATTERED = 0.01
"""Largest share of the points of a field that is still called scattered."""


@dataclass
class Tally:
    """Count of something, where it was first, and everywhere that it was."""

    count: int = 0
    states: int = 0
    first: Position | None = None
    last: int = 0
    """The last state with some."""
    ever: Array | None = field(default=None, repr=False)
    """Points, [C, H, W], or levels, [C], that had it in any state."""

    def add(self, time: int, mask: Array) -> None:
        """Count the true elements of a state's mask, shape [C, H, W] or [C]."""
        found = int(np.count_nonzero(mask))
        if not found:
            return
        # Only a variable in which something was found has a mask in memory.
        if self.first is None or self.ever is None:
            self.first = Position(time, *map(int, np.unravel_index(np.argmax(mask), mask.shape)))
            self.ever = mask.copy()
        else:
            self.ever |= mask
        self.count += found
        self.states += 1
        self.last = time

    @property
    def levels(self) -> list[int]:
        """Indices of the levels concerned."""
        if self.ever is None:
            return []
        return np.flatnonzero(self.ever.reshape(len(self.ever), -1).any(axis=1)).tolist()

    @property
    def points(self) -> Array | None:
        """Points concerned on any level, [H, W]; None where fields as a whole are counted."""
        if self.ever is None or self.ever.ndim != 3:
            return None
        return np.asarray(self.ever.any(axis=0))


def form(tally: Tally, states: int, empty: int = 0) -> str:
    """Say whether what was found is sparse or structured.

    Args:
        tally: Points that were counted.
        states: Number of states that were looked at.
        empty: Number of fields (one level of one state) that have nothing else.

    Returns:
        ``whole fields``, ``the same points in every state``, ``growing with pressure, as below the ground``,
        ``a block`` or ``scattered``; or an empty text for what is none of these.
    """
    assert tally.ever is not None
    size = tally.ever[0].size
    if empty and tally.count == empty * size:
        return "whole fields"
    points_C = tally.ever.sum(axis=(1, 2))
    # Pressure increases with the index: what is below the ground on one level is so on all that follow.
    if len(tally.levels) > 1 and (tally.ever[:-1] <= tally.ever[1:]).all() and points_C[0] < points_C[-1]:
        return "growing with pressure, as below the ground"
    if states > 1 and tally.count == int(points_C.sum()) * states:
        return "the same points in every state"
    fields = tally.states * len(tally.levels)
    points_HW = np.asarray(tally.ever.any(axis=0))
    rows, columns = np.flatnonzero(points_HW.any(axis=1)), np.flatnonzero(points_HW.any(axis=0))
    area = int(np.ptp(rows) + 1) * int(np.ptp(columns) + 1)
    if tally.count > 1 and tally.count == fields * area:
        return "a block"
    return "scattered" if tally.count <= _SCATTERED * size * fields else ""


def box(reader: StoreReader, channel: Channel, tally: Tally) -> dict[str, Any]:
    """Return the times, levels, latitudes and longitudes between which something is, for machines."""
    assert tally.first is not None
    found: dict[str, Any] = {"count": tally.count}
    if channel.kind != "static" and tally.first.time is not None:
        first, last = reader.coordinates["time"][[tally.first.time, tally.last]].astype("datetime64[m]")
        found |= {"states": tally.states, "times": [str(first), str(last)]}
    if channel.kind == "atmospheric":
        found["levels"] = reader.coordinates["level"][tally.levels].astype(np.float64).tolist()
    points = tally.points
    if points is not None:
        rows, columns = (points, points) if reader.curvilinear else (points.any(axis=1), points.any(axis=0))
        latitude = reader.coordinates["latitude"][rows]
        found["latitude"] = [float(latitude.min()), float(latitude.max())]
        found["longitude"] = list(extent(reader.coordinates["longitude"][columns]))
    return found


def extent(longitude: Array) -> tuple[float, float]:
    """Return west and east of longitudes, across Greenwich where that is shorter; then west is the greater."""
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
_SAMPLE = 65536
"""Values of each level that are kept for its histogram."""
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
        """Return the bounds of a variable by the table and the statistics of its levels."""
        known = channel.known
        low, high, negative = -math.inf, math.inf, None
        if known is not None:
            low, high = known.low - known.margin, known.high + known.margin
            if known.non_negative:
                low, negative = -math.inf, -known.margin
            elif known.name in ("q", "r"):
                # Spectral truncation leaves a little below zero; plausible ranges allow for it.
                negative = -1e-4 if known.name == "q" else -0.05
        tails = _LONG_TAILS if channel.may_be_zero or channel.name in LONG_TAILED else _TAILS
        low_C, high_C = np.full(len(statistics), -np.inf), np.full(len(statistics), np.inf)
        for level, one in enumerate(statistics):
            if one is None:
                continue
            # Heavy tails lie further out than those of a normal distribution with the same deviation.
            span = one.quantiles.get("0.99", math.nan) - one.quantiles.get("0.01", math.nan)
            scale = max(one.std, span / _NORMAL_SPAN) if math.isfinite(span) else one.std
            if math.isfinite(one.mean) and math.isfinite(scale) and scale > 0:
                low_C[level], high_C[level] = one.mean - tails * scale, one.mean + tails * scale
        return cls(low, high, low_C, high_C, negative)


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
    changes: list[Change] = field(default_factory=list)
    """How each state but the first changed from the one before; of what is accumulated and cannot be negative."""
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
            time: Index of the state.
            field_CHW: Its values.
            before_CHW: Values of the state before.
            trains: Whether the statistics are made of it too.
        """
        finite = np.isfinite(field_CHW)
        # Most fields are whole and need no mask.
        present = None if finite.all() else finite
        low_C, high_C = self._extremes(time, field_CHW, present)
        self.size += field_CHW.size
        self.states += 1
        self._compare(time, field_CHW, finite, low_C, high_C)
        flat_C = low_C == high_C
        if present is not None:
            flat_C &= finite.all(axis=(1, 2))
        self.flat_C = self.flat_C + flat_C
        # Rain is zero everywhere in a dry hour, and that is no finding.
        self.flat.add(time, flat_C & ~((low_C == 0) & self.channel.may_be_zero))
        moments = LevelMoments.of(field_CHW, present)
        zeros_C = np.zeros(len(field_CHW))
        for level in np.flatnonzero((low_C <= 0) & (high_C >= 0) & ~flat_C):
            zeros_C[level] = np.count_nonzero(field_CHW[level] == 0)
        self.zero_C = self.zero_C + zeros_C
        if trains and self.weights is not None:
            self.training = self.training.merged(LevelMoments.of(field_CHW, present, self.weights))
        elif trains:
            self.training = self.training.merged(moments)
        self.mean_TC.append(np.where(moments.weight_C > 0, moments.mean_C, np.nan).astype(np.float32))
        self._map(field_CHW, finite)
        if before_CHW is not None:
            same = field_CHW == before_CHW
            empty_C: Array = np.zeros(len(flat_C), dtype=bool)
            if present is not None:
                # NaN is equal to nothing, not even to itself.
                same |= np.isnan(field_CHW) & np.isnan(before_CHW)
                empty_C = np.asarray(np.isnan(field_CHW).all(axis=(1, 2)))
            repeated_C = same.all(axis=(1, 2))
            self.repeated_C = self.repeated_C + repeated_C
            self.repeated.add(time, repeated_C & ~flat_C & ~empty_C)
            if self.channel.accumulated and self.channel.may_be_zero:
                self.changes.append(change_of(before_CHW, field_CHW))

    def _extremes(self, time: int, field_CHW: Array, present: Array | None) -> tuple[Array, Array]:
        """Return the smallest and largest finite value of each level, and count what is not finite."""
        if present is None:
            low_C, high_C = field_CHW.min(axis=(1, 2)), field_CHW.max(axis=(1, 2))
        else:
            missing = np.isnan(field_CHW)
            self.nan.add(time, missing)
            self.infinite.add(time, ~present & ~missing)
            self.empty_C = self.empty_C + missing.all(axis=(1, 2))
            low_C = np.min(field_CHW, axis=(1, 2), where=present, initial=np.inf)
            high_C = np.max(field_CHW, axis=(1, 2), where=present, initial=-np.inf)
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

    def _map(self, field_CHW: Array, finite: Array) -> None:
        """Add a state to the map of means, and keep some of its values for the histogram."""
        rows, columns = thinning(field_CHW.shape[1:])
        some, there = field_CHW[:, ::rows, ::columns], finite[:, ::rows, ::columns]
        if self.total_Chw is None or self.counted_Chw is None:
            self.total_Chw = np.zeros(some.shape, dtype=np.float64)
            self.counted_Chw = np.zeros(some.shape, dtype=np.int32)
        self.total_Chw += np.where(there, some, 0)
        self.counted_Chw += there
        points = some[0].size
        per_state = max(1, min(_SAMPLE // max(1, self.channel.states), points))
        step = max(1, points // per_state)
        # From a place that moves on with the states, so that no point is always left out.
        self.sample.append(some.reshape(len(some), -1)[:, self.states % step :: step][:, :per_state].copy())

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
    """Return every how many rows and columns a grid is thinned to make a map of it."""
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
        channel: Variable to read.
        bounds: What its values are held against.
        trains: Indices of the states that the statistics are made of.
        watch: Called after each state.
        weights: Weights of the points in the statistics.
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
