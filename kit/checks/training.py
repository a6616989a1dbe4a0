"""Checks of what training relies on beside the values: periods apart, and statistics that are true."""

from __future__ import annotations

import itertools
import math

from kit.checks.check import REBUILD, Examined, Finding, Findings, check, few
from kit.checks.drift import drift
from kit.checks.results import Severity
from kit.checks.scan import Survey
from kit.data.settings import Period
from kit.data.statistics import VariableStatistics
from kit.data.store.format import period_indices

__all__ = ["CHECKS"]

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
    if store.subject.unweighable:
        detail = "the statistics are weighted by area, which is not known of this grid: they were not compared"
        yield Finding(None, detail, f"see the checks of latitude and longitude; {REBUILD}", "warning")
        return
    for name, found in store.surveys.items():
        if found.damage or not found.training.weight_C.any():
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
    if not found.training.weight_C[level] or not math.isfinite(recorded.mean) or not math.isfinite(recorded.std):
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
        statistics = zip(store.subject.keys(channel), store.subject.statistics_of(channel), strict=True)
        verdicts = [drift(key, recorded.mean, recorded.std) for key, recorded in statistics if recorded is not None]
        found = [one for one in verdicts if one is not None and one.verdict != "ok"]
        if found:
            worst = max(found, key=lambda one: (one.verdict == "error", abs(one.shift), one.ratio))
            others = f" (and {few([one.key for one in found if one is not worst])})" if len(found) > 1 else ""
            detail = f"{worst.key}{others}: {worst.told('upstream')}"
            severity: Severity = "error" if worst.verdict == "error" else "warning"
            evidence = {"key": worst.key, "shift": worst.shift, "ratio": worst.ratio, "effect": worst.effect}
            yield Finding(channel.name, detail, f"{worst.remedy}; then {REBUILD}", severity, evidence)


CHECKS = (_splits, _statistics_match, _statistics_drift)
"""In the order in which they are reported."""
