"""Cells of a grid on the sphere: edges, corners, areas.

Dimensions: H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cell_areas", "corners", "edges"]

Array = npt.NDArray[np.float64]


def edges(centres: npt.NDArray[Any], axis: int = 0) -> Array:
    """Edges of cells halfway between centres; the outermost cells are as wide outwards as inwards.

    Args:
        centres: degrees, at least one along the axis; one alone is taken to be a degree wide.
        axis: along which the edges are found.

    Returns:
        One more along that axis.
    """
    values = np.moveaxis(np.asarray(centres, dtype=np.float64), axis, 0)
    if len(values) == 1:
        return np.moveaxis(np.concatenate([values - 0.5, values + 0.5]), 0, axis)
    middle = (values[1:] + values[:-1]) / 2
    found = np.concatenate([2 * values[:1] - middle[:1], middle, 2 * values[-1:] - middle[-1:]])
    return np.moveaxis(found, 0, axis)


def corners(centres_HW: npt.NDArray[Any]) -> Array:
    """Corners of the cells of a curvilinear grid, [H + 1, W + 1], in the middle of the four centres around each."""
    return edges(edges(centres_HW, 0), 1)


def cell_areas(latitude_HW: npt.NDArray[Any], longitude_HW: npt.NDArray[Any]) -> Array:
    """Areas of the cells of a curvilinear grid on the unit sphere.

    The map from longitude and sine of latitude keeps areas (Lambert's cylindrical equal-area projection, Snyder 1987,
    equations 10-1 and 10-2), so the area of a cell is that of its quadrilateral there: half the cross product of its
    diagonals. Parallels and meridians are straight lines there, and the cells of a regular grid come out exactly;
    other edges are taken to be straight between corners. No cell reaches beyond a pole.

    Args:
        latitude_HW: of the centres, degrees north.
        longitude_HW: degrees east, without a jump.

    Returns:
        Steradians, positive, [H, W].
    """
    x = np.deg2rad(corners(longitude_HW))
    y = np.sin(np.deg2rad(np.clip(corners(latitude_HW), -90, 90)))
    falling = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    rising = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    return np.asarray(np.abs(falling[0] * rising[1] - falling[1] * rising[0]) / 2)
