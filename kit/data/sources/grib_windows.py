"""Forecast steps: which a state may come from, and the hours that an accumulation runs over."""

from __future__ import annotations

from collections.abc import Sequence

from kit.data.fields import Note
from kit.data.sources.grib_scan import Message
from kit.data.store_format import listed
from kit.errors import StoreError

__all__ = ["check_steps", "window_of"]

_SHORT = 12.0
"""Hours: a reanalysis takes what it does not analyse from forecasts no longer than that, one after the other."""


def check_steps(name: str, messages: Sequence[Message], accumulated: bool, note: Note) -> None:
    """Refuse statistics in the place of states, and long forecasts in the place of analyses.

    Raises:
        StoreError: one of the two.
    """
    allowed = ("accum", "instant") if accumulated else ("instant",)
    for message in messages:
        if message.step_type not in allowed:
            kind = "an accumulation" if accumulated else "a state"
            msg = (
                f"{message}: {name} is {kind}, but this is a statistic of the type {message.step_type!r} over "
                f"{message.window:g} h; leave it out"
            )
            raise StoreError(msg)
    leads = sorted({message.lead for message in messages})
    if len(leads) > 1 and leads[-1] > _SHORT:
        msg = (
            f"{messages[0].path.name}: {name} comes from {len(leads)} forecast steps, up to {leads[-1]:g} h ahead; "
            f"give analyses, one step, or steps of at most {_SHORT:g} h"
        )
        raise StoreError(msg)
    if leads != [0.0] and not accumulated:
        note(f"{name} comes from forecasts {listed(leads)} h ahead; its times are those that it is valid at")


def window_of(name: str, messages: Sequence[Message]) -> int:
    """Hours that the values of an accumulated variable belong to; the same in all messages.

    Raises:
        StoreError: there are several, as in accumulations since the start of a forecast; or none is stated, or it is
            not of whole hours.
    """
    # Old ECMWF headers call an accumulation since the start of the forecast a moment at its end.
    windows = {message.lead if message.step_type == "instant" else message.window: message for message in messages}
    if len(windows) > 1:
        ordered = sorted(windows)
        msg = (
            f"{windows[ordered[0]]} and {windows[ordered[-1]]}: {name} is accumulated over {listed(ordered)} h; "
            "give one window (of accumulations since the start of a forecast: take differences first)"
        )
        raise StoreError(msg)
    ((window, message),) = windows.items()
    if window <= 0 or window != int(window):
        stated = f"over {window:g} h" if window else "but its header states no window (step 0)"
        msg = f"{message}: {name} is an accumulation {stated}; whole hours are needed: mend the header, or leave it out"
        raise StoreError(msg)
    return int(window)
