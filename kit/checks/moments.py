"""Mean, scale and extremes of each level, merged state by state.

Dimensions: C level (1 where there are none), H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.data.moments import field_moments

__all__ = ["Moments"]

Array = npt.NDArray[Any]


def _empty(value: float = 0.0) -> Array:
    return np.full(1, value)


@dataclass
class Moments:
    """Of the finite values of each level, in float64; see ``kit.data.moments``."""

    values_C: Array = field(default_factory=_empty)
    """All values, finite or not."""
    count_C: Array = field(default_factory=_empty)
    """Finite values; their weights' sum where they are weighted."""
    mean_C: Array = field(default_factory=_empty)
    squares_C: Array = field(default_factory=_empty)
    """Sums of squared distances from the mean."""
    low_C: Array = field(default_factory=lambda: _empty(np.inf))
    high_C: Array = field(default_factory=lambda: _empty(-np.inf))
    zeros_C: Array = field(default_factory=_empty)

    @classmethod
    def of(
        cls, field_CHW: Array, finite: Array | None, low_C: Array, high_C: Array, weights: Array | None = None
    ) -> Moments:
        """Moments of one state.

        Args:
            field_CHW: its values.
            finite: which of them are; None for all.
            low_C: smallest finite value of each level.
            high_C: largest.
            weights: of rows, [H], or of points, [H, W]; all weigh 1 by default.
        """
        levels = len(field_CHW)
        none_C = np.zeros(levels)
        result = cls(
            np.full(levels, float(field_CHW[0].size)),
            none_C,
            none_C.copy(),
            none_C.copy(),
            low_C,
            high_C,
            none_C.copy(),
        )
        for level in range(levels):
            there = None if finite is None else finite[level]
            found = field_moments(field_CHW[level], there, weights)
            if not found.weight:
                continue
            result.count_C[level], result.mean_C[level] = found.weight, found.mean
            result.squares_C[level] = found.squares
            if low_C[level] <= 0 <= high_C[level]:
                result.zeros_C[level] = np.count_nonzero(field_CHW[level] == 0)
        return result

    def merge(self, other: Moments) -> None:
        """Take in further values."""
        count_C = self.count_C + other.count_C
        shift_C = other.mean_C - self.mean_C
        share_C = other.count_C / np.maximum(count_C, 1)
        self.squares_C = self.squares_C + other.squares_C + shift_C**2 * self.count_C * share_C
        self.mean_C = self.mean_C + shift_C * share_C
        self.count_C = count_C
        self.values_C = self.values_C + other.values_C
        self.zeros_C = self.zeros_C + other.zeros_C
        self.low_C = np.minimum(self.low_C, other.low_C)
        self.high_C = np.maximum(self.high_C, other.high_C)

    @property
    def scale_C(self) -> Array:
        """Population standard deviation; NaN where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(self.squares_C / np.where(self.count_C > 0, self.count_C, np.nan)))
