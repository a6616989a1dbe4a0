"""Scores computed from sums.

M moments, as ``kit.verification.sums.MOMENTS`` orders them.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.metrics.contingency import MM_PER_M
from kit.metrics.scores import skill
from kit.verification.archive import EVENTS, SPECTRA, Archive
from kit.verification.event_scores import event_rows, event_scores
from kit.verification.significance import Float64, Score, alike, confidences, differences, overlap
from kit.verification.spectra import power_ratios
from kit.verification.sums import (
    ABSOLUTE,
    ANOMALY_WEIGHT,
    BOTH_ANOMALIES,
    ERROR,
    FORECAST_ANOMALY,
    MODEL,
    MOMENTS,
    PERSISTENCE,
    SQUARED,
    TARGET_ANOMALY,
    WEIGHT,
)

_AT: Mapping[str, int] = {name: position for position, name in enumerate(MOMENTS)}
_OF_RMSE = (_AT[SQUARED], _AT[WEIGHT])
_OF_ACC = (_AT[BOTH_ANOMALIES], _AT[FORECAST_ANOMALY], _AT[TARGET_ANOMALY])


def rmse(sums: Float64) -> Float64:
    """Root of the mean squared error, in the variable's unit; the mean runs over area and dates, the root comes last.

    Args:
        sums: Sums, or their means over dates, [..., M].
    """
    return np.sqrt(_ratio(sums, SQUARED, WEIGHT))


def mae(sums: Float64) -> Float64:
    """Mean absolute error, in the variable's unit."""
    return _ratio(sums, ABSOLUTE, WEIGHT)


def bias(sums: Float64) -> Float64:
    """Mean of forecast minus target, in the variable's unit."""
    return _ratio(sums, ERROR, WEIGHT)


def acc(sums: Float64) -> Float64:
    """Anomaly correlation coefficient, from -1 to 1: departures from climatology, not centred anew.

    WMO-No. 485, Appendix 2.2.34, without the means of the anomalies, as WeatherBench has it (google-research/
    weatherbenchX, ``metrics/deterministic.py``).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(sums[..., _AT[FORECAST_ANOMALY]] * sums[..., _AT[TARGET_ANOMALY]])
        return np.asarray(sums[..., _AT[BOTH_ANOMALIES]] / spread)


def activity(sums: Float64) -> Float64:
    """Root of the mean squared departure of a forecast from climatology, in the variable's unit.

    Beside that of the targets it says whether a forecast is as lively as the weather, or too smooth.
    """
    return np.sqrt(_ratio(sums, FORECAST_ANOMALY, ANOMALY_WEIGHT))


def target_activity(sums: Float64) -> Float64:
    """Root of the mean squared departure of the targets from climatology, in the variable's unit."""
    return np.sqrt(_ratio(sums, TARGET_ANOMALY, ANOMALY_WEIGHT))


OF_ANOMALIES = ("acc", "activity", "target_activity")
"""Scores that need a climatology."""
SCORES: Mapping[str, Score] = {
    "rmse": rmse,
    "mae": mae,
    "bias": bias,
    "acc": acc,
    "activity": activity,
    "target_activity": target_activity,
}

ScoreRow = Mapping[str, float | None]
"""Numbers by name; None, as JSON has no NaN, where nothing can be scored."""


def _ratio(sums: Float64, above: str, below: str) -> Float64:
    # Where nothing was observed there is no score, which is not a perfect one.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., _AT[above]] / sums[..., _AT[below]])


def scored_dates(sums: Float64) -> npt.NDArray[np.bool_]:
    """Tell which dates hold points that were scored, [N, ...] of [N, ..., M]."""
    return np.asarray(sums[..., _AT[WEIGHT]] > 0)


