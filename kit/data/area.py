"""Weights of grid points by the area of the sphere that their cells cover; whoever weighs by area takes these.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kit.data.cells import cell_areas

__all__ = ["area_weights"]


def area_weights(latitude: npt.ArrayLike, longitude: npt.ArrayLike | None = None) -> npt.NDArray[np.float64]:
    """Weight latitude rows, or the points of a curvilinear grid, by the area of the sphere that their cells cover.

    A cell reaches halfway to its neighbours, the outermost ones as far outwards as inwards but never beyond
    a pole; its area is the difference of the sines of its edges. A row on a pole is thus half a cell, not nothing.
    Areas of a curvilinear grid's cells (``kit.data.cells.cell_areas``) are the same where the grid is regular.

    Args:
        latitude: row centres, degrees north, strictly decreasing, shape [H]; a regional box may hold any part. Or
            latitudes of all points, decreasing along every column, [H, W].
        longitude: longitudes of all points, degrees east, [H, W]; without effect where latitudes are a vector.

    Returns:
        Dimensionless float64 weights of mean 1, shape [H] or [H, W].

    Raises:
        ValueError: the latitudes are empty, beyond a pole, or not strictly decreasing, or longitudes do not fit them.
    """
    rows_H = np.asarray(latitude, dtype=np.float64)
    _check(rows_H)
    if rows_H.ndim == 2:
        if longitude is None or np.shape(longitude) != rows_H.shape:
            got = None if longitude is None else list(np.shape(longitude))
            msg = f"longitudes of the latitudes' shape {list(rows_H.shape)} are needed, got {got}"
            raise ValueError(msg)
        areas_HW = cell_areas(rows_H, np.asarray(longitude))
        return np.asarray(areas_HW / areas_HW.mean())
    if len(rows_H) == 1:
        return np.ones(1)
    middle = (rows_H[1:] + rows_H[:-1]) / 2
    edges = np.concatenate([2 * rows_H[:1] - middle[:1], middle, 2 * rows_H[-1:] - middle[-1:]])
    sines = np.sin(np.deg2rad(np.clip(edges, -90, 90)))
    areas_H = sines[:-1] - sines[1:]
    return np.asarray(areas_H / areas_H.mean())


def _check(rows_H: npt.NDArray[np.float64]) -> None:
    if rows_H.ndim not in (1, 2) or rows_H.size == 0:
        msg = f"latitudes must be a vector or a matrix and not empty, got shape {list(rows_H.shape)}"
        raise ValueError(msg)
    if not bool((np.abs(rows_H) <= 90).all()):
        msg = f"latitudes must lie in [-90, 90] degrees north, got {rows_H.min():g} to {rows_H.max():g}"
        raise ValueError(msg)
    wrong = np.argwhere(rows_H[1:] >= rows_H[:-1])
    if len(wrong):
        row, *column = map(int, wrong[0])
        after, before = rows_H[(row + 1, *column)], rows_H[(row, *column)]
        msg = f"latitudes must strictly decrease, but row {row + 1} is {after:g} after {before:g} degrees"
        raise ValueError(msg)
