"""Times as requests name them: days of a month and hours of a day, each day with the same hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, TypeVar

__all__ = ["Dates", "Times", "blocks", "dated"]

T = TypeVar("T")
Times = tuple[datetime, ...]
Dates = Literal["days", "range"]
"""How days are written: year, month and day apart, or ``date`` as START/END."""


def blocks(times: Times, most: int, *, together: bool) -> list[tuple[tuple[datetime, ...], tuple[int, ...]]]:
    """Days of one month with the same hours, at most so many times in a block.

    Args:
        times: in order.
        most: times in a block.
        together: the days of a block must follow each other.
    """
    days: dict[datetime, list[int]] = {}
    for moment in times:
        days.setdefault(moment.replace(hour=0), []).append(moment.hour)
    groups: dict[tuple[int, int, tuple[int, ...]], list[datetime]] = {}
    for day, of_day in days.items():
        groups.setdefault((day.year, day.month, tuple(of_day)), []).append(day)
    blocks = []
    for (_, _, hours), members in groups.items():
        for run in _runs(members) if together else [members]:
            for some in _even(hours, most):
                blocks += [(part, some) for part in _even(run, max(1, most // len(some)))]
    return sorted(blocks)


def _even(items: Sequence[T], most: int) -> list[tuple[T, ...]]:
    """Parts of nearly the same length, none longer than that."""
    count = math.ceil(len(items) / most)
    edges = [round(index * len(items) / count) for index in range(count + 1)]
    return [tuple(items[start:end]) for start, end in pairwise(edges)]


def _runs(days: Sequence[datetime]) -> list[list[datetime]]:
    """Days that follow each other."""
    runs: list[list[datetime]] = []
    for day in days:
        if runs and day - runs[-1][-1] == timedelta(days=1):
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def dated(days: Sequence[datetime], hours: Sequence[int], form: Dates) -> dict[str, Any]:
    """The part of a request that says when."""
    time = [f"{hour:02d}:00" for hour in hours]
    if form == "range":
        return {"date": [f"{days[0]:%Y-%m-%d}/{days[-1]:%Y-%m-%d}"], "time": time}
    first = days[0]
    return {
        "year": [f"{first:%Y}"],
        "month": [f"{first:%m}"],
        "day": [f"{day:%d}" for day in days],
        "time": time,
    }
