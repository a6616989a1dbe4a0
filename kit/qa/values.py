"""Checks of values: missing, infinite, implausible, constant."""

from __future__ import annotations

import numpy as np

from kit.qa.subject import Subject
from kit.qa.survey import Survey, Tally
from kit.qa.table import REBUILD, Examined, Finding, Findings, check, few

__all__ = ["CHECKS"]

SEA_ONLY = frozenset(
    {"sst", "swh", "mwd", "mwp", "pp1d", "shww", "mdww", "mpww", "shts", "mdts", "mpts"}
    | {"swh1", "mwd1", "mwp1", "swh2", "mwd2", "mwp2", "wind", "dwi"}
)
"""Variables of the sea, which are missing over land."""


@check("nan", "error", "no value is NaN")
def _nan(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if not found.nan.count:
            continue
        expected = name in SEA_ONLY and not (found.empty_C > 0).any()
        remedy = f"find out why the source lacks them; fill them or leave the variable or time out, then {REBUILD}"
        if expected:
            remedy = "none: the variable has no values over land"
        yield Finding(name, _evidence(store.subject, found, found.nan, "NaN"), remedy, "info" if expected else None)


@check("inf", "error", "no value is infinite")
def _inf(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        if found.infinite.count:
            remedy = f"correct the source, or mark them as missing there, then {REBUILD}"
            yield Finding(name, _evidence(store.subject, found, found.infinite, "infinite"), remedy)


@check("range", "error", "all values are physically plausible")
def _range(store: Examined) -> Findings:
    for name, found in store.surveys.items():
        known = found.channel.known
        if known is not None and found.outside.count:
            limits = (
                f"outside [{known.low:g}, {known.high:g}] {known.units} (values span {found.low:g} to {found.high:g})"
            )
            remedy = f"check the unit ({known.units} expected) and the source's fill value, then {REBUILD}"
            yield Finding(name, _evidence(store.subject, found, found.outside, limits), remedy)


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


def _evidence(subject: Subject, found: Survey, tally: Tally, what: str, *, of_values: bool = True) -> str:
    """Say how many, in how many states and levels, and where first."""
    assert tally.first is not None
    total = found.size if of_values else found.states * len(found.flat_C)
    parts = [f"{tally.count} of {total} values {what}" if of_values else f"{tally.count} of {total} {what}"]
    if found.channel.kind != "static":
        parts.append(f"in {tally.states} of {found.states} states")
    if found.channel.kind == "atmospheric":
        parts.append(f"on {len(tally.levels)} of {len(found.flat_C)} levels")
    return f"{' '.join(parts)}; first: {subject.where(found.channel, tally.first)}"


CHECKS = (_nan, _inf, _range, _constant_in_space, _constant_in_time)
"""In the order in which they are reported."""
