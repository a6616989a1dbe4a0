"""Checks of what states are of: leads of forecasts in one sequence, running totals, windows that values contradict."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from kit.checks.change import Change
from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check, few
from kit.checks.results import Severity
from kit.checks.scan import Survey
from kit.checks.units import RAIN, WETTEST


@check("leads", "warning", "all variables come from the same lead")
def _leads(store: Examined) -> Findings:
    stated = [channel for channel in store.reader.channels if channel.lead_hours]
    if not stated:
        msg = "no variable states its lead (attribute lead_hours)"
        raise NotApplicable(msg)
    names: dict[tuple[float, ...], list[str]] = {}
    for channel in stated:
        names.setdefault(tuple(channel.lead_hours), []).append(channel.name)
    # Rain of a forecast has no value at its start: it comes from a later lead than what is instantaneous.
    of_moments = {tuple(channel.lead_hours) for channel in stated if not channel.accumulated}
    is_usual = len(of_moments) < 2 and all(len(leads) == 1 for leads in of_moments)
    if len(names) == 1 and all(len(leads) == 1 for leads in names):
        return
    parts = []
    for leads, of_lead in sorted(names.items()):
        parts.append(f"{few(of_lead)}: {', '.join(f'{lead:g}' for lead in leads)} h")
    detail = f"states come from different leads, {'; '.join(parts)}"
    remedy = "for a sequence of one lead choose it with `--lead`, such as `--lead 6h`: the error of a forecast grows "
    remedy += f"with its lead, and a model learns the steps back too. {REBUILD.capitalize()}"
    severity: Severity = "warning"
    if is_usual:
        severity = "info"
        remedy = "nothing: accumulations of forecasts come from later leads, as they have no value at the start"
    leads_of = {channel.name: channel.lead_hours for channel in stated}
    yield Finding(None, detail, remedy, severity, {"lead_hours": leads_of})


_SOLAR = ("ssrd", "ssr", "tisr", "tsr", "uvb")
_RESETS = 2
"""States that a total grows over, for each one at which it begins anew: sunshine, which rises and falls in a day, has
fewer in a row (and one more is asked of it)."""
_NEVER_FALLS = 12
"""Steps over which no window's sum grows everywhere."""
_MIXED = 0.05
"""Share of steps that may be neither growth nor a new start."""


@check("running-totals", "error", "what is accumulated does not grow from state to state and drop")
def _running_totals(store: Examined) -> Findings:
    """Totals since 00 UTC or since the start of a forecast never fall but where they begin anew."""
    totals = store.all_of("sums (of rain, of radiation) at several times", lambda one: any(one.changes))
    for name, found in totals.items():
        starts = _new_starts(found.changes, _RESETS + (name in _SOLAR))
        means = np.asarray(found.mean_TC, dtype=np.float64)[:, 0]
        if starts is None or (not starts and not means[-1] > 1.5 * means[0]):
            continue
        times = store.reader.coordinates["time"].astype("datetime64[m]")
        detail = f"grows at nearly every point from each state to the next, over {len(found.changes)} steps"
        window, since = "since-start", "a start"
        if starts:
            last = times[starts]
            grown = found.changes.count("grown")
            detail = (
                f"grows at nearly every point over {grown} steps and drops after {len(starts)}, first after {last[0]}"
            )
            if (last == last.astype("datetime64[D]")).all():
                window, since = "since-00utc", "00 UTC"
        hours = found.channel.window_hours
        detail += f": these are totals since {since}"
        if hours is not None:
            detail += f", not sums of the {hours:g} h that it states"
        remedy = f"say so with `--window {name}={window}`, so that the totals are taken apart: {REBUILD}"
        yield Finding(name, detail, remedy, None, {"starts": len(starts), "window": window})


def _new_starts(changes: list[Change], run: int) -> list[int] | None:
    """Return the states after which a running total begins anew; None where this is none."""
    grown, mixed = changes.count("grown"), changes.count("mixed")
    fallen = [state for state, change in enumerate(changes) if change == "fallen"]
    if mixed > _MIXED * len(changes) or grown < 2 * run or grown < run * len(fallen):
        return None
    if not fallen:
        return [] if grown >= _NEVER_FALLS else None
    # A shower that passes falls for more than one step, and at no certain hour.
    intervals = np.diff(fallen)
    if (intervals < 2).any() or (intervals % intervals.min(initial=len(changes))).any():
        return None
    return fallen


