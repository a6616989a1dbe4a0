"""One pass over a variable, state by state: everything that the checks want to know about its values.

Two states of one variable are in memory at a time.

Dimensions: C level (1 where there are none), H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.qa.subject import READ_ERRORS, Channel, Place

__all__ = ["Survey", "Tally", "survey"]

Array = npt.NDArray[Any]


@dataclass
class Tally:
    """Count of something, and where it was first."""

    count: int = 0
    states: int = 0
    first: Place | None = None
    levels: set[int] = field(default_factory=set)

    def add(self, time: int, mask: Array) -> None:
        """Count the true elements of a state's mask, shape [C, H, W] or [C]."""
        found = int(np.count_nonzero(mask))
        if not found:
            return
        if self.first is None:
            self.first = Place(time, *(int(index) for index in np.unravel_index(np.argmax(mask), mask.shape)))
        self.count += found
        self.states += 1
        self.levels.update(np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1)).tolist())


@dataclass
class Survey:
    """What one pass over a variable found."""

    channel: Channel
    size: int = 0
    """Values seen."""
    states: int = 0
    """States read, until one could not be."""
    nan: Tally = field(default_factory=Tally)
    infinite: Tally = field(default_factory=Tally)
    outside: Tally = field(default_factory=Tally)
    """Finite values beyond the plausible range of the table of variables."""
    low: float = np.inf
    high: float = -np.inf
    """Smallest and largest finite value."""
    flat: Tally = field(default_factory=Tally)
    """Levels of states with one value everywhere, but for those that may be zero everywhere, like rain."""
    flat_C: Array = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    """For each level, states with one value everywhere, zero or not."""
    repeated: Tally = field(default_factory=Tally)
    """Levels of states equal to the state before in every point, but for those with one value everywhere."""
    repeated_C: Array = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    """For each level, states equal to the state before."""
    empty_C: Array = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    """For each level, states without any value."""
    damage: str = ""
    """Why a state could not be read."""

    def add(self, time: int, field_CHW: Array, before_CHW: Array | None) -> None:
        """Take in one state, with the state before it."""
        missing, infinite = np.isnan(field_CHW), np.isinf(field_CHW)
        finite = ~(missing | infinite)
        low_C = np.min(field_CHW, axis=(1, 2), where=finite, initial=np.inf)
        high_C = np.max(field_CHW, axis=(1, 2), where=finite, initial=-np.inf)
        self.size += field_CHW.size
        self.states += 1
        self.low, self.high = min(self.low, float(low_C.min())), max(self.high, float(high_C.max()))
        self.nan.add(time, missing)
        self.infinite.add(time, infinite)
        self.outside.add(time, finite & self._beyond(field_CHW))
        self.empty_C = self.empty_C + missing.all(axis=(1, 2))
        flat_C = (low_C == high_C) & finite.all(axis=(1, 2))
        self.flat_C = self.flat_C + flat_C
        self.flat.add(time, flat_C & ~((low_C == 0) & self._may_be_zero))
        if before_CHW is not None:
            same = (field_CHW == before_CHW) | (missing & np.isnan(before_CHW))
            repeated_C = same.all(axis=(1, 2))
            self.repeated_C = self.repeated_C + repeated_C
            self.repeated.add(time, repeated_C & ~flat_C & ~missing.all(axis=(1, 2)))

    @property
    def _may_be_zero(self) -> bool:
        known = self.channel.known
        return known is not None and known.non_negative

    def _beyond(self, field_CHW: Array) -> Array:
        known = self.channel.known
        if known is None:
            return np.zeros(field_CHW.shape, dtype=bool)
        return (field_CHW < known.low - known.margin) | (field_CHW > known.high + known.margin)


def survey(channel: Channel) -> Survey:
    """Read a variable once, from the first state to the last or to one that cannot be read."""
    result, before = Survey(channel), None
    for time in range(channel.states):
        try:
            values = channel.read(time)
        except READ_ERRORS as error:
            result.damage = f"state {time} of {channel.states} cannot be read ({error})"
            break
        result.add(time, values, before)
        before = values
    return result
