"""Fields that are averaged: variables of a store, and the speeds of its winds.

Dimensions: D day in the window, P part (sine and cosine of a direction, else one), C level, H latitude, W longitude.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.climatology.calendar import Calendar
from kit.data.store.format import CURVILINEAR, GRID
from kit.data.store.reader import Store
from kit.data.units import canonical_units
from kit.data.variables import WIND_SPEEDS

Float64 = npt.NDArray[np.float64]

_NUMBER = 8
"""Bytes of a number in double precision."""


class AveragedField:
    """A variable of a store, or the speed of a wind of its, whose states are averaged.

    Attributes:
        names: Name in the climatology.
        attributes: CF attributes.
        shape: Shape of a state, [H, W] or [C, H, W].
        dimensions: Names of its dimensions.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.names: tuple[str, ...] = (name,)
        self._store = store
        self._sources = WIND_SPEEDS.get(name, (name,))
        held = store.variable_attributes(self._sources[0])
        grid: tuple[str, ...] = CURVILINEAR if store.curvilinear else GRID
        self.shape: tuple[int, ...] = store.shape
        self.dimensions = grid
        if self._sources[0] in store.atmospheric:
            self.shape = (len(store.levels), *store.shape)
            self.dimensions = ("level", *grid)
        self.attributes: tuple[Mapping[str, Any], ...] = (held,)
        if name in WIND_SPEEDS:
            self.attributes = ({"long_name": "Speed of the wind", "units": held.get("units", "m s-1")},)
        self._is_direction = canonical_units(str(held.get("units", ""))) == "degree"
        self._parts = 2 if self._is_direction else 1

    def blocks(self, window: int, memory: int) -> list[slice]:
        """Divide the rows so that the sums of a window's days, and counts of what they hold, fit into memory.

        Args:
            window: Days of the window.
            memory: Bytes; a row is a block in any case.
        """
        *levels, height, width = self.shape
        row = _NUMBER * (self._parts + 1) * window * math.prod(levels) * width
        rows = max(1, memory // row)
        return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]

    def statistics(self, calendar: Calendar, hour: int, rows: slice, weights: Float64) -> Iterator[tuple[Float64, ...]]:
        """Average the states of an hour around each day of a calendar, in order.

        Args:
            calendar: States by hour and day.
            hour: Hour of the day.
            rows: Rows that are read.
            weights: Weights of the days around a day.

        Yields:
            Weighted mean over days and years, [H, W] or [C, H, W]; NaN where all values are missing.
        """
        window, shape = len(weights), (*self.shape[:-2], rows.stop - rows.start, self.shape[-1])
        # Sums of the days in the window, each in a slot of its own, [D, P, ...], and what they are of, [D, ...].
        sums_D = np.zeros((window, self._parts, *shape))
        counts_D = np.zeros((window, *shape))
        slots: dict[int, int] = {}
        for day in calendar.days:
            around = calendar.around(hour, day, weights)
            slots = {near: slot for near, slot in slots.items() if near in around}
            free = sorted(set(range(window)) - set(slots.values()))
            weights_D = np.zeros(window)
            for near, weight in around.items():
                if near not in slots:
                    slots[near] = free.pop()
                    sums_D[slots[near]], counts_D[slots[near]] = self._sum(calendar.states[hour, near], rows)
                weights_D[slots[near]] = weight
            total_P, count = np.tensordot(weights_D, sums_D, 1), np.tensordot(weights_D, counts_D, 1)
            with np.errstate(invalid="ignore"):
                yield (self._value(total_P / count),)

    def _sum(self, indices: Sequence[int], rows: slice) -> tuple[Float64, Float64]:
        """Add up states: their sum without missing values, [P, ...], and how many there were at each point, [...]."""
        total_P: Float64 | float = 0.0
        count: Float64 | float = 0.0
        for index in indices:
            values_P = self._read(index, rows)
            present = np.isfinite(values_P[0])
            total_P = total_P + np.where(present, values_P, 0.0)
            count = count + present
        return np.asarray(total_P), np.asarray(count)

    def _read(self, index: int, rows: slice) -> Float64:
        """Read a state in its parts, [P, H, W] or [P, C, H, W]."""
        values = [self._store.read(source, [index], rows)[0] for source in self._sources]
        if len(values) == 2:
            return np.asarray(np.hypot(*values)[None], dtype=np.float64)
        if self._is_direction:
            # The mean of 359 and 1 degrees is 0: of directions, points on a circle are averaged.
            radians = np.deg2rad(values[0].astype(np.float64))
            return np.stack([np.sin(radians), np.cos(radians)])
        return np.asarray(values[0][None], dtype=np.float64)

    def _value(self, mean_P: Float64) -> Float64:
        if self._is_direction:
            return np.asarray(np.rad2deg(np.arctan2(*mean_P)) % 360)
        return np.asarray(mean_P[0])
