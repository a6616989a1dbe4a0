"""Scores of rain, computed from sums of events.

E sums of events, as ``kit.verification.events.EventSums.names`` orders them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from kit.metrics.contingency import OUTCOMES, brier, csi, ets, frequency_bias, ratio
from kit.verification.events import FSS_ERROR, FSS_REFERENCE, SEEPS, SEEPS_WEIGHT
from kit.verification.significance import Float64, Score
from kit.verification.sums import WEIGHT

HIT, MISS, FALSE_ALARM = OUTCOMES
_OF_TABLES: Mapping[str, tuple[Callable[..., Float64], tuple[str, ...]]] = {
    "csi": (csi, (HIT, MISS, FALSE_ALARM)),
    "ets": (ets, (HIT, MISS, FALSE_ALARM, WEIGHT)),
    "frequency_bias": (frequency_bias, (HIT, MISS, FALSE_ALARM)),
    "brier": (brier, (MISS, FALSE_ALARM, WEIGHT)),
}
"""Scores of contingency tables, with what they are computed from."""
WITH_INTERVALS = ("csi", "fss", "seeps")
"""Kinds of scores that are given intervals."""


def event_scores(names: Sequence[str]) -> dict[str, Score]:
    """List the scores that sums of events give: functions of sums, [..., E].

    Args:
        names: Names of the sums, in their order along E.

    Returns:
        ``csi_1mm``, ``ets_1mm``, ``frequency_bias_1mm``, ``brier_1mm`` and ``fss_1mm_3x3`` of each threshold and
        neighbourhood, and ``seeps``; NaN where nothing can be said.
    """
    at = {name: position for position, name in enumerate(names)}
    found: dict[str, Score] = {}
    for threshold in [name.removeprefix(f"{HIT}_") for name in names if name.startswith(f"{HIT}_")]:
        for kind, (formula, needed) in _OF_TABLES.items():
            positions = [at[name if name == WEIGHT else f"{name}_{threshold}"] for name in needed]
            found[f"{kind}_{threshold}"] = partial(_of_table, formula, positions)
    for name in names:
        if name.startswith(FSS_ERROR):
            place = name.removeprefix(FSS_ERROR)
            found[f"fss{place}"] = partial(_fss, at[name], at[FSS_REFERENCE + place])
    if SEEPS in at:
        found[SEEPS] = partial(_mean, at[SEEPS], at[SEEPS_WEIGHT])
    return found


def has_interval(score: str) -> bool:
    """Tell whether a score, such as ``csi_1mm``, is given an interval."""
    return score.partition("_")[0] in WITH_INTERVALS


def _of_table(formula: Callable[..., Float64], positions: Sequence[int], sums: Float64) -> Float64:
    return formula(*(sums[..., position] for position in positions))


def _fss(error: int, reference: int, sums: Float64) -> Float64:
    """Compute the fractions skill score, from 0 to 1 at best; NaN where the event was neither forecast nor observed."""
    return 1 - ratio(sums[..., error], sums[..., reference])


def _mean(total: int, weight: int, sums: Float64) -> Float64:
    return ratio(sums[..., total], sums[..., weight])
