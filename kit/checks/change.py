"""How a field of something accumulated changed since the state before: what tells running totals from windows."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Change = Literal["grown", "fallen", "mixed", "dry"]

_NOISE, _STEP = 0.01, 1e-3
"""Fall, relative to the value before and to the largest value, that packing and differences of sums explain."""
_LEAST = 0.005
"""Share of points with anything in them, below which a field says nothing."""
_HARDLY, _MOSTLY = 0.01, 0.5
"""Shares of points that fall: of a total that grows on, and of one that begins anew."""


def change_of(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
    """Say how most points changed.

    Args:
        before: Values of the state before, none of which can be negative; any shape.
        after: Values of the state, same shape.

    Returns:
        ``grown`` where hardly any point fell, ``fallen`` where most did, ``mixed`` where some did, ``dry`` where both
        states are about zero nearly everywhere.
    """
    high = max(float(np.nanmax(before, initial=0)), float(np.nanmax(after, initial=0)))
    if not 0 < high < np.inf:
        return "dry"
    least = max(5.0, _LEAST * before.size)
    wet = int(np.count_nonzero(before > 2 * _STEP * high))
    if wet < least:
        return "grown" if np.count_nonzero(after > 2 * _STEP * high) >= least else "dry"
    fallen = np.count_nonzero(before - after > _STEP * high + _NOISE * before)
    if fallen < _HARDLY * wet:
        return "grown"
    return "fallen" if fallen > _MOSTLY * wet else "mixed"
