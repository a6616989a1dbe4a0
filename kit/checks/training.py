"""Checks of what training relies on beside the values: periods apart, and statistics that are true."""

import itertools
import math

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check, few
from kit.checks.drift import Drift, drift
from kit.checks.results import Severity
from kit.checks.scan import Survey
from kit.data.settings import Period
from kit.data.statistics import VariableStatistics
from kit.data.store.format import period_indices

_MEAN, _SCALE = 1e-2, 1e-2
"""How far the recorded mean, in scales, and the recorded scale may be from those of the data."""


@check("splits", "error", "training, validation and test are periods apart, each with states", needs=("time",))
def _splits(store: Examined) -> Findings:
    periods: dict[str, Period] = {}
    stated = store.reader.attributes.get("splits")
    if not isinstance(stated, dict):
        stated = {}
    for name, text in stated.items():
        try:
            periods[name] = Period.parse(text)
        except ValueError as error:
            yield Finding(None, f"{name}: {error}", REBUILD)
    if "train" not in periods:
        yield Finding(None, "the store names no period to train on", f"give `--train START/END`: {REBUILD}")
    for name, period in periods.items():
        if not period_indices(store.reader.coordinates["time"], period).size:
            yield Finding(None, f"{name} ({period}) holds no state", f"give a period that does: {REBUILD}")
    for (first, one), (second, other) in itertools.combinations(periods.items(), 2):
        if one.start <= other.end and other.start <= one.end:
            # The checkpoint is then chosen on what it is scored on: a habit with little data, and worth a word.
            severity: Severity = "error" if "train" in (first, second) else "warning"
            detail = f"{first} ({one}) and {second} ({other}) overlap"
            remedy = "give periods apart with `--train`, `--valid` and `--test`"
            yield Finding(None, detail, f"{remedy}: {REBUILD}", severity)


@check("statistics-match", "error", "the statistics are those of the training states")
def _statistics_match(store: Examined) -> Findings:
    if store.reader.unweighable:
        detail = "the statistics are weighted by area, which is not known of this grid: they were not compared"
        yield Finding(None, detail, f"see the checks of latitude and longitude; {REBUILD}", "warning")
        return
    if store.reader.statistics is None:
        msg = "no readable statistics"
        raise NotApplicable(msg)
    # Of a variable that could not be read to the end, the states of training are not all known.
    whole = store.all_of("state to train on", lambda found: not found.damage and bool(found.training.weight_C.any()))
    for name, found in whole.items():
        differing: dict[str, str] = {}
        keys, statistics = store.reader.keys(found.channel), store.reader.statistics_of(found.channel)
        for level, (key, recorded) in enumerate(zip(keys, statistics, strict=True)):
            difference = _difference(found, level, recorded)
            if difference:
                differing[key] = difference
        if differing:
            first, difference = next(iter(differing.items()))
            detail = f"stats.json differs from the data for {few(list(differing))}; {first}: {difference}"
            yield Finding(name, detail, f"the data or the statistics were changed since: {REBUILD}")


def _difference(found: Survey, level: int, recorded: VariableStatistics | None) -> str:
    """Say how recorded statistics differ from the data; nothing where they do not."""
    if recorded is None or not (math.isfinite(recorded.mean) and math.isfinite(recorded.std)):
        return ""
    if not found.training.weight_C[level]:
        return ""
    mean, scale = float(found.training.mean_C[level]), float(found.training.scale_C[level])
    # Single precision, in which the values are, has seven digits.
    slack = 1e-5 * max(abs(mean), abs(found.low), abs(found.high)) + 1e-30
    if abs(recorded.mean - mean) > _MEAN * scale + slack:
        return f"mean {recorded.mean:g} recorded, {mean:g} found"
    if abs(recorded.std - scale) > _SCALE * scale + slack:
        return f"scale {recorded.std:g} recorded, {scale:g} found"
    return ""


@check("statistics-drift", "error", "the statistics are of the kind that upstream publishes")
def _statistics_drift(store: Examined) -> Findings:
    is_compared = False
    for channel in store.reader.channels:
        if channel.kind == "static":
            # Upstream scales static fields by their extremes, not by mean and deviation.
            continue
        found: list[Drift] = []
        for key, recorded in zip(store.reader.keys(channel), store.reader.statistics_of(channel), strict=True):
            if recorded is None:
                continue
            one = drift(key, recorded.mean, recorded.std)
            if one is None:
                continue
            is_compared = True
            if one.verdict != "ok":
                found.append(one)
        if not found:
            continue
        # An error before a warning, then what is shifted farthest.
        worst = max(found, key=lambda one: (one.verdict == "error", abs(one.shift), one.ratio))
        found.remove(worst)
        others = f" (and {few([one.key for one in found])})" if found else ""
        severity: Severity = "error" if worst.verdict == "error" else "warning"
        evidence = {"key": worst.key, "shift": worst.shift, "ratio": worst.ratio, "effect": worst.effect}
        detail = f"{worst.key}{others}: {worst.described('upstream')}"
        yield Finding(channel.name, detail, f"{worst.remedy}; then {REBUILD}", severity, evidence)
    if not is_compared:
        msg = "upstream publishes no statistics of these variables and levels"
        raise NotApplicable(msg)


CHECKS = (_splits, _statistics_match, _statistics_drift)
"""In the order in which they are reported."""
