"""Scores computed from sums.

M moments, as ``kit.verification.sums.MOMENTS`` orders them.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.metrics.scores import skill
from kit.verification.archive import Archive
from kit.verification.significance import Float64, Score, confidence, difference, overlap
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
    """Tell which dates hold points that were scored, [N] of [N, M]."""
    return np.asarray(sums[:, _AT[WEIGHT]] > 0)


def score_row(ours: Float64, references: Mapping[str, Float64], overlapping: int) -> ScoreRow:
    """Score a forecast, and compare it with others on the same dates.

    Args:
        ours: Sums of each start date, in order, [N, M].
        references: Sums of other forecasts on the same dates, by name: ``persistence``, ``climatology``, ``base``.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        ``dates``, the scores by name, ``rmse_low`` and ``rmse_high``, ends of the interval of 95 %; of each reference
        ``NAME_rmse``, the skill against it (``skill`` against persistence, else ``skill_over_NAME``) and, where there
        are dates enough, ``NAME_difference_low`` and ``NAME_difference_high``, ends of the interval of our RMSE minus
        its, and ``NAME_significant``. None stands where there is no such number, and what needs a climatology is left
        out where there is none.
    """
    dates = scored_dates(ours)
    row: dict[str, float | None] = {"dates": int(dates.sum())}
    mean = ours[dates].mean(axis=0) if dates.any() else np.full(ours.shape[1], math.nan)
    for name, score in SCORES.items():
        row[name] = float(score(mean))
    if math.isnan(mean[_AT[ANOMALY_WEIGHT]]):
        for name in OF_ANOMALIES:
            del row[name]
    found = confidence(rmse, ours[dates], overlapping) if dates.any() else None
    if found is not None:
        row |= {"rmse_low": found.low, "rmse_high": found.high}
    for name, theirs in references.items():
        row |= _compared(name, ours, theirs, overlapping)
    return {key: value if value is not None and math.isfinite(value) else None for key, value in row.items()}


def _compared(name: str, ours: Float64, theirs: Float64, overlapping: int) -> dict[str, float | None]:
    both = scored_dates(ours) & scored_dates(theirs)
    if not both.any():
        return {}
    reference = float(rmse(theirs[both].mean(axis=0)))
    error = float(rmse(ours[both].mean(axis=0)))
    key = "skill" if name == PERSISTENCE else f"skill_over_{name}"
    row: dict[str, float | None] = {f"{name}_rmse": reference, key: skill(error, reference)}
    found = difference(rmse, ours[both], theirs[both], overlapping)
    if found is not None:
        row[f"{name}_difference_low"] = found.low
        row[f"{name}_difference_high"] = found.high
        row[f"{name}_significant"] = found.significant
    return row


def score_table(archive: Archive) -> dict[str, dict[str, dict[str, ScoreRow]]]:
    """Score a model by all sums that an archive holds.

    Returns:
        Rows of scores by region, lead (``024h``) and channel; what was never summed up is left out.
    """
    spacing = spacing_hours(archive.coordinates["start"])
    table: dict[str, dict[str, dict[str, ScoreRow]]] = {}
    for lead in archive.coordinates["lead"].tolist():
        # One lead at a time: all of them would be gigabytes, of years of forecasts.
        for region, rows in score_lead(archive.of_lead(lead), overlap(lead, spacing)).items():
            table.setdefault(region, {})[lead_name(lead)] = rows
    return table


def score_lead(sums: xr.DataArray, overlapping: int) -> dict[str, dict[str, ScoreRow]]:
    """Score a model at one lead.

    Args:
        sums: Sums, with the dimensions start, forecast, channel, region, moment.
        overlapping: Start dates, one after the other, whose forecasts overlap.

    Returns:
        Rows of scores by region and channel.
    """
    others = [str(name) for name in sums["forecast"].values if name != MODEL]
    table: dict[str, dict[str, ScoreRow]] = {}
    for region in map(str, sums["region"].values):
        for channel in map(str, sums["channel"].values):
            series = sums.sel(region=region, channel=channel)
            ours = series.sel(forecast=MODEL).values
            if scored_dates(ours).any():
                references = {name: series.sel(forecast=name).values for name in others}
                table.setdefault(region, {})[channel] = score_row(ours, references, overlapping)
    return table


def lead_name(hours: float) -> str:
    """Name a lead as results and metrics do: ``024h``."""
    return f"{hours:03g}h"


def spacing_hours(starts: npt.NDArray[np.datetime64]) -> float:
    """Return the usual time from one start date to the next, in hours; 1 of a single one."""
    if len(starts) < 2:
        return 1.0
    return float(np.median(np.diff(starts.astype("datetime64[s]").astype(np.int64)))) / 3600
