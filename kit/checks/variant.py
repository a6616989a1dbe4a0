"""Checks of a store against what a variant of Aurora reads, or, where none is named, what Aurora's models usually read.

What is missing is no error: the kit trains without it, and says so. It is a warning where the variant was asked for.
"""

from collections.abc import Iterable

import numpy as np

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check, few
from kit.checks.results import Severity
from kit.data.store.format import STATIC_PREFIX
from kit.data.variables import Kind


@check("missing-variables", "info", "all variables that the model reads are there")
def _missing_variables(store: Examined) -> Findings:
    expected = store.expected
    kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("surface", expected.surface),
        ("atmospheric", expected.atmospheric),
        ("static", expected.static),
    )
    for kind, names in kinds:
        held = set()
        for channel in store.reader.channels:
            if channel.kind == kind:
                # Expected names of static variables have no prefix.
                held |= {channel.name, channel.name.removeprefix(STATIC_PREFIX)}
        missing = [name for name in names if name not in held]
        if missing:
            detail = f"{expected.label} reads {len(names)} {kind} variables; the store lacks {', '.join(missing)}"
            remedy = f"add {'them' if len(missing) > 1 else 'it'} to the data and {REBUILD}"
            remedy += ", or train without: its weights then know less than they did"
            yield Finding(None, detail, remedy, _severity(store), {"missing": missing})


@check("missing-levels", "info", "all pressure levels that the model knows are there, and no others")
def _missing_levels(store: Examined) -> Findings:
    held, expected = store.reader.coordinates.get("level", np.empty(0)), store.expected
    missing = [level for level in expected.levels if not np.isclose(held, level).any()]
    if missing:
        detail = f"{expected.label} knows {len(expected.levels)} levels; the store lacks {_hpa(missing)}"
        remedy = f"add them with `--levels` if the source has them: {REBUILD}"
        yield Finding("level", detail, remedy, _severity(store), {"missing": missing})
    others = [level for level in held.tolist() if not np.isclose(expected.levels, level).any()]
    if others:
        detail = f"{_hpa(others)}: upstream publishes no statistics there, and its weights have not seen them"
        remedy = "leave them out with `data.levels`, or train on them with the store's own statistics"
        yield Finding("level", detail, remedy, "info", {"others": others})


@check("time-step", "error", "states come at a step that the model can take", needs=("time",))
def _time_step(store: Examined) -> Findings:
    step, wanted = store.step_hours, store.expected.step_hours
    if step is None:
        msg = "one state alone has no step"
        raise NotApplicable(msg)
    # A pair is a state and the one that a step of the model later; both have to be in the store.
    if wanted is not None and (wanted / step) % 1:
        detail = f"states come every {step:g} h, and {store.expected.label} steps {wanted:g} h: no pair fits"
        yield Finding("time", detail, f"choose a step that divides {wanted:g} h with `--step`: {REBUILD}")
    elif (24 / step) % 1:
        detail = f"states come every {step:g} h, which does not divide a day: their hours of the day drift"
        yield Finding("time", detail, f"choose a step that divides a day with `--step`: {REBUILD}", "warning")


@check("accumulation-window", "error", "what is accumulated says over how long, and the windows fit the step")
def _accumulation_window(store: Examined) -> Findings:
    step = store.expected.step_hours or store.step_hours
    wanted = store.expected.window_hours or step
    accumulated = [channel for channel in store.reader.channels if channel.accumulated]
    if not accumulated:
        msg = "no accumulated variable"
        raise NotApplicable(msg)
    for channel in accumulated:
        window = channel.window_hours
        if window is None:
            detail = "does not say over how many hours it is accumulated (attribute accumulation_hours)"
            yield Finding(channel.name, detail, f"{REBUILD}, which records it", "warning")
        elif wanted is not None and window != wanted:
            # Where no variant was named, windows that neither overlap nor leave gaps are all that can be asked for.
            severity: Severity = "error"
            other = f"{store.expected.label} predicts {wanted:g} h"
            if store.expected.name is None:
                severity, other = "warning", f"states come every {step:g} h"
            detail = f"is accumulated over {window:g} h, but {other}: "
            detail += "what fell in between is lost" if window < wanted else "windows overlap"
            remedy = f"give hourly data and `--step {step:g}h`, which sums them"
            if window < wanted:
                remedy += f"; if these are sums of {wanted:g} h, say so with `--window {channel.name}={wanted:g}h`"
            remedy += f": {REBUILD}"
            yield Finding(channel.name, detail, remedy, severity, {"window_hours": window})


def _severity(store: Examined) -> Severity:
    return "info" if store.expected.name is None else "warning"


def _hpa(levels: Iterable[float]) -> str:
    return few([f"{level:g}" for level in levels]) + " hPa"


CHECKS = (_missing_variables, _missing_levels, _time_step, _accumulation_window)
"""In the order in which they are reported."""
