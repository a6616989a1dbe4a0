"""Longitudes as places on a circle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["continuous", "is_closed", "western_edge"]


def continuous(values_W: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Longitudes without a jump, as figures and files want them: those west of Greenwich are negative.

    Args:
        values_W: degrees east in [0, 360), each one east of the one before, [W]; they may pass 0 once.
    """
    values = np.asarray(values_W, dtype=np.float64)
    passed = np.flatnonzero(np.diff(values) < 0)
    return np.where(np.arange(len(values)) <= passed[0], values - 360, values) if passed.size else values


def western_edge(increasing_W: npt.NDArray[Any]) -> int:
    """Where a store's box begins: the first column after its only hole, if the box goes on at 0 degrees, else 0.

    Args:
        increasing_W: all longitudes of a store, strictly increasing in [0, 360), [W].
    """
    steps = np.diff(increasing_W, append=increasing_W[0] + 360)
    usual = 1.5 * float(np.median(steps)) + 1e-9
    wide = np.flatnonzero(steps > usual)
    return int(wide[0]) + 1 if len(wide) == 1 and wide[0] + 1 < len(steps) else 0


def is_closed(eastwards_W: npt.NDArray[Any]) -> bool:
    """Whether longitudes, each one east of the one before, go around the whole circle, [W]."""
    if len(eastwards_W) < 2:
        return False
    steps = np.diff(eastwards_W) % 360
    return bool(np.isclose(steps.sum() + steps.mean(), 360))