def score_rows(ours: Float64, references: Mapping[str, Float64], overlapping: int) -> list[ScoreRow]:
    """Score forecasts of several channels or regions, and compare them with others on the same dates.

    Args:
        ours: Sums of each start date, in order, [N, S, M] of S channels.
        references: Sums of other forecasts on the same dates, by name: ``persistence``, ``climatology``, ``base``.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        Of each channel ``dates``, the scores by name, ``rmse_low`` and ``rmse_high``, ends of the interval of 95 %, and
        those of the anomaly correlation; of each reference ``NAME_rmse``, ``NAME_acc``, the skill against it (``skill``
        against persistence, else ``skill_over_NAME``) and, where there are dates enough, ``NAME_difference_low`` and
        ``NAME_difference_high``, ends of the interval of our RMSE minus its, and ``NAME_significant``. None stands
        where there is no such number, and what needs a climatology is left out where there is none.
    """
    rows: list[dict[str, float | None]] = [{"dates": 0} for _ in range(ours.shape[1])]
    for chosen, dates in alike(scored_dates(ours)):
        sums = ours[dates][:, chosen]
        mean = sums.mean(axis=0) if dates.any() else np.full(sums.shape[1:], math.nan)
        scores = {name: score(mean) for name, score in SCORES.items()}
        intervals = confidences(_root_of_ratio, sums[..., _OF_RMSE], overlapping)
        for place, number in enumerate(chosen):
            row = rows[number]
            row["dates"] = int(dates.sum())
            without = OF_ANOMALIES if math.isnan(mean[place, _AT[ANOMALY_WEIGHT]]) else ()
            row |= {name: float(values[place]) for name, values in scores.items() if name not in without}
            if intervals is not None:
                row |= {"rmse_low": intervals[place].low, "rmse_high": intervals[place].high}
        known = np.flatnonzero(~np.isnan(mean[:, _AT[ANOMALY_WEIGHT]])).tolist()
        correlations = confidences(_correlation, sums[:, known][..., _OF_ACC], overlapping) if known else None
        for place, interval in zip(known, correlations or (), strict=False):
            rows[chosen[place]] |= {"acc_low": interval.low, "acc_high": interval.high}
    for name, theirs in references.items():
        _compare(name, ours, theirs, overlapping, rows)
    return [_plain(row) for row in rows]


def _compare(
    name: str, ours: Float64, theirs: Float64, overlapping: int, rows: Sequence[dict[str, float | None]]
) -> None:
    """Add to rows how forecasts compare with a reference, on the dates that both have."""
    for chosen, dates in alike(scored_dates(ours) & scored_dates(theirs)):
        if not dates.any():
            continue
        own, other = (sums[dates][:, chosen][..., _OF_RMSE] for sums in (ours, theirs))
        errors, others = (_root_of_ratio(sums.mean(axis=0)).tolist() for sums in (own, other))
        # The climatology itself has no anomalies.
        correlated = acc(theirs[dates][:, chosen].mean(axis=0)).tolist()
        apart = differences(_root_of_ratio, own, other, overlapping)
        for place, number in enumerate(chosen):
            row = rows[number]
            row[f"{name}_rmse"] = others[place]
            key = "skill" if name == PERSISTENCE else f"skill_over_{name}"
            row[key] = skill(errors[place], others[place])
            if not math.isnan(correlated[place]):
                row[f"{name}_acc"] = correlated[place]
            if apart is not None:
                row[f"{name}_difference_low"] = apart[place].low
                row[f"{name}_difference_high"] = apart[place].high
                row[f"{name}_significant"] = apart[place].significant


def _root_of_ratio(sums: Float64) -> Float64:
    """Compute the RMSE of squared errors and weights alone: draws of all moments would take four times as long."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(sums[..., 0] / sums[..., 1])


def _correlation(sums: Float64) -> Float64:
    """Compute the anomaly correlation from its three moments alone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2]))


def _plain(row: Mapping[str, float | None]) -> ScoreRow:
    return {key: value if value is not None and math.isfinite(value) else None for key, value in row.items()}


