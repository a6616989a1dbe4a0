"""Checks of what training relies on beside the values: periods apart, and statistics that are true."""

from __future__ import annotations

import itertools
import math

from kit.data.settings import Period
from kit.data.statistics import VariableStatistics
from kit.data.store_format import period_indices
from kit.qa.expected import published
from kit.qa.report import Severity
from kit.qa.survey import LONG_TAILED, Survey
from kit.qa.table import REBUILD, Examined, Finding, Findings, check, few

__all__ = ["CHECKS", "drift"]

_MEAN, _SCALE = 1e-2, 1e-2
"""How far the recorded mean, in scales, and the recorded scale may be from those of the data."""


@check("splits", "error", "training, validation and test are periods apart, each with states", needs=("time",))
def _splits(store: Examined) -> Findings:
    periods: dict[str, Period] = {}
    for name, text in _stated(store).items():
        try:
            periods[name] = Period.parse(text)
        except ValueError as error:
            yield Finding(None, f"{name}: {error}", REBUILD)
    if "train" not in periods:
        yield Finding(None, "the store names no period to train on", f"give `--train START/END`: {REBUILD}")
    for name, period in periods.items():
        if not period_indices(store.subject.coordinates["time"], period).size:
            yield Finding(None, f"{name} ({period}) holds no state", f"give a period that does: {REBUILD}")
    for (first, one), (second, other) in itertools.combinations(periods.items(), 2):
        if one.start <= other.end and other.start <= one.end:
            # The checkpoint is then chosen on what it is scored on: a habit with little data, and worth a word.
            severity: Severity = "error" if "train" in (first, second) else "warning"
            detail = f"{first} ({one}) and {second} ({other}) overlap"
            yield Finding(
                None, detail, f"give periods apart with `--train`, `--valid` and `--test`: {REBUILD}", severity
            )


def _stated(store: Examined) -> dict[str, object]:
    splits = store.subject.attributes.get("splits")
    return dict(splits) if isinstance(splits, dict) else {}


@check("statistics-match", "error", "the statistics are those of the training states")
def _statistics_match(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.damage or not found.training.count_C.any():
            continue
        differing = [
            (key, worst)
            for level, (key, recorded) in enumerate(
                zip(store.subject.keys(found.channel), store.subject.statistics_of(found.channel), strict=True)
            )
            if recorded is not None and (worst := _difference(found, level, recorded))
        ]
        if differing:
            key, worst = differing[0]
            detail = f"stats.json differs from the data for {few([key for key, _ in differing])}; {key}: {worst}"
            yield Finding(name, detail, f"the data or the statistics were changed since: {REBUILD}")


def _difference(found: Survey, level: int, recorded: VariableStatistics) -> str:
    """Say how recorded statistics differ from the data; nothing where they do not."""
    mean, scale = float(found.training.mean_C[level]), float(found.training.scale_C[level])
    if not found.training.count_C[level] or not math.isfinite(recorded.mean) or not math.isfinite(recorded.std):
        return ""
    slack = 1e-5 * max(abs(mean), abs(found.low), abs(found.high)) + 1e-30
    if abs(recorded.mean - mean) > _MEAN * scale + slack:
        return f"mean {recorded.mean:g} recorded, {mean:g} found"
    if abs(recorded.std - scale) > _SCALE * scale + slack:
        return f"scale {recorded.std:g} recorded, {scale:g} found"
    return ""


@check("statistics-drift", "error", "the statistics are of the kind that upstream publishes")
def _statistics_drift(store: Examined) -> Findings:
    for channel in store.subject.channels:
        if channel.kind == "static":
            # Upstream scales static fields by their extremes, not by mean and deviation.
            continue
        found = [
            (key, *verdict)
            for key, recorded in zip(store.subject.keys(channel), store.subject.statistics_of(channel), strict=True)
            if recorded is not None and (verdict := drift(key, recorded.mean, recorded.std)) is not None
        ]
        if found:
            worst = max(found, key=lambda one: (one[1] == "error", abs(one[3]), one[4]))
            key, _, text, shift, ratio = worst
            wrong = any(severity == "error" for _, severity, *_ in found)
            skewed = channel.long_tailed or channel.name in LONG_TAILED | {"q"}
            others = f" (and {few([one[0] for one in found if one[0] != key])})" if len(found) > 1 else ""
            remedy = "check units, region and period of the data that the statistics were made of"
            evidence = {"key": key, "shift": shift, "ratio": ratio}
            severity: Severity = "error" if wrong and not skewed else "warning"
            yield Finding(channel.name, f"{key}{others}: {text}", f"{remedy}, then {REBUILD}", severity, evidence)


def drift(key: str, mean: float, scale: float) -> tuple[Severity, str, float, float] | None:
    """Hold statistics of a channel against those that upstream publishes.

    A region and a season have a smaller scale than the globe and the year, and a mean that is some scales away. A
    scale that is several times upstream's, or a mean ten scales away, is of something else: another unit, fill values
    among the data, or an average over what should not be averaged.

    Args:
        key: of the channel: ``2t``, ``t_500``.
        mean: in the store's units.
        scale: standard deviation.

    Returns:
        None where upstream publishes none or they agree; else how bad it is, in words, by how many of upstream's
        scales the mean is shifted, and the ratio of the scales.
    """
    reference = published().get(key)
    if reference is None or not (math.isfinite(mean) and math.isfinite(scale)):
        return None
    shift, ratio = (mean - reference[0]) / reference[1], scale / reference[1]
    told = (
        f"mean {mean:.6g} and scale {scale:.6g}, where upstream has {reference[0]:.6g} and {reference[1]:.6g}: "
        f"{abs(shift):.1f} scales away, {ratio:.2f} times as wide"
    )
    if ratio > 5 or abs(shift) > 10:
        return "error", told, shift, ratio
    if ratio > 2.5 or abs(shift) > 4 or 0 < ratio < 1e-3:
        return "warning", told, shift, ratio
    return None


CHECKS = (_splits, _statistics_match, _statistics_drift)
"""In the order in which they are reported."""
