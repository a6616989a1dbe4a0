"""Weights of grid points by the area of the sphere that their cells cover; whoever weighs by area takes these.

Dimensions: H latitude.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["area_weights"]


def area_weights(latitude_H: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Weight latitude rows by the area of the sphere that their cells cover.

    A cell reaches halfway to its neighbours, the outermost ones as far outwards as inwards but never beyond
    a pole; its area is the difference of the sines of its edges. A row on a pole is thus half a cell, not nothing.

    Args:
        latitude_H: row centres, degrees north, strictly decreasing, shape [H]; a regional box may hold any part.

    Returns:
        Dimensionless float64 weights of mean 1, shape [H].

    Raises:
        ValueError: the latitudes are empty, not one-dimensional, beyond a pole, or not strictly decreasing.
    """
    rows_H = np.asarray(latitude_H, dtype=np.float64)
    _check(rows_H)
    if len(rows_H) == 1:
        return np.ones(1)
    middle = (rows_H[1:] + rows_H[:-1]) / 2
    edges = np.concatenate([2 * rows_H[:1] - middle[:1], middle, 2 * rows_H[-1:] - middle[-1:]])
    sines = np.sin(np.deg2rad(np.clip(edges, -90, 90)))
    areas_H = sines[:-1] - sines[1:]
    return np.asarray(areas_H / areas_H.mean())


def _check(rows_H: npt.NDArray[np.float64]) -> None:
    if rows_H.ndim != 1 or len(rows_H) == 0:
        msg = f"latitudes must be one-dimensional and not empty, got shape {list(rows_H.shape)}"
        raise ValueError(msg)
    if not bool((np.abs(rows_H) <= 90).all()):
        msg = f"latitudes must lie in [-90, 90] degrees north, got {rows_H.min():g} to {rows_H.max():g}"
        raise ValueError(msg)
    wrong = np.flatnonzero(rows_H[1:] >= rows_H[:-1])
    if len(wrong):
        row = int(wrong[0]) + 1
        msg = f"latitudes must strictly decrease, but row {row} is {rows_H[row]:g} after {rows_H[row - 1]:g} degrees"
        raise ValueError(msg)
