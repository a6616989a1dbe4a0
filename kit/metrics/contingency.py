"""Contingency tables of events, such as rain of 1 mm and more, and the scores that they give.

A table counts hits (forecast and observed), misses (observed alone), false alarms (forecast alone) and all points;
points may weigh by their area. Definitions: Wilks 2011, "Statistical Methods in the Atmospheric Sciences", section 8.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    Float64 = npt.NDArray[np.float64]

THRESHOLDS_MM = (0.1, 1.0, 5.0, 10.0)
"""Amounts of rain in an accumulation window, in millimetres, from which on it counts."""
MM_PER_M = 1000
OUTCOMES = ("hits", "misses", "false_alarms")
"""Counts of a table beside that of all points."""


def events(amount: Tensor, threshold_mm: float) -> Tensor:
    """Tell where rain, in metres, reaches a threshold in millimetres."""
    # In the values' own precision: 0.1 mm in float32 is a little less than in float64.
    return amount >= threshold_mm / MM_PER_M


def outcomes(forecast: Tensor, observed: Tensor) -> Sequence[Tensor]:
    """Tell where events were hit, missed and falsely predicted, in the order of ``OUTCOMES``."""
    return forecast & observed, ~forecast & observed, forecast & ~observed


def csi(hits: Float64, misses: Float64, false_alarms: Float64) -> Float64:
    """Critical success index, from 0 to 1 at best; NaN where the event was neither forecast nor observed."""
    return ratio(hits, hits + misses + false_alarms)


def ets(hits: Float64, misses: Float64, false_alarms: Float64, points: Float64) -> Float64:
    """Equitable threat score, or Gilbert skill score: the index above that of chance; from -1/3 to 1 at best."""
    chance = ratio((hits + misses) * (hits + false_alarms), points)
    return ratio(hits - chance, hits + misses + false_alarms - chance)


def frequency_bias(hits: Float64, misses: Float64, false_alarms: Float64) -> Float64:
    """Events forecast per event observed: above 1 where rain is forecast too often; NaN where none was observed."""
    return ratio(hits + false_alarms, hits + misses)


def brier(misses: Float64, false_alarms: Float64, points: Float64) -> Float64:
    """Mean squared error of the event's probability, which of a single forecast is 0 or 1; 0 at best."""
    return ratio(misses + false_alarms, points)


def ratio(above: Any, below: Any) -> Float64:
    """Divide sums; NaN where nothing was counted, which is no perfect score."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(below, 0), np.nan, np.divide(above, below))
