"""Mean and the sums of squares and cubes about it, of one field and merged over fields.

A field is taken block by block, in float64 that stays in a core's cache: no copy of all of it is made. Each row has a
mean of its own, about which its squares are summed (Chan, Golub and LeVeque 1983), and the rows' sums are added without
rounding (Shewchuk 1997, as ``math.fsum`` does), so that neither a large mean nor the size of the field costs digits.

Dimensions: H rows, W columns, R rows of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FieldMoments", "field_moments"]

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
        """Standard deviation of these values themselves; NaN where there is none."""
        return math.sqrt(self.squares / self.weight) if self.weight else math.nan

    @property
    def skewness(self) -> float:
        """Third standardised moment; NaN where the values do not vary."""
        spread = self.squares / self.weight if self.weight else 0.0
        return self.cubes / self.weight / spread**1.5 if spread > 0 and spread**1.5 > 0 else math.nan

    def merged(self, other: FieldMoments) -> FieldMoments:
        """Moments of the values of both (Pebay 2008, eq. 2.1 and 2.2)."""
        if not (self.weight and other.weight):
            return self if self.weight else other
        weight, shift = self.weight + other.weight, other.mean - self.mean
        share, product = other.weight / weight, self.weight * other.weight / weight
        crossed = 3 * shift * (self.weight * other.squares - other.weight * self.squares) / weight
        return FieldMoments(
            weight,
            self.mean + shift * share,
            self.squares + other.squares + shift * shift * product,
            self.cubes + other.cubes + shift**3 * product * (self.weight - other.weight) / weight + crossed,
        )


def field_moments(field: Array, finite: Array | None = None, weights: Array | None = None) -> FieldMoments:
    """Moments of the finite values of one field.

    Args:
        field: values of any shape; [H, W] where there are weights.
        finite: which of them are finite; None for all.
        weights: of rows, [H], or of points, [H, W]; all weigh 1 by default.
    """
    if weights is None and (field.ndim < 2 or field.shape[-1] > _BLOCK):
        return _of_pieces(field.ravel(), None if finite is None else finite.ravel())
    field_HW = field.reshape(-1, field.shape[-1])
    finite_HW = None if finite is None else finite.reshape(field_HW.shape)
    rows = max(1, _BLOCK // max(1, field_HW.shape[1]))
    buffer = np.empty((min(rows, len(field_HW)), field_HW.shape[1]))
    parts = []
    for start in range(0, len(field_HW), rows):
        block = slice(start, start + rows)
        parts.append(
            _block(
                field_HW[block],
                None if finite_HW is None else finite_HW[block],
                None if weights is None else weights[block],
                buffer,
            )
        )
    return _joined(np.concatenate(parts, axis=1)) if parts else FieldMoments()


def _of_pieces(values: Array, finite: Array | None) -> FieldMoments:
    """Moments of values without rows: of full rows, and of what is left."""
    whole = len(values) // _ROW * _ROW
    pieces = [
        field_moments(part.reshape(-1, length), None if there is None else there.reshape(-1, length))
        for part, there, length in (
            (values[:whole], None if finite is None else finite[:whole], _ROW),
            (values[whole:], None if finite is None else finite[whole:], len(values) - whole),
        )
        if part.size
    ]
    return pieces[0].merged(pieces[1]) if len(pieces) == 2 else pieces[0] if pieces else FieldMoments()


def _block(field_RW: Array, finite_RW: Array | None, weights: Array | None, buffer: Array) -> Array:
    """Weight, weighted sum, squares and cubes about the row's mean, and that mean, of each row; shape [5, R]."""
    values_RW = buffer[: len(field_RW)]
    np.copyto(values_RW, field_RW)
    missing_RW = None if finite_RW is None else ~finite_RW
    if missing_RW is not None:
        np.copyto(values_RW, 0.0, where=missing_RW)
    points_RW = weights if weights is not None and weights.ndim == 2 else None
    if points_RW is not None:
        points_RW = points_RW if finite_RW is None else points_RW * finite_RW
        weight_R, sum_R = points_RW.sum(axis=1), (points_RW * values_RW).sum(axis=1)
    else:
        width = float(field_RW.shape[1])
        weight_R = np.full(len(field_RW), width) if finite_RW is None else finite_RW.sum(axis=1, dtype=np.float64)
        sum_R = values_RW.sum(axis=1)
    mean_R = sum_R / np.maximum(weight_R, np.finfo(np.float64).tiny)
    values_RW -= mean_R[:, None]
    if missing_RW is not None:
        np.copyto(values_RW, 0.0, where=missing_RW)
    squared_RW = values_RW * values_RW if points_RW is None else values_RW * values_RW * points_RW
    squares_R, cubes_R = squared_RW.sum(axis=1), np.einsum("rw,rw->r", squared_RW, values_RW)
    rows = np.stack([weight_R, sum_R, squares_R, cubes_R, mean_R])
    if weights is not None and points_RW is None:
        rows[:4] *= weights
    return rows


def _joined(rows: Array) -> FieldMoments:
    """Moments of all rows, shape [5, R]."""
    weight_R, sum_R, squares_R, cubes_R, mean_R = rows[:, rows[0] > 0]
    weight = math.fsum(weight_R)
    if not weight:
        return FieldMoments()
    mean = math.fsum(sum_R) / weight
    shift_R = mean_R - mean
    squares = math.fsum(squares_R + weight_R * shift_R**2)
    return FieldMoments(weight, mean, squares, math.fsum(cubes_R + 3 * shift_R * squares_R + weight_R * shift_R**3))
