"""Scores of ensembles, computed from sums of their members.

Dimensions: N start date, S series (channels of a region), M moment, K rank or number of members.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from kit.metrics.contingency import ratio
from kit.metrics.scores import skill
from kit.verification.archive import EXCEEDANCES, MEMBERS, RANKS, Archive
from kit.verification.ensemble_events import REACHES
from kit.verification.ensemble_probabilities import SCORES as PROBABILITY_SCORES
from kit.verification.ensemble_probabilities import WITH_INTERVALS, curve
from kit.verification.ensemble_ranks import flatness, histogram
from kit.verification.ensemble_sums import (
    CRPS,
    ENERGY,
    EXPECTED_SQUARED,
    HEADLINES,
    MEAN_SQUARED,
    MEMBER_MOMENTS,
    VARIANCE,
)
from kit.verification.scoring import lead_name, spacing_hours
from kit.verification.significance import Float64, Score, alike, confidences, differences, overlap
from kit.verification.sums import ABSOLUTE, MODEL, PERSISTENCE, WEIGHT

_AT: Mapping[str, int] = {name: position for position, name in enumerate(MEMBER_MOMENTS)}
Row = dict[str, Any]


def mean_of(name: str, sums: Float64) -> Float64:
    """Average one of ``MEMBER_MOMENTS``, [...] of [..., M]."""
    return ratio(sums[..., _AT[name]], sums[..., _AT[WEIGHT]])


def mean_rmse(sums: Float64) -> Float64:
    """Root of the mean squared error of the ensemble's mean, in the variable's unit."""
    return np.sqrt(mean_of(MEAN_SQUARED, sums))


def spread(sums: Float64) -> Float64:
    """Root of the mean variance of the members, in the variable's unit."""
    return np.sqrt(mean_of(VARIANCE, sums))


def spread_error(sums: Float64) -> Float64:
    """Ratio of spread and error: 1 where what came could be one of the members, less where they are too alike.

    Fortin et al. 2014, "Why should ensemble spread match the RMSE of the ensemble mean?", equation 15: of M members
    the spread times the root of (M + 1) / M is compared with the error of their mean.
    """
    return np.sqrt(ratio(sums[..., _AT[EXPECTED_SQUARED]], sums[..., _AT[MEAN_SQUARED]]))


MEMBER_SCORES: Mapping[str, Score] = {
    "crps": partial(mean_of, CRPS),
    "rmse": mean_rmse,
    "spread": spread,
    "spread_error": spread_error,
    "energy_score": partial(mean_of, ENERGY),
}
"""Scores of members: functions of sums, [..., M]."""


def members_of(archive: Archive) -> int:
    """Return the number of members whose sums an archive holds; 0 of single forecasts."""
    return max(0, len(archive.coordinates["rank"]) - 1)


def ensemble_table(archive: Archive) -> dict[str, dict[str, dict[str, Row]]]:
    """Score an ensemble by all sums that an archive holds.

    Returns:
        By region, lead (``024h``) and channel: ``dates``, ``crps`` (fair), ``rmse`` of the mean, ``spread`` and
        ``spread_error``, with the ends of intervals as ``crps_low`` where there are dates enough, the same of
        persistence (``persistence_crps``, its mean absolute error, ``crps_skill`` against it, and
        ``persistence_crps_difference_low``, ``_high`` and ``_significant``); ``rank_histogram``, the share of points
        where what came has each rank among the members, and ``rank_flatness``, as ``flatness`` tests it; and for each
        threshold the scores of ``kit.verification.ensemble_probabilities``, such as ``brier_1mm`` with the ends of
        intervals, and under ``reliability_curves`` its ``curve``. Under ``HEADLINES`` is the ``energy_score`` alone.
    """
    spacing = spacing_hours(archive.coordinates["start"])
    table: dict[str, dict[str, dict[str, Row]]] = {}
    for lead, sums in archive.by_lead(MEMBERS):
        ordered = sums.sel(ensemble=MODEL).transpose("start", "region", "quantity", "member_moment")
        series, names = _series(ordered)
        overlapping = overlap(lead, spacing)
        rows = member_rows(series, overlapping)
        # Of a single forecast the CRPS is the absolute error.
        absolute = archive.of_lead(lead).sel(forecast=PERSISTENCE, moment=[WEIGHT, ABSOLUTE])
        channels = [name for name in ordered["quantity"].values if name != HEADLINES]
        absolute = absolute.transpose("start", "region", "channel", "moment").sel(channel=channels)
        known = [place for place, (_, channel) in enumerate(names) if channel != HEADLINES]
        against_persistence(series[:, known], _series(absolute)[0], overlapping, [rows[place] for place in known])
        for (region, channel), row in zip(names, rows, strict=True):
            if row["dates"]:
                table.setdefault(region, {}).setdefault(lead_name(lead), {})[channel] = row
    for lead, sums in archive.by_lead(RANKS):
        series, names = _series(sums.sel(ensemble=MODEL).transpose("start", "region", "ranked", "rank"))
        for position, (region, channel) in enumerate(names):
            rows_of_lead = table.get(region, {}).get(lead_name(lead), {})
            if channel in rows_of_lead:
                rows_of_lead[channel] |= _rank_numbers(series[:, position], overlap(lead, spacing))
    for lead, sums in archive.by_lead(EXCEEDANCES):
        series, names = _series(sums.sel(ensemble=MODEL).transpose("start", "region", "exceedance", "outcome"))
        places = [(region, *exceedance.split(REACHES)) for region, exceedance in names]
        found = probability_rows(series, [label for _, _, label in places], overlap(lead, spacing))
        for (region, channel, label), (scores, of_label) in zip(places, found, strict=True):
            rows_of_lead = table.get(region, {}).get(lead_name(lead), {})
            if channel in rows_of_lead and scores:
                rows_of_lead[channel] |= scores
                rows_of_lead[channel].setdefault("reliability_curves", {})[label] = of_label
    for leads in table.values():
        for rows_of_lead in leads.values():
            for channel, row in rows_of_lead.items():
                rows_of_lead[channel] = plain(row)
    return table


