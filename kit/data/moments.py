"""Moments of fields: mean and the sums of squares and cubes about it, of one field and merged over fields.

A field is taken block by block, in float64 that stays in a core's cache: no copy of all of it is made. Each row has a
mean of its own, about which its squares are summed (Chan, Golub and LeVeque 1983), and the rows' sums are added without
rounding (Shewchuk 1997, as ``math.fsum`` does), so that neither a large mean nor the size of the field costs digits.

Dimensions: C levels, H rows, W columns, R rows of a block; 5 stands for weight, sum, squares, cubes and mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BLOCK = 65536
"""Values that are held in float64 at a time: half a megabyte, which fits the second-level cache of a core."""
_ROW = 4096
"""Length of the rows that a field without rows is cut into."""


@dataclass(frozen=True)
class FieldMoments:
    """Moments of finite values, weighted or not."""

    weight: float = 0.0
    """Sum of the weights; their number where all weigh 1."""
    mean: float = 0.0
    squares: float = 0.0
    """Weighted sum of squared differences from the mean."""
    cubes: float = 0.0
    """Weighted sum of cubed differences from the mean."""

    @property
    def scale(self) -> float:
        """Population standard deviation; NaN where there is no value."""
        return math.sqrt(self.squares / self.weight) if self.weight else math.nan

    @property
    def skewness(self) -> float:
        """Third standardised moment; NaN where the values do not vary."""
        if not self.weight:
            return math.nan
        cubed_scale: float = (self.squares / self.weight) ** 1.5
        # Of a spread that is tiny but not zero, the power may be zero.
        if cubed_scale == 0:
            return math.nan
        return self.cubes / self.weight / cubed_scale

    def merged(self, other: FieldMoments) -> FieldMoments:
        """Combine with the moments of further values (Pebay 2008, eq. 2.1 and 2.2)."""
        if not self.weight:
            return other
        if not other.weight:
            return self
        weight, shift = self.weight + other.weight, other.mean - self.mean
        share, product = other.weight / weight, self.weight * other.weight / weight
        crossed = 3 * shift * (self.weight * other.squares - other.weight * self.squares) / weight
        return FieldMoments(
            weight,
            self.mean + shift * share,
            self.squares + other.squares + shift * shift * product,
            self.cubes + other.cubes + shift**3 * product * (self.weight - other.weight) / weight + crossed,
        )


@dataclass(frozen=True)
class LevelMoments:
    """Moments of each level of a variable, merged state by state; a surface variable has one level."""

    levels: tuple[FieldMoments, ...] = (FieldMoments(),)
    """One until the first state says how many there are."""

    @classmethod
    def of(cls, field_CHW: Array, finite_CHW: Array | None = None, weights: Array | None = None) -> LevelMoments:
        """Compute the moments of the finite values of one state.

        Args:
            field_CHW: Values, [C, H, W].
            finite_CHW: Mask of the finite values; None where all are finite.
            weights: Weights of rows, [H], or of points, [H, W]; all weigh 1 by default.
        """
        finite = [None] * len(field_CHW) if finite_CHW is None else finite_CHW
        levels = zip(field_CHW, finite, strict=True)
        return cls(tuple(field_moments(field_HW, finite_HW, weights) for field_HW, finite_HW in levels))

    def merged(self, other: LevelMoments) -> LevelMoments:
        """Combine with the moments of another state."""
        if len(self.levels) < len(other.levels):
            return other
        return LevelMoments(tuple(map(FieldMoments.merged, self.levels, other.levels)))

    @property
    def weight_C(self) -> Array:
        """Sum of the weights of each level's finite values; their number where all weigh 1."""
        return np.array([level.weight for level in self.levels])

    @property
    def mean_C(self) -> Array:
        """Mean of each level; 0 where there is no value."""
        return np.array([level.mean for level in self.levels])

    @property
    def scale_C(self) -> Array:
        """Population standard deviation of each level; NaN where there is no value."""
        return np.array([level.scale for level in self.levels])