def score_table(archive: Archive) -> dict[str, dict[str, dict[str, ScoreRow]]]:
    """Score a model by all sums that an archive holds.

    Returns:
        Rows of scores by region, lead (``024h``) and channel, those of rain with the scores of its events; what was
        never summed up is left out.
    """
    spacing = spacing_hours(archive.coordinates["start"])
    table: dict[str, dict[str, dict[str, ScoreRow]]] = {}
    for lead, sums in archive.by_lead():
        for region, rows in score_lead(sums, overlap(lead, spacing)).items():
            table.setdefault(region, {})[lead_name(lead)] = rows
    for lead, sums in archive.by_lead(EVENTS):
        for region, rain in score_events(sums, overlap(lead, spacing)).items():
            rows = table.get(region, {}).get(lead_name(lead), {})
            for channel in rain.keys() & rows.keys():
                rows[channel] = {**rows[channel], **_in_millimetres(rows[channel]), **rain[channel]}
    return table


def spectra_table(archive: Archive) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """Compare the power of forecasts with that of what came, by lead, channel and band; see ``power_ratios``."""
    return {lead_name(lead): power_ratios(power) for lead, power in archive.by_lead(SPECTRA)}


def score_lead(sums: xr.DataArray, overlapping: int) -> dict[str, dict[str, ScoreRow]]:
    """Score a model at one lead.

    Args:
        sums: Sums, with the dimensions start, forecast, channel, region, moment.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        Rows of scores by region and channel.
    """
    return _by_region(sums, "channel", lambda ours, references: score_rows(ours, references, overlapping))


def score_events(sums: xr.DataArray, overlapping: int) -> dict[str, dict[str, ScoreRow]]:
    """Score the events of rain at one lead.

    Args:
        sums: Sums, with the dimensions start, forecast, rain, region, event.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        Rows by region and variable: ``event_dates``, the scores of ``event_scores``, those of other forecasts on the
        same dates as ``persistence_csi_1mm``, and the ends of intervals as ``csi_1mm_low``.
    """
    scores = event_scores(sums["event"].values.tolist())

    def score(ours: Float64, references: Mapping[str, Float64]) -> list[ScoreRow]:
        return event_rows(scores, ours, references, overlapping)

    return _by_region(sums, "rain", score)


def _by_region(
    sums: xr.DataArray, channel: str, score: Callable[[Float64, Mapping[str, Float64]], list[ScoreRow]]
) -> dict[str, dict[str, ScoreRow]]:
    """Score all regions and channels together, and sort their rows."""
    ordered = sums.transpose("start", "forecast", "region", channel, ...)
    forecasts = ordered["forecast"].values.tolist()
    starts, _, *places, moments = ordered.shape
    # One series for each region and channel.
    series = ordered.values.reshape(starts, len(forecasts), math.prod(places), moments)
    of_forecasts = {name: series[:, position] for position, name in enumerate(forecasts)}
    ours = of_forecasts.pop(MODEL)
    known = np.asarray(scored_dates(ours).any(axis=0))
    rows = iter(score(ours[:, known], {name: theirs[:, known] for name, theirs in of_forecasts.items()}))
    table: dict[str, dict[str, ScoreRow]] = {}
    names = itertools.product(ordered["region"].values.tolist(), ordered[channel].values.tolist())
    for (region, name), is_known in zip(names, known.tolist(), strict=True):
        if is_known:
            table.setdefault(region, {})[name] = next(rows)
    return table


def _in_millimetres(row: ScoreRow) -> dict[str, float | None]:
    """Write errors of rain, in metres, in millimetres too: ``rmse_mm``."""
    errors = {name: row.get(name) for name in ("rmse", "mae", "bias")}
    return {f"{name}_mm": None if error is None else MM_PER_M * error for name, error in errors.items()}


def lead_name(hours: float) -> str:
    """Name a lead as results and metrics do: ``024h``."""
    return f"{hours:03g}h"


def spacing_hours(starts: npt.NDArray[np.datetime64]) -> float:
    """Return the usual time from one start date to the next, in hours; 1 of a single one."""
    if len(starts) < 2:
        return 1.0
    return float(np.median(np.diff(starts.astype("datetime64[s]").astype(np.int64)))) / 3600
