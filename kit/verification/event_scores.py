"""Scores of rain, computed from sums of events.

E sums of events, as ``kit.verification.events.EventSums.names`` orders them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from kit.metrics.contingency import OUTCOMES, brier, csi, ets, frequency_bias, ratio
from kit.verification.events import FSS_ERROR, FSS_REFERENCE, SEEPS, SEEPS_WEIGHT
from kit.verification.significance import Float64, Score, alike, confidences
from kit.verification.sums import WEIGHT

HIT, MISS, FALSE_ALARM = OUTCOMES
_OF_TABLES: Mapping[str, tuple[Callable[..., Float64], tuple[str, ...]]] = {
    "csi": (csi, (HIT, MISS, FALSE_ALARM)),
    "ets": (ets, (HIT, MISS, FALSE_ALARM, WEIGHT)),
    "frequency_bias": (frequency_bias, (HIT, MISS, FALSE_ALARM)),
    "brier": (brier, (MISS, FALSE_ALARM, WEIGHT)),
}
"""Scores of contingency tables, with what they are computed from."""
WITH_INTERVALS: Mapping[str, tuple[float, float]] = {"csi": (0, 1), "fss": (0, 1), "seeps": (0, math.inf)}
"""Kinds of scores that are given intervals, with the least and the most that they can be."""


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


def event_rows(
    scores: Mapping[str, Score], ours: Float64, references: Mapping[str, Float64], overlapping: int
) -> list[Mapping[str, float | None]]:
    """Score rain of several variables or regions.

    Args:
        scores: Scores by name, as ``event_scores`` lists them.
        ours: Sums of each start date, in order, [N, S, E] of S variables.
        references: Sums of other forecasts on the same dates, by name.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        Rows as ``kit.verification.scoring.score_events`` describes them; what no date can say is left out.
    """
    rows: list[dict[str, float]] = [{} for _ in range(ours.shape[1])]
    for chosen, dates in alike(ours[..., 0] > 0):
        series = ours[dates][:, chosen]
        for number in chosen:
            rows[number]["event_dates"] = int(dates.sum())
        for name, score in scores.items():
            values = score(series.mean(axis=0)).tolist()
            kind = name.partition("_")[0]
            found = confidences(score, series, overlapping) if kind in WITH_INTERVALS else None
            for place, number in enumerate(chosen):
                rows[number][name] = values[place]
                if found is not None:
                    # Few blocks stretch an interval beyond what a score can be.
                    low, high = np.clip([found[place].low, found[place].high], *WITH_INTERVALS[kind]).tolist()
                    rows[number] |= {f"{name}_low": low, f"{name}_high": high}
    for reference, theirs in references.items():
        for chosen, dates in alike((ours[..., 0] > 0) & (theirs[..., 0] > 0)):
            if not dates.any():
                continue
            mean = theirs[dates][:, chosen].mean(axis=0)
            for name, score in scores.items():
                for number, value in zip(chosen, score(mean).tolist(), strict=True):
                    rows[number][f"{reference}_{name}"] = value
    return [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]


def _of_table(formula: Callable[..., Float64], positions: Sequence[int], sums: Float64) -> Float64:
    return formula(*(sums[..., position] for position in positions))


def _fss(error: int, reference: int, sums: Float64) -> Float64:
    """Compute the fractions skill score, from 0 to 1 at best; NaN where the event was neither forecast nor observed."""
    return 1 - ratio(sums[..., error], sums[..., reference])


def _mean(total: int, weight: int, sums: Float64) -> Float64:
    return ratio(sums[..., total], sums[..., weight])