def field_moments(field: Array, finite: Array | None = None, weights: Array | None = None) -> FieldMoments:
    """Compute the moments of the finite values of one field.

    Args:
        field: Values of any shape; [H, W] where there are weights.
        finite: Mask of the finite values, of the field's shape; None where all are finite.
        weights: Weights of rows, [H], or of points, [H, W]; all weigh 1 by default.
    """
    if weights is None and (field.ndim < 2 or field.shape[-1] > _BLOCK):
        return _moments_without_rows(field.ravel(), finite)
    field_HW = field.reshape(-1, field.shape[-1])
    rows = max(1, _BLOCK // max(1, field_HW.shape[1]))
    # One buffer for all blocks: it stays in the cache of the core.
    buffer = np.empty((min(rows, len(field_HW)), field_HW.shape[1]))
    parts = []
    for start in range(0, len(field_HW), rows):
        block = slice(start, start + rows)
        finite_RW = None if finite is None else finite.reshape(field_HW.shape)[block]
        parts.append(_row_moments(field_HW[block], finite_RW, None if weights is None else weights[block], buffer))
    if not parts:
        return FieldMoments()
    rows_5R = np.concatenate(parts, axis=1)
    weight_R, sum_R, squares_R, cubes_R, mean_R = rows_5R[:, rows_5R[0] > 0]
    weight = math.fsum(weight_R)
    if not weight:
        return FieldMoments()
    # Sums of rows are added without rounding, and moved from the rows' means to the mean of all.
    mean = math.fsum(sum_R) / weight
    shift_R = mean_R - mean
    squares = math.fsum(squares_R + weight_R * shift_R**2)
    return FieldMoments(weight, mean, squares, math.fsum(cubes_R + 3 * shift_R * squares_R + weight_R * shift_R**3))


def _moments_without_rows(values: Array, finite: Array | None) -> FieldMoments:
    """Cut values into full rows of a length, and a shorter one of what is left."""
    whole = len(values) // _ROW * _ROW
    moments = FieldMoments()
    for start, stop, length in ((0, whole, _ROW), (whole, len(values), len(values) - whole)):
        if start == stop:
            continue
        finite_HW = None if finite is None else finite.ravel()[start:stop].reshape(-1, length)
        moments = moments.merged(field_moments(values[start:stop].reshape(-1, length), finite_HW))
    return moments


def _row_moments(field_RW: Array, finite_RW: Array | None, weights: Array | None, buffer: Array) -> Array:
    """Weight, weighted sum, squares and cubes about the row's mean, and that mean, of each row; shape [5, R]."""
    values_RW = buffer[: len(field_RW)]
    np.copyto(values_RW, field_RW)
    if finite_RW is not None:
        np.copyto(values_RW, 0.0, where=~finite_RW)
    points_RW = None
    if weights is not None and weights.ndim == 2:
        points_RW = weights if finite_RW is None else weights * finite_RW
        weight_R, sum_R = points_RW.sum(axis=1), (points_RW * values_RW).sum(axis=1)
    else:
        weight_R, sum_R = np.full(len(field_RW), float(field_RW.shape[1])), values_RW.sum(axis=1)
        if finite_RW is not None:
            weight_R = finite_RW.sum(axis=1, dtype=np.float64)
    mean_R = sum_R / np.maximum(weight_R, np.finfo(np.float64).tiny)
    values_RW -= mean_R[:, None]
    if finite_RW is not None:
        # Zeros of missing values became minus the mean.
        np.copyto(values_RW, 0.0, where=~finite_RW)
    squared_RW = values_RW * values_RW
    if points_RW is not None:
        squared_RW *= points_RW
    squares_R, cubes_R = squared_RW.sum(axis=1), np.einsum("rw,rw->r", squared_RW, values_RW)
    rows_5R = np.stack([weight_R, sum_R, squares_R, cubes_R, mean_R])
    if weights is not None and points_RW is None:
        # One weight for all points of a row: its mean stays.
        rows_5R[:4] *= weights
    return rows_5R
