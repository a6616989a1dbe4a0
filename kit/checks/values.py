"""Checks of values: missing, infinite, implausible, unlikely, zero, constant."""

from __future__ import annotations

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, check, few
from kit.checks.results import Severity
from kit.checks.scan import Survey, Tally, box, form
from kit.checks.store_reader import Subject
from kit.data.settings import parse_infill_notes

__all__ = ["CHECKS"]

SEA_ONLY = frozenset(
    {"sst", "swh", "mwd", "mwp", "pp1d", "shww", "mdww", "mpww", "shts", "mdts", "mpts"}
    | {"swh1", "mwd1", "mwp1", "swh2", "mwd2", "mwp2", "wind", "dwi"}
)
"""Variables of the sea, which are missing over land."""

_ZEROS = 0.01
"""Largest share of exact zeros in what varies about zero or is far from it."""
_FILLED = 0.01
"""Largest share of filled values that is only mentioned."""
_JUMP = 12.0
"""How many times its usual distance from the median a state's mean may be away."""


_NAN_REMEDIES = {
    "whole fields": "leave these times or levels out, fetch them again, or fill states from those before and after "
    "(`--infill {name}=linear-time`)",
    "growing with pressure, as below the ground": "the source masks what lies below the ground, where Aurora was "
    "trained on ERA5's extrapolation: take a source without the mask, fill them, or leave the lowest levels out",
    "the same points in every state": "the source has no values there: choose a region without them, fill them with a "
    "number (`--infill {name}=constant:NUMBER`), or leave the variable out",
    "a block": "part of the grid is missing, as after a failed download: fetch these times again, or fill them from "
    "the states before and after (`--infill {name}=linear-time`)",
    "scattered": "fill them from their neighbours (`--infill {name}=nearest`)",
}


