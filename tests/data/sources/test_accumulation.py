"""Running totals and windows of different lengths become sums over one window, worked out by hand."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.sources.accumulation import with_one_window
from kit.data.sources.leads import LEAD, WINDOW
from kit.io.errors import StoreError

DAY = np.datetime64("2020-01-01T00", "s")
HOUR = 3600


def rain(ends: Any, windows: Any, values: Any, leads: Any = None) -> xr.DataArray:
    """Values of one point, by the hours since the first of January at which their windows end."""
    times = (DAY + np.asarray(ends) * HOUR).astype("datetime64[ns]")
    coords = {"time": times, WINDOW: ("time", np.asarray(windows, float))}
    if leads is not None:
        coords[LEAD] = ("time", np.asarray(leads, float))
    return xr.DataArray(np.asarray(values, float)[:, None, None], coords, ("time", "latitude", "longitude"), "tp")


def hours(field: xr.DataArray) -> dict[int, float]:
    ends = (field["time"].values.astype("datetime64[s]") - DAY).astype(int) // HOUR
    return dict(zip(ends.tolist(), field.values[:, 0, 0].tolist(), strict=True))


def test_hourly_values_stay_as_they_are() -> None:
    notes: list[str] = []
    field = with_one_window(rain([1, 2, 3], [1, 1, 1], [5, 0, 2]), 6, notes.append)
    assert hours(field) == {1: 5, 2: 0, 3: 2}
    assert field.attrs == {"accumulation_hours": 1}
    assert field.dtype == np.float32
    assert notes == []


def test_totals_since_midnight_over_midnight() -> None:
    # Hours 22 to 26: 3, 1, 2 in the first day; 4, 0 in the second.
    field = rain([22, 23, 24, 25, 26], [22, 23, 24, 1, 2], [13, 14, 16, 4, 4])
    assert hours(with_one_window(field, None, lambda _: None)) == {23: 1, 24: 2, 25: 4, 26: 0}
    # Two hours end at even hours: 22-24 is 16 - 13, 24-26 the total of 26.
    assert hours(with_one_window(field, 2, lambda _: None)) == {24: 3, 26: 4}


def test_a_first_day_that_begins_in_the_middle() -> None:
    ends = np.arange(7, 31)
    values = np.arange(1.0, 31.0)
    totals = np.array([values[(end - 1) // 24 * 24 : end].sum() for end in ends])
    windows = (ends - 1) % 24 + 1
    hourly = hours(with_one_window(rain(ends, windows, totals), None, lambda _: None))
    # The total of 07 is that of seven hours, six of which nobody knows apart.
    assert hourly == {int(end): float(values[end - 1]) for end in ends[1:]}
    sixes = hours(with_one_window(rain(ends, windows, totals), 6, lambda _: None))
    assert sixes == {18: values[12:18].sum(), 24: values[18:24].sum(), 30: values[24:30].sum()}


def test_the_shortest_lead_is_taken() -> None:
    # Forecasts from 0 and 6, totals since the start, to 12 h ahead.
    ends, leads = [6, 12, 12, 18], [6, 12, 6, 12]
    field = rain(ends, leads, [1, 3, 5, 9], leads)
    result = with_one_window(field, None, lambda _: None)
    # 6-12 is the first six hours of the second forecast (5), not 3 - 1 of the first.
    assert hours(result) == {6: 1, 12: 5, 18: 4}
    assert result.attrs["accumulation_hours"] == 6


def test_leads_that_grow_apart_need_a_step() -> None:
    # Hourly to 6 h, then every 6 h: totals since the start.
    ends = [1, 2, 3, 4, 5, 6, 12, 18]
    field = rain(ends, ends, [1, 2, 3, 4, 5, 6, 16, 20], ends)
    with pytest.raises(StoreError, match="tp at 2020-01-01T12:00:00 is accumulated over other hours .*--step 18h"):
        with_one_window(field, None, lambda _: None)
    assert hours(with_one_window(field, 6, lambda _: None)) == {6: 6, 12: 10, 18: 4}


def test_windows_that_restart_every_six_hours() -> None:
    ends = np.arange(1, 13)
    field = rain(ends, (ends - 1) % 6 + 1, [1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60], ends)
    assert hours(with_one_window(field, None, lambda _: None)) == dict.fromkeys(range(1, 7), 1.0) | dict.fromkeys(
        range(7, 13), 10.0
    )
    assert hours(with_one_window(field, 6, lambda _: None)) == {6: 6, 12: 60}


def test_a_gap_is_named() -> None:
    # Of the sum that ends at 18 only three hours are there.
    field = rain([6, 12, 18, 24], [6, 12, 3, 6], [1, 2, 3, 4])
    with pytest.raises(StoreError, match="do not make up the sum over the 6 h that end at 2020-01-01T18:00:00"):
        with_one_window(field, 6, lambda _: None)
    # A total that is missing is no gap where later values do without it.
    field = rain([6, 12, 18, 30], [6, 12, 18, 6], [1, 2, 3, 4])
    assert hours(with_one_window(field, 6, lambda _: None)) == {6: 1, 12: 1, 18: 1, 30: 4}


def test_the_start_of_a_forecast_has_no_rain() -> None:
    with pytest.raises(StoreError, match="all 2 values are of the start of a forecast"):
        with_one_window(rain([0, 12], [0, 0], [0, 0], [0, 0]), None, lambda _: None)
    field = rain([0, 6], [6, 6], [7, 8], [0, 6])
    assert hours(with_one_window(field, None, lambda _: None)) == {6: 8}


def test_parts_of_hours_are_refused() -> None:
    with pytest.raises(StoreError, match="tp is accumulated over 0.5 h; whole hours are needed"):
        with_one_window(rain([1, 2], [0.5, 0.5], [1, 1]), None, lambda _: None)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    hourly=st.lists(st.integers(0, 1000), min_size=48, max_size=48),
    form=st.sampled_from(("midnight", "start", "resets", "hours")),
    first=st.integers(0, 20),
    step=st.sampled_from((None, 2, 3, 6, 12)),
)
def test_all_forms_give_the_same_sums(hourly: list[int], form: str, first: int, step: int | None) -> None:
    values: npt.NDArray[np.float64] = np.asarray(hourly, float)
    ends = np.arange(first + 1, 49)
    leads = None
    if form == "hours":
        windows = np.ones_like(ends)
    elif form == "midnight":
        windows = (ends - 1) % 24 + 1
    else:
        leads = (ends - 1) % 12 + 1
        windows = leads if form == "start" else (leads - 1) % 6 + 1
    totals = np.array([values[end - window : end].sum() for end, window in zip(ends, windows, strict=True)])
    found = with_one_window(rain(ends, windows, totals, leads), step, lambda _: None)
    length = found.attrs["accumulation_hours"]
    assert length in (1, step)
    for end, value in hours(found).items():
        assert value == values[end - length : end].sum()
    # All sums that the data make up are there: those whose hours lie behind the first end.
    known = [end for end in ends if end % length == 0 and end - length >= ends[0]]
    assert set(known) <= set(hours(found))
