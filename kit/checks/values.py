"""Checks of values: missing, infinite, implausible, unlikely, zero, constant."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check, few
from kit.checks.results import Severity
from kit.checks.scan import Survey, Tally, box, form
from kit.checks.store_reader import StoreReader

SEA_ONLY = frozenset(
    {"sst", "swh", "mwd", "mwp", "pp1d", "shww", "mdww", "mpww", "shts", "mdts", "mpts"}
    | {"swh1", "mwd1", "mwp1", "swh2", "mwd2", "mwp2", "wind", "dwi"}
)
"""Variables of the sea, which are missing over land."""

_ZEROS = 0.01
"""Largest share of exact zeros in what varies about zero or is far from it."""
_FILLED = 0.01
"""Largest share of filled values that is only mentioned."""
_FEW = 10
"""States below which there is no usual distance between them."""
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
    for name, found in store.all_of("variable that could be read").items():
        if not found.nan.count:
            continue
        shape = form(found.nan, found.states, int(found.empty_C.sum()))
        evidence = {"form": shape}
        # A variable of the sea lacks points; one that lacks whole fields is broken like any other.
        if name in SEA_ONLY and not (found.empty_C > 0).any():
            remedy = "none: the variable has no values over land"
            yield _finding(store, found, found.nan, "NaN", remedy, shape, evidence, severity="info")
        else:
            unknown = "find out why the source lacks them; fill them, or leave the variable out"
            remedy = f"{_NAN_REMEDIES.get(shape, unknown).format(name=name)}, then {REBUILD}"
            yield _finding(store, found, found.nan, "NaN", remedy, shape, evidence)


@check("infilled", "info", "no value was filled in")
def _infilled(store: Examined) -> Findings:
    history = store.reader.attributes.get("history")
    if not isinstance(history, list):
        msg = "no history of the build"
        raise NotApplicable(msg)
    # Not above: it brings xarray, which nothing else here needs.
    from kit.data.infill import parse_infill_notes

    filled = parse_infill_notes(history)
    for channel in store.reader.channels:
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
    for found in store.all_of("variable that could be read").values():
        if found.infinite.count:
            shape = form(found.infinite, found.states)
            remedy = f"correct the source, or mark them as missing there, then {REBUILD}"
            yield _finding(store, found, found.infinite, "infinite", remedy, shape)


@check("range", "error", "all values are physically plausible")
def _range(store: Examined) -> Findings:
    for found in store.all_of("variable with a known range", lambda one: one.channel.known is not None).values():
        known = found.channel.known
        if known is not None and found.outside.count:
            spans = f"(values span {found.low:g} to {found.high:g})"
            what = f"outside [{known.low:g}, {known.high:g}] {known.units} {spans}"
            remedy = f"check the unit ({known.units} expected) and the source's fill value, then {REBUILD}"
            evidence = {"low": found.low, "high": found.high}
            yield _finding(store, found, found.outside, what, remedy, evidence=evidence)


@check("negative", "error", "nothing is below zero that cannot be")
def _negative(store: Examined) -> Findings:
    bounded = store.all_of("variable that cannot be below zero", lambda one: one.bounds.negative is not None)
    for found in bounded.values():
        if found.negative.count:
            what = f"below zero, down to {found.low:g}"
            remedy = f"set them to zero if they are noise of packing, or find the source's fill value, then {REBUILD}"
            yield _finding(store, found, found.negative, what, remedy, evidence={"low": found.low})


@check("outliers", "warning", "no value is far beyond what the store's statistics make likely")
def _outliers(store: Examined) -> Findings:
    judged = store.all_of("variable with statistics", lambda one: bool(np.isfinite(one.bounds.low_C).any()))
    for found in judged.values():
        if found.unlikely.count:
            what = f"far from the store's mean and scale (values span {found.low:g} to {found.high:g})"
            remedy = f"look at these states: a spike, or another unit? Correct the source, then {REBUILD}"
            evidence = {"low": found.low, "high": found.high}
            yield _finding(store, found, found.unlikely, what, remedy, evidence=evidence)


@check("jumps", "warning", "no state's mean is far from those of all others")
def _jumps(store: Examined) -> Findings:
    # Few states have no usual distance, and the mean of rain jumps by itself.
    steady = store.all_of(
        f"variable with {_FEW} states (rain does not count)",
        lambda one: one.states >= _FEW and not one.channel.may_be_zero,
    )
    for name, found in steady.items():
        means_TC = np.asarray(found.mean_TC, dtype=np.float64)
        known = np.isfinite(means_TC).any()
        centre_C = np.nanmedian(means_TC, axis=0) if known else np.zeros(means_TC.shape[1:])
        distance_TC = np.abs(means_TC - centre_C)
        # The farthest tenth is left out, so that states that jumped do not pass for usual themselves.
        nearest = -(-len(means_TC) * 9 // 10)
        usual_C = np.nanmean(np.sort(distance_TC, axis=0)[:nearest], axis=0)
        scale_C = np.maximum(usual_C, 0.05 * np.nan_to_num(found.training.scale_C))
        far = np.flatnonzero((distance_TC > _JUMP * scale_C).any(axis=1))
        if far.size:
            first = store.reader.coordinates["time"][far[0]].astype("datetime64[m]")
            detail = f"the mean of {far.size} of {len(means_TC)} states is far from all others, first {first}"
            remedy = "has the source changed its unit or its grid there? Correct it"
            yield Finding(name, detail, f"{remedy}, then {REBUILD}")


@check("zeros", "warning", "no zeros stand for missing values")
def _zeros(store: Examined) -> Findings:
    # Soil types, masks and rain are zero by right.
    filled = store.all_of(
        "variable that is hardly ever zero", lambda one: one.channel.kind != "static" and not one.channel.may_be_zero
    )
    for name, found in filled.items():
        count = int(found.zero_C.sum())
        share = count / found.size
        if share > _ZEROS:
            detail = f"{count} of {found.size} values ({share:.1%}) are exactly zero"
            remedy = f"does the source write 0 for what is missing? Mark them as missing or fill them, then {REBUILD}"
            yield Finding(name, detail, remedy, None, {"share": share})


@check("constant-in-space", "error", "no field has one value everywhere")
def _constant_in_space(store: Examined) -> Findings:
    for name, found in store.all_of("variable that could be read").items():
        # A level that is flat in all states has nothing to learn from; single states are worth a look.
        always = np.flatnonzero(found.flat_C == found.states)
        if always.size:
            detail = "one value everywhere"
            if found.low == found.high:
                detail = f"one value ({found.low:g}) everywhere"
            severity: Severity = "warning"
            if found.channel.kind != "static":
                detail += f" in all {found.states} states{_levels(store.reader, found, always)}"
                severity = "error"
            remedy = f"leave it out: there is nothing to learn from it; or correct the source, then {REBUILD}"
            yield Finding(name, detail, remedy, severity)
        elif found.flat.count:
            detail = _described(store.reader, found, found.flat, "fields with one value everywhere")
            yield Finding(name, detail, f"check these states in the source, then {REBUILD}", "warning")


@check("constant-in-time", "error", "every variable changes from state to state")
def _constant_in_time(store: Examined) -> Findings:
    for name, found in store.all_of("variable with several states", lambda one: one.states > 1).items():
        never = np.flatnonzero(found.repeated_C == found.states - 1)
        if never.size:
            detail = f"the same in all {found.states} states{_levels(store.reader, found, never)}"
            yield Finding(name, detail, f"leave it out, or make it static; or correct the source, then {REBUILD}")
        elif found.repeated.count:
            detail = _described(store.reader, found, found.repeated, "fields equal to the one before")
            yield Finding(name, detail, f"check these states in the source, then {REBUILD}", "warning")


def _levels(reader: StoreReader, found: Survey, indices: np.ndarray) -> str:
    if found.channel.kind != "atmospheric":
        return ""
    return " at " + few([f"{level:g}" for level in reader.coordinates["level"][indices]]) + " hPa"


def _finding(
    store: Examined,
    found: Survey,
    tally: Tally,
    what: str,
    remedy: str,
    shape: str = "",
    evidence: Mapping[str, Any] | None = None,
    severity: Severity | None = None,
) -> Finding:
    """Make a finding of values that were counted, with its evidence and where they are."""
    detail = _described(store.reader, found, tally, f"values {what}", shape)
    where = box(store.reader, found.channel, tally)
    return Finding(found.channel.name, detail, remedy, severity, {**(evidence or {}), **where})


def _described(reader: StoreReader, found: Survey, tally: Tally, what: str, shape: str = "") -> str:
    """Say how many values or fields, in how many states and levels, and where first."""
    assert tally.first is not None
    total = found.states * len(found.flat_C) if tally.points is None else found.size
    detail = f"{tally.count} of {total} {what}"
    if found.channel.kind != "static":
        detail += f" in {tally.states} of {found.states} states"
    if found.channel.kind == "atmospheric":
        detail += f" on {len(tally.levels)} of {len(found.flat_C)} levels"
    if shape:
        detail += f", {shape}"
    return f"{detail}; first: {reader.where(found.channel, tally.first)}"


CHECKS = (_nan, _infilled, _inf, _range, _negative, _outliers, _jumps, _zeros, _constant_in_space, _constant_in_time)
"""In the order in which they are reported."""