@check("nan", "error", "no value is NaN")
def _nan(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if not found.nan.count:
            continue
        expected = name in SEA_ONLY and not (found.empty_C > 0).any()
        shape = form(found.nan, found.states, int(found.empty_C.sum()))
        remedy = _NAN_REMEDIES.get(shape, "find out why the source lacks them; fill them, or leave the variable out")
        remedy = remedy.format(name=name)
        remedy = "none: the variable has no values over land" if expected else f"{remedy}, then {REBUILD}"
        detail = _evidence(store.subject, found, found.nan, "NaN", shape=shape)
        evidence = {"form": shape, **box(store.subject, found.channel, found.nan)}
        yield Finding(name, detail, remedy, "info" if expected else None, evidence)


@check("infilled", "info", "no value was filled in")
def _infilled(store: Examined) -> Findings:
    history = store.subject.attributes.get("history")
    filled = parse_infill_notes(history) if isinstance(history, list) else {}
    for channel in store.subject.channels:
        if channel.name not in filled:
            continue
        count, how = filled[channel.name]
        share = count / max(1, channel.array.size)
        detail = f"{count} of {channel.array.size} values ({share:.2g} of them) were missing and filled by {how}"
        remedy = "look at them beside the source: a model learns from them as from others"
        severity: Severity = "info" if share <= _FILLED else "warning"
        yield Finding(channel.name, detail, remedy, severity, {"method": how, "count": count, "share": share})


@check("inf", "error", "no value is infinite")
def _inf(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.infinite.count:
            remedy = f"correct the source, or mark them as missing there, then {REBUILD}"
            shape = form(found.infinite, found.states)
            detail = _evidence(store.subject, found, found.infinite, "infinite", shape=shape)
            yield Finding(name, detail, remedy, None, box(store.subject, found.channel, found.infinite))


@check("range", "error", "all values are physically plausible")
def _range(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        known = found.channel.known
        if known is not None and found.outside.count:
            limits = (
                f"outside [{known.low:g}, {known.high:g}] {known.units} (values span {found.low:g} to {found.high:g})"
            )
            remedy = f"check the unit ({known.units} expected) and the source's fill value, then {REBUILD}"
            detail = _evidence(store.subject, found, found.outside, limits)
            evidence = {"low": found.low, "high": found.high, **box(store.subject, found.channel, found.outside)}
            yield Finding(name, detail, remedy, None, evidence)


@check("negative", "error", "nothing is below zero that cannot be")
def _negative(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.negative.count:
            detail = _evidence(store.subject, found, found.negative, f"below zero, down to {found.low:g}")
            remedy = f"set them to zero if they are noise of packing, or find the source's fill value, then {REBUILD}"
            yield Finding(
                name, detail, remedy, None, {"low": found.low, **box(store.subject, found.channel, found.negative)}
            )


@check("outliers", "warning", "no value is far beyond what the store's statistics make likely")
def _outliers(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.unlikely.count:
            what = f"far from the store's mean and scale (values span {found.low:g} to {found.high:g})"
            detail = _evidence(store.subject, found, found.unlikely, what)
            remedy = f"look at these states: a spike, or another unit? Correct the source, then {REBUILD}"
            evidence = {"low": found.low, "high": found.high, **box(store.subject, found.channel, found.unlikely)}
            yield Finding(name, detail, remedy, None, evidence)


@check("jumps", "warning", "no state's mean is far from those of all others")
def _jumps(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        means = np.asarray(found.mean_TC, dtype=np.float64)
        if len(means) < 10 or found.channel.long_tailed:
            continue
        centre = np.nanmedian(means, axis=0) if np.isfinite(means).any() else np.zeros(means.shape[1:])
        usual = np.nanmean(np.sort(np.abs(means - centre), axis=0)[: -(-len(means) * 9 // 10)], axis=0)
        scale = np.maximum(usual, 0.05 * np.nan_to_num(found.training.scale_C))
        far = np.asarray((np.abs(means - centre) > _JUMP * scale).any(axis=1))
        if far.any():
            first = int(np.flatnonzero(far)[0])
            moment = str(store.subject.coordinates["time"][first].astype("datetime64[m]"))
            detail = f"the mean of {np.count_nonzero(far)} of {len(far)} states is far from all others, first {moment}"
            yield Finding(
                name, detail, f"has the source changed its unit or its grid there? Correct it, then {REBUILD}"
            )


@check("zeros", "warning", "no zeros stand for missing values")
def _zeros(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.channel.kind == "static" or found.channel.may_be_zero or not found.size:
            continue
        share = float(found.zero_C.sum()) / found.size
        if share > _ZEROS:
            detail = f"{int(found.zero_C.sum())} of {found.size} values ({share:.1%}) are exactly zero"
            remedy = f"does the source write 0 for what is missing? Mark them as missing or fill them, then {REBUILD}"
            yield Finding(name, detail, remedy, None, {"share": share})


@check("constant-in-space", "error", "no field has one value everywhere")
def _constant_in_space(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        always = np.flatnonzero((found.flat_C == found.states) & (found.states > 0))
        if always.size:
            value = f" ({found.low:g})" if found.low == found.high else ""
            static = found.channel.kind == "static"
            states = "" if static else f" in all {found.states} states{_levels(store.subject, found, always)}"
            detail = f"one value{value} everywhere{states}"
            remedy = f"leave it out: there is nothing to learn from it; or correct the source, then {REBUILD}"
            yield Finding(name, detail, remedy, "warning" if static else None)
        elif found.flat.count:
            detail = _evidence(store.subject, found, found.flat, "fields with one value everywhere", of_values=False)
            yield Finding(name, detail, f"check these states in the source, then {REBUILD}", "warning")


@check("constant-in-time", "error", "every variable changes from state to state")
def _constant_in_time(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.states < 2:
            continue
        never = np.flatnonzero(found.repeated_C == found.states - 1)
        if never.size:
            detail = f"the same in all {found.states} states{_levels(store.subject, found, never)}"
            remedy = f"leave it out, or make it static; or correct the source, then {REBUILD}"
            yield Finding(name, detail, remedy)
        elif found.repeated.count:
            detail = _evidence(store.subject, found, found.repeated, "fields equal to the one before", of_values=False)
            yield Finding(name, detail, f"check these states in the source, then {REBUILD}", "warning")


def _levels(subject: Subject, found: Survey, indices: np.ndarray) -> str:
    if found.channel.kind != "atmospheric":
        return ""
    return " at " + few([f"{subject.coordinates['level'][index]:g}" for index in indices]) + " hPa"


def _evidence(
    subject: Subject, found: Survey, tally: Tally, what: str, *, of_values: bool = True, shape: str = ""
) -> str:
    """Say how many, in how many states and levels, and where first."""
    assert tally.first is not None
    total = found.size if of_values else found.states * len(found.flat_C)
    parts = [f"{tally.count} of {total} values {what}" if of_values else f"{tally.count} of {total} {what}"]
    if found.channel.kind != "static":
        parts.append(f"in {tally.states} of {found.states} states")
    if found.channel.kind == "atmospheric":
        parts.append(f"on {len(tally.levels)} of {len(found.flat_C)} levels")
    return f"{' '.join(parts)}{shape and f', {shape}'}; first: {subject.where(found.channel, tally.first)}"


CHECKS = (_nan, _infilled, _inf, _range, _negative, _outliers, _jumps, _zeros, _constant_in_space, _constant_in_time)
"""In the order in which they are reported."""
