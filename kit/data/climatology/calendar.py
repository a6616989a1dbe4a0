"""Days of the year and hours of the day: which states of a store belong to each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

import numpy as np
import numpy.typing as npt

from kit.data.settings import Period
from kit.data.store.reader import Store
from kit.io.errors import StoreError

DAYS = 366
"""Days of a leap year, which days of the year are counted by."""


def day_of_year(times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Count the days of the year, from 1 on."""
    days = times.astype("datetime64[D]")
    return np.asarray((days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1)


def seconds_of_day(times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Count the seconds since midnight, UTC."""
    return np.asarray((times - times.astype("datetime64[D]")).astype("timedelta64[s]").astype(np.int64))


def listed_days(days: Iterable[int]) -> str:
    """Write days of the year for a message: ``1 to 59, 366``."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][1] == day - 1:
            runs[-1][1] = day
        else:
            runs.append([day, day])
    return ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in runs)


@dataclass(frozen=True)
class Calendar:
    """States of a store by hour of the day and day of the year.

    Attributes:
        period: From the first of the states to the last.
        count: Number of the states.
        hours: Hours of the day, UTC, in order.
        days: Days of the year that have states at all of these hours, in order.
        states: Indices in the store by hour and day.
    """

    period: Period
    count: int
    hours: tuple[int, ...]
    days: tuple[int, ...]
    states: Mapping[tuple[int, int], Sequence[int]]

    @classmethod
    def of(cls, store: Store, period: Period) -> "Calendar":
        """Sort the states of a period.

        Years without a leap day have day 365 for their day 366 too, as WeatherBench 2 has it (google-research/
        weatherbench2, ``weatherbench2/utils.py``, ``compute_rolling_stat``).

        Raises:
            StoreError: the period holds no state, states lie between whole hours, or no day has all hours.
        """
        indices = store.indices(period)
        if not indices.size:
            msg = f"{store.path}: no state in {period}; the store holds {store.period}: choose with --period START/END"
            raise StoreError(msg)
        times = store.times[indices]
        odd = times[seconds_of_day(times) % 3600 != 0]
        if odd.size:
            msg = (
                f"{store.path}: the state of {odd[0]} lies between whole hours, by which a climatology is sorted; "
                "build a store of whole hours with `kit data build --step`"
            )
            raise StoreError(msg)
        days, hours = day_of_year(times).tolist(), (seconds_of_day(times) // 3600).tolist()
        years = times.astype("datetime64[Y]").astype(np.int64) + 1970
        states: dict[tuple[int, int], list[int]] = {}
        for index, year, day, hour in zip(indices.tolist(), years.tolist(), days, hours, strict=True):
            states.setdefault((hour, day), []).append(index)
            if day == DAYS - 1 and not _is_leap(year):
                states.setdefault((hour, DAYS), []).append(index)
        every = tuple(sorted(set(hours)))
        whole = tuple(day for day in range(1, DAYS + 1) if all((hour, day) in states for hour in every))
        if not whole:
            msg = (
                f"{store.path}: no day of {period} has a state at each of the hours {', '.join(map(str, every))} UTC; "
                "choose a longer --period"
            )
            raise StoreError(msg)
        first, last = (moment.replace(tzinfo=UTC) for moment in times[[0, -1]].tolist())
        return cls(Period(first, last), len(times), every, whole, states)

    def around(self, hour: int, day: int, weights: npt.NDArray[np.float64]) -> dict[int, float]:
        """Return the days around a day that have states at an hour, with their weights; the year is a circle.

        Args:
            hour: Hour of the day.
            day: Day of the year.
            weights: Weights of the days around it, an odd number of them.
        """
        found: dict[int, float] = {}
        for offset, weight in enumerate(weights.tolist(), start=-(len(weights) // 2)):
            near = (day - 1 + offset) % DAYS + 1
            if weight > 0 and (hour, near) in self.states:
                found[near] = weight
        return found


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def window_weights(days: int) -> npt.NDArray[np.float64]:
    """Weight the days around a day: 1 in the middle, falling linearly to 0 at both ends.

    google-research/weatherbench2, ``weatherbench2/utils.py``, ``create_window_weights``.

    Args:
        days: Number of days, odd; of one alone the weight is 1.

    Returns:
        Weights, [days].
    """
    half = days // 2
    if half == 0:
        return np.ones(1)
    return np.asarray(1 - np.abs(np.arange(-half, half + 1)) / half)
