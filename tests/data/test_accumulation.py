from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from kit.data.windows import at_step, trim
from kit.io.errors import StoreError


def hourly(values: list[float], *, start: str = "2020-01-01T00", every: int = 1, name: str = "tp") -> xr.DataArray:
    times = pd.date_range(start, periods=len(values), freq=f"{every}h").values.astype("datetime64[ns]")
    data = np.asarray(values, dtype=np.float32)[:, None, None]
    return xr.DataArray(data, {"time": times}, ("time", "latitude", "longitude"), name=name)


def hours(field: xr.DataArray) -> list[int]:
    return [int(h) for h in (field["time"].values - np.datetime64("2020-01-01")) / np.timedelta64(1, "h")]


def test_sums_end_at_the_time_stamp() -> None:
    notes: list[str] = []
    # Hours 0 to 12 hold 0 to 12: the window of 06 is 1 + ... + 6 = 21, that of 12 is 7 + ... + 12 = 57.
    field = at_step(hourly(list(range(13))), accumulated=True, hours=6, note=notes.append)
    assert hours(field) == [6, 12]
    assert field.values.ravel().tolist() == [21, 57]
    assert field.attrs["accumulation_hours"] == 6
    assert field.attrs["cell_methods"] == "time: sum (interval: 1 hour comment: over 6 hours)"
    assert "tp summed over the 6 h that end at each time stamp" in notes


def test_a_missing_value_makes_its_sum_missing() -> None:
    values = list(map(float, range(13)))
    values[3] = np.nan
    field = at_step(hourly(values), accumulated=True, hours=6, note=lambda _: None)
    assert np.isnan(field.values.ravel()).tolist() == [True, False]


def test_a_missing_hour_is_refused() -> None:
    field = hourly(list(range(13))).isel(time=[0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12])
    with pytest.raises(StoreError, match=r"tp at 2020-01-01T08:00:00 is missing, and the sum that ends at .*T12"):
        at_step(field, accumulated=True, hours=6, note=lambda _: None)


def test_without_a_step_hourly_amounts_stay() -> None:
    field = at_step(hourly([1, 2, 3]), accumulated=True, hours=None, note=lambda _: None)
    assert field.values.ravel().tolist() == [1, 2, 3]
    assert field.attrs == {"cell_methods": "time: sum (interval: 1 hour)", "accumulation_hours": 1}


def test_sampled_amounts_cannot_be_summed() -> None:
    with pytest.raises(StoreError, match="accumulated over 1 h but comes every 3 h: it cannot be summed to 6 h"):
        at_step(hourly([1, 2, 3, 4], every=3), accumulated=True, hours=6, note=lambda _: None)


def test_amounts_already_at_the_step_say_their_window() -> None:
    notes: list[str] = []
    field = at_step(hourly([1, 2], every=6), accumulated=True, hours=6, note=notes.append)
    assert field.attrs["accumulation_hours"] == 1
    assert notes == ["tp stays accumulated over 1 h: the data do not hold the hours between the states"]


def test_moments_are_sampled_at_whole_steps() -> None:
    field = at_step(
        hourly(list(range(10)), start="2020-01-01T03", name="2t"), accumulated=False, hours=6, note=lambda _: None
    )
    assert hours(field) == [6, 12]
    assert field.values.ravel().tolist() == [3, 9]
    assert field.attrs["cell_methods"] == "time: point"


def test_steps_off_midnight_start_at_the_first_state() -> None:
    times = hourly(list(range(4)), start="2020-01-01T03", every=12, name="2t")
    assert hours(at_step(times, accumulated=False, hours=24, note=lambda _: None)) == [3, 27]


@pytest.mark.parametrize("step", (3, 9))
def test_steps_that_the_source_cannot_make(step: int) -> None:
    with pytest.raises(StoreError, match=f"2t comes every 6 h, which makes no step of {step} h"):
        at_step(hourly([1, 2, 3], every=6, name="2t"), accumulated=False, hours=step, note=lambda _: None)


def test_the_first_states_go_where_a_sum_begins_before_the_data() -> None:
    notes: list[str] = []
    fields = {
        "tp": at_step(hourly(list(range(13))), accumulated=True, hours=6, note=notes.append),
        "2t": at_step(hourly(list(range(13)), name="2t"), accumulated=False, hours=6, note=notes.append),
    }
    assert hours(fields["2t"]) == [0, 6, 12]
    assert hours(trim(fields, notes.append)["2t"]) == [6, 12]
    assert notes[-1] == "2020-01-01T00:00 left out: hours that the sums need lie before the data"
