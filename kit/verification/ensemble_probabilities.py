"""Scores of the probabilities that an ensemble gives an event: the share of members that forecast it.

Dimensions: K number of members that forecast the event, from 0 to all. Sums are of all points by that number, then of
those where the event came: [..., 2 K].
"""

from collections.abc import Mapping

import numpy as np

from kit.metrics.contingency import ratio
from kit.verification.significance import Float64, Score


def brier(sums: Float64) -> Float64:
    """Mean squared error of the probability: 0 at best."""
    share, points, came = _parts(sums)
    errors = points * share**2 - 2 * share * came + came
    return ratio(errors.sum(axis=-1), points.sum(axis=-1))


def brier_fair(sums: Float64) -> Float64:
    """Brier score that an ensemble of as many members as one likes would have.

    Ferro 2014, "Fair scores for ensemble forecasts", equation 1.
    """
    share, points, _ = _parts(sums)
    members = len(share) - 1
    of_few_members = (points * share * (1 - share)).sum(axis=-1) / (members - 1)
    return brier(sums) - ratio(of_few_members, points.sum(axis=-1))


def reliability(sums: Float64) -> Float64:
    """Mean squared difference of probabilities and how often the event came then: 0 at best.

    Murphy 1973, "A new vector partition of the probability score": as every probability is a class of its own, the
    Brier score is exactly reliability - resolution + uncertainty.
    """
    share, points, came = _parts(sums)
    squared = points * (share - _frequency(points, came)) ** 2
    return ratio(squared.sum(axis=-1), points.sum(axis=-1))


def resolution(sums: Float64) -> Float64:
    """Mean squared difference of how often the event came with a probability and at all: the more, the better."""
    _, points, came = _parts(sums)
    at_all = ratio(came.sum(axis=-1), points.sum(axis=-1))
    squared = points * (_frequency(points, came) - at_all[..., None]) ** 2
    return ratio(squared.sum(axis=-1), points.sum(axis=-1))


def uncertainty(sums: Float64) -> Float64:
    """Brier score of who always says how often the event comes."""
    _, points, came = _parts(sums)
    at_all = ratio(came.sum(axis=-1), points.sum(axis=-1))
    return at_all * (1 - at_all)


def roc_area(sums: Float64) -> Float64:
    """Area under the curve of hit rate over false alarm rate: 1 at best, 0.5 of no skill.

    Wilks 2011, "Statistical Methods in the Atmospheric Sciences", section 8.4.7: straight lines between the points of
    all probabilities; NaN where the event always came, or never.
    """
    _, points, came = _parts(sums)
    hits, alarms = _shares_from_above(came), _shares_from_above(points - came)
    widths = np.diff(alarms, axis=-1)
    return np.asarray((widths * (hits[..., 1:] + hits[..., :-1]) / 2).sum(axis=-1))


SCORES: Mapping[str, Score] = {
    "brier": brier,
    "brier_fair": brier_fair,
    "reliability": reliability,
    "resolution": resolution,
    "uncertainty": uncertainty,
    "roc_area": roc_area,
}
"""Scores of an event, by the beginning of their names: ``brier_1mm``."""
WITH_INTERVALS = ("brier", "brier_fair", "roc_area")


def curve(sums: Float64) -> dict[str, list[float]]:
    """Describe how reliable probabilities are.

    Args:
        sums: Sums of one event, [2 K].

    Returns:
        Of each ``probability`` that was ever forecast how often the event came (``observed``), and the ``share`` of
        points that it was forecast at.
    """
    share, points, came = _parts(sums)
    given = points > 0
    return {
        "probability": share[given].tolist(),
        "observed": (came[given] / points[given]).tolist(),
        "share": (points[given] / points.sum()).tolist(),
    }


def _parts(sums: Float64) -> tuple[Float64, Float64, Float64]:
    """Return the probabilities, [K], and the sums of all points and of those where the event came, [..., K]."""
    counts = sums.shape[-1] // 2
    return np.linspace(0, 1, counts), sums[..., :counts], sums[..., counts:]


def _frequency(points: Float64, came: Float64) -> Float64:
    """Return how often the event came with each probability; 0 of those that were never forecast."""
    return np.divide(came, points, out=np.zeros_like(came), where=points > 0)


def _shares_from_above(sums: Float64) -> Float64:
    """Return which share of points had a probability at least as high, from none to all, [..., K + 1]."""
    from_above = np.flip(sums, axis=-1).cumsum(axis=-1)
    shares = ratio(from_above, from_above[..., -1:])
    return np.concatenate([np.zeros_like(shares[..., :1]), shares], axis=-1)