def _rank_numbers(sums: Float64, overlapping: int) -> Row:
    """Describe the ranks of one channel, by sums of each start date, [N, K]."""
    dates = sums.sum(axis=1) > 0
    if not dates.any():
        return {}
    shares = histogram(sums[dates].mean(axis=0))
    return {"rank_histogram": shares.tolist(), "rank_flatness": flatness(sums[dates], overlapping)}


def probability_rows(sums: Float64, labels: Sequence[str], overlapping: int) -> list[tuple[Row, Row]]:
    """Score probabilities of several events or regions.

    Args:
        sums: Sums of each start date, in order, [N, S, 2 K].
        labels: Threshold of each series, as names of scores have it.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        Scores, such as ``brier_1mm`` and ``brier_1mm_low``, and the curve of reliability, of each series; empty ones
        where nothing was scored.
    """
    rows: list[tuple[Row, Row]] = [({}, {}) for _ in range(sums.shape[1])]
    for chosen, dates in alike(np.nansum(sums, axis=-1) > 0):
        if not dates.any():
            continue
        series = sums[dates][:, chosen]
        mean = series.mean(axis=0)
        for name, score in PROBABILITY_SCORES.items():
            values = score(mean)
            intervals = confidences(score, series, overlapping) if name in WITH_INTERVALS else None
            for place, number in enumerate(chosen):
                row, key = rows[number][0], f"{name}_{labels[number]}"
                row[key] = float(values[place])
                if intervals is not None:
                    row |= {f"{key}_low": intervals[place].low, f"{key}_high": intervals[place].high}
        for place, number in enumerate(chosen):
            rows[number][1].update(curve(mean[place]))
    return rows


def _series(sums: xr.DataArray) -> tuple[Float64, list[tuple[str, str]]]:
    """Lay sums, [N, R, C, M], out as series, [N, S, M], with the region and the channel of each."""
    _, regions, channels, _ = sums.dims
    names = list(itertools.product(sums[regions].values.tolist(), sums[channels].values.tolist()))
    return sums.values.reshape(len(sums), len(names), -1), names


def member_rows(ours: Float64, overlapping: int) -> list[Row]:
    """Score members of several channels or regions.

    Args:
        ours: Sums of each start date, in order, [N, S, M].
        overlapping: Start dates, one after the other, whose forecasts overlap.
    """
    rows: list[Row] = [{"dates": 0} for _ in range(ours.shape[1])]
    for chosen, dates in alike(ours[..., _AT[WEIGHT]] > 0):
        if not dates.any():
            continue
        sums = ours[dates][:, chosen]
        mean = sums.mean(axis=0)
        for number in chosen:
            rows[number]["dates"] = int(dates.sum())
        for name, score in MEMBER_SCORES.items():
            values = score(mean)
            # The energy score is of several channels together, all others are of one.
            scored = np.flatnonzero(np.isnan(mean[:, _AT[ENERGY]]) != (name == "energy_score"))
            intervals = confidences(score, sums[:, scored], overlapping) if scored.size else None
            for place, position in enumerate(scored.tolist()):
                row = rows[chosen[position]]
                row[name] = float(values[position])
                if intervals is not None:
                    row |= {f"{name}_low": intervals[place].low, f"{name}_high": intervals[place].high}
    return rows


def against_persistence(ours: Float64, absolute: Float64, overlapping: int, rows: Sequence[Row]) -> None:
    """Add to rows how the CRPS compares with the absolute error of persistence, on the dates that both have.

    Args:
        ours: Sums of members, [N, S, M].
        absolute: Weights and sums of absolute errors, [N, S, 2].
        overlapping: Start dates, one after the other, whose forecasts overlap.
        rows: Rows of the S series.
    """
    for chosen, dates in alike((ours[..., _AT[WEIGHT]] > 0) & (absolute[..., 0] > 0)):
        if not dates.any():
            continue
        own = ours[dates][:, chosen][..., [_AT[WEIGHT], _AT[CRPS]]]
        other = absolute[dates][:, chosen]
        scores, references = (of_weight(sums.mean(axis=0)).tolist() for sums in (own, other))
        apart = differences(of_weight, own, other, overlapping)
        for place, number in enumerate(chosen):
            row = rows[number]
            row["persistence_crps"] = references[place]
            row["crps_skill"] = skill(scores[place], references[place])
            if apart is not None:
                row["persistence_crps_difference_low"] = apart[place].low
                row["persistence_crps_difference_high"] = apart[place].high
                row["persistence_crps_significant"] = apart[place].significant


def of_weight(sums: Float64) -> Float64:
    """Divide a sum by the weight before it, [...] of [..., 2]."""
    return ratio(sums[..., 1], sums[..., 0])


def plain(row: Mapping[str, Any]) -> Row:
    """Write None where a number is none, as JSON has no NaN."""
    found = {}
    for key, value in row.items():
        is_lacking = isinstance(value, float) and not math.isfinite(value)
        found[key] = None if is_lacking else value
    return found