_SUN = 1361 * 1.034
"""W m-2 above the atmosphere in early January, when the Earth is nearest to the sun: the total solar irradiance (Kopp
and Lean 2011, doi:10.1029/2010GL045777) over the square of the distance."""
_LONGEST_DAY = 560.0
"""W m-2 above the atmosphere, mean of a day: that of the south pole in December, the most that there is, is 554."""
_SKY = (40.0, 560.0)
"""W m-2 of long-wave radiation from the sky, mean over a store: black bodies of 163 and 315 K."""
_GLOBE = (0.5, 10.0)
"""Millimetres of precipitation a day, mean over the globe, which has 2.7 (Adler et al. 2018, doi:10.3390/
atmos9040138): a fifth, and the quadruple."""
_NIGHT = 60.0
"""Degrees from the equator within which each day has a sunrise."""


@check("window-values", "error", "sums are as large as their windows make them")
def _window_values(store: Examined) -> Findings:
    judged = ("strd", "tp", *_SOLAR, *RAIN)
    accumulated = store.all_of(
        "sums that state their window",
        lambda one: one.channel.name in judged and bool(one.channel.window_hours),
    )
    for name, found in accumulated.items():
        hours = found.channel.window_hours or 1
        for values, fault, severity in _contradictions(store, found, hours):
            detail = f"{values}: the window of {hours:g} h that it states is too {fault} for them"
            likely = "24h" if fault == "short" else "1h"
            remedy = f"give the true window, such as `--window {name}={likely}`, or correct the unit: {REBUILD}"
            yield Finding(name, detail, remedy, severity, {"window_hours": hours})


_Fault = Literal["short", "long"]


def _contradictions(store: Examined, found: Survey, hours: float) -> Iterator[tuple[str, _Fault, Severity]]:
    """Yield what contradicts a window: words, what the window is too much of, and how bad that is."""
    name, seconds = found.channel.name, 3600 * hours
    mean = float(np.nanmean(found.mean_C)) if np.isfinite(found.mean_C).any() else np.nan
    if name in _SOLAR:
        most = _LONGEST_DAY if hours >= 24 else _SUN
        if found.high > most * seconds:
            yield f"reaches {found.high / seconds:.4g} W m-2, and the sun gives at most {most:.4g}", "short", "error"
        latitude = np.abs(store.reader.coordinates["latitude"])
        flat = found.flat_C[0] * (found.size / found.states)
        share = float(found.zero_C[0] + flat) / found.size
        if hours >= 24 and found.high > 0 and share > float((latitude > _NIGHT).mean()) + 0.01:
            yield f"{share:.0%} of its values are zero, as at night, and every day has a sunrise here", "long", "error"
    elif name == "strd":
        if mean > _SKY[1] * seconds or mean < _SKY[0] * seconds:
            detail = f"its mean is {mean / seconds:.3g} W m-2, and the sky gives {_SKY[0]:g} to {_SKY[1]:g}"
            yield detail, "short" if mean > _SKY[1] * seconds else "long", "error"
    else:
        daily = 1000 * mean * 24 / hours
        # Where the step between states is no window that explains it either, the unit is another one.
        longest = max(hours, store.step_hours or 0)
        is_globe = name == "tp" and store.spans_globe and not store.reader.attributes.get("synthetic")
        if daily > 1000 * WETTEST >= daily * hours / longest:
            yield f"its mean is {daily:.3g} mm a day, and no region has {1000 * WETTEST:g}", "short", "warning"
        elif is_globe and not _GLOBE[0] <= daily <= _GLOBE[1] and daily <= 1000 * WETTEST:
            detail = (
                f"its mean over the globe is {daily:.3g} mm a day, where {_GLOBE[0]:g} to {_GLOBE[1]:g} are expected"
            )
            yield detail, "short" if daily > _GLOBE[1] else "long", "warning"


CHECKS = (_leads, _running_totals, _window_values)
"""In the order in which they are reported."""
