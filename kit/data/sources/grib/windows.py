"""What the value of a GRIB message is of: a moment, or the hours that a sum or another statistic runs over."""

from collections.abc import Sequence

from kit.data.sources.fields import Note
from kit.data.sources.grib.scan import Message
from kit.io.errors import StoreError

_WORDS = {
    "accum": "a sum", "avg": "a mean", "max": "a maximum", "min": "a minimum", "diff": "a difference",
    "rms": "a root mean square", "sd": "a standard deviation", "cov": "a covariance", "var": "a variance",
    "ratio": "a ratio", "mode": "a most frequent value",
}  # fmt: skip
"""eccodes' types of steps in words; those of several forecasts or analyses begin with ``avg`` or ``accum``, too."""


def states_of(name: str, messages: Sequence[Message], accumulated: bool, note: Note) -> list[Message]:
    """Choose the messages of a variable that hold its states: moments, or sums of what is accumulated.

    Args:
        name: the store's name of the variable.
        messages: that hold it.
        accumulated: whether it is a sum over time.
        note: takes what was left out.

    Returns:
        The states; means over one length of time, where there are no moments.

    Raises:
        StoreError: there are none, but other statistics.
    """
    kind, allowed = "a state", ["instant"]
    if accumulated:
        kind, allowed = "an accumulation", ["accum", "instant"]
    states = [message for message in messages if message.step_type in allowed]
    others = [message for message in messages if message.step_type not in allowed]
    first = next(iter(others), None)
    if first is None:
        return states
    statistic = _described(first)
    if states:
        # Forecasts of GFS hold cloud cover twice, of the moment and as a mean.
        note(f"{name}: {len(others)} of {len(messages)} fields left out, which are statistics such as {statistic}")
        return states
    spans = {message.window for message in others}
    is_mean = {message.step_type for message in others} == {"avg"} and not accumulated
    if is_mean and len(spans) == 1 and min(spans) > 0:
        note(f"{name} holds means over {min(spans):g} h, not states of a moment")
        return others
    msg = f"{first}: {name} is {kind}, but this is {statistic}; leave it out with --leave_out {name}"
    raise StoreError(msg)


def _described(message: Message) -> str:
    """Describe the statistic of a message, such as ``a maximum over 6 h``."""
    step_type = message.step_type
    statistic = _WORDS.get(step_type)
    for beginning in ("avg", "accum"):
        if statistic is None and step_type.startswith(beginning):
            statistic = f"{_WORDS[beginning]} of several analyses or forecasts"
    if statistic is None:
        statistic = f"a statistic of the type {step_type!r}"
    return f"{statistic} over {message.window:g} h" if message.window else statistic


def window_of(message: Message) -> float:
    """Return the hours that an accumulated value adds up over, as the header states them."""
    # Old ECMWF headers call an accumulation since the start of the forecast a moment at its end.
    return message.lead if message.step_type == "instant" else message.window
