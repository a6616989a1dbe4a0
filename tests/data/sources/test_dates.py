"""Dates of files as they are meant: decoded, rounded, and refused where nobody can mean them."""
# ruff: noqa: DTZ001 - a store's times are UTC and do not say so

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.settings import Period
from kit.data.sources.dates import check_are_dates, checked_dates, dates_of_text, decode_dates
from kit.io.errors import StoreError

SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
FIELD_CASES = Path(__file__).resolve().parents[4] / "shared" / "data" / "field-cases"


def decoded(numbers: np.ndarray, units: str, **attributes: object) -> np.ndarray:
    """Dates that a file means by these numbers."""
    dataset = xr.Dataset(coords={"time": ("time", numbers, {"units": units, **attributes})})
    values: np.ndarray = decode_dates(dataset, "a.nc")["time"].values
    return values


@settings(deadline=None)
@given(
    start=st.datetimes(datetime(1800, 1, 1), datetime(2299, 12, 1)),
    epoch=st.datetimes(datetime(1600, 1, 1), datetime(2300, 1, 1)),
    unit=st.sampled_from(sorted(SECONDS)),
    form=st.sampled_from(["float64", "rounded", "float32", "int64"]),
    step=st.sampled_from([1, 3, 6, 24]),
    count=st.integers(1, 6),
)
def test_whole_hours_come_back(start: datetime, epoch: datetime, unit: str, form: str, step: int, count: int) -> None:
    """Whole hours of any unit, epoch and precision: the same hours."""
    start = start.replace(minute=0, second=0, microsecond=0)
    epoch = epoch.replace(hour=0, minute=0, second=0, microsecond=0)
    hours = [start + timedelta(hours=step * index) for index in range(count)]
    exact = np.array([(hour - epoch).total_seconds() / SECONDS[unit] for hour in hours])
    numbers = exact
    if form == "rounded":
        numbers = np.round(exact, 6)
    elif form == "float32":
        numbers = exact.astype(np.float32)
    elif form == "int64":
        if (exact != np.round(exact)).any():
            return
        numbers = exact.astype(np.int64)
    units = f"{unit} since {epoch:%Y-%m-%d}"
    # Single precision of more than half an hour cannot tell one hour from the next.
    if form == "float32" and np.spacing(np.abs(numbers).max()) * SECONDS[unit] >= 3600:
        return
    found = decoded(numbers, units)
    assert found.astype("datetime64[s]").tolist() == hours


@settings(deadline=None)
@given(
    start=st.datetimes(datetime(1800, 1, 1), datetime(2299, 12, 1)),
    unit=st.sampled_from(sorted(SECONDS)),
    seconds=st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True),
)
def test_seconds_in_double_precision_come_back(start: datetime, unit: str, seconds: list[int]) -> None:
    """Any second of any day, in double precision that was not rounded."""
    start = start.replace(microsecond=0)
    moments = [start + timedelta(seconds=second) for second in seconds]
    numbers = np.array([(moment - datetime(1900, 1, 1)).total_seconds() / SECONDS[unit] for moment in moments])
    assert decoded(numbers, f"{unit} since 1900-01-01").tolist() == moments


def test_six_decimals_of_a_day_are_whole_hours() -> None:
    """0.083333 days are 01:59:59.97, and mean two o'clock."""
    found = decoded(np.round(np.arange(24) / 24, 6), "days since 2020-01-01")
    np.testing.assert_array_equal(found, np.datetime64("2020-01-01T00", "s") + 3600 * np.arange(24))


def test_two_decimals_of_a_day_are_whole_hours() -> None:
    """0.04 days are 57.6 minutes: seven minutes are what the decimals may hide."""
    found = decoded(np.array([0.0, 0.04, 0.08, 0.12]), "days since 2020-01-01")
    np.testing.assert_array_equal(found, np.datetime64("2020-01-01T00", "s") + 3600 * np.arange(4))


def test_what_is_no_whole_hour_stays() -> None:
    """36 seconds are a hundredth of an hour, and no minute."""
    found = decoded(np.array([0.0, 0.01, 0.5]), "hours since 2020-01-01")
    assert found.astype("datetime64[s]").astype(str).tolist() == [
        "2020-01-01T00:00:00", "2020-01-01T00:00:36", "2020-01-01T00:30:00",
    ]  # fmt: skip


def test_single_precision_of_days_since_1900() -> None:
    """Numbers that are 337 s apart: whole hours are told, minutes are not."""
    days = (43830 + np.arange(24) / 24).astype(np.float32)
    found = decoded(days, "days since 1900-01-01")
    np.testing.assert_array_equal(found, np.datetime64("2020-01-02T00", "s") + 3600 * np.arange(24))
    np.testing.assert_array_equal(decoded(days.astype(np.float64), "days since 1900-01-01"), found)
    odd = (43830 + np.array([4, 25, 46]) / 1440).astype(np.float32)
    with pytest.raises(StoreError, match=r"a\.nc: time .* 337\.5 s apart .* double precision"):
        decoded(odd, "days since 1900-01-01")


@pytest.mark.parametrize("calendar", ["noleap", "365_day", "360_day", "julian", "all_leap", "none"])
def test_other_calendars_are_refused(calendar: str) -> None:
    """Their days are others, even where their numbers would be dates."""
    with pytest.raises(StoreError, match=rf"calendar '{calendar}'.*convert_calendar"):
        decoded(np.arange(3), "days since 2020-01-01", calendar=calendar)


@pytest.mark.parametrize("units", ["months since 2020-01-01", "years since 1900-01-01", "fortnights since 2020-01-01"])
def test_units_without_a_length_are_refused(units: str) -> None:
    """A month has no length."""
    with pytest.raises(StoreError, match="no fixed length"):
        decoded(np.arange(3), units)


def test_units_that_name_no_date() -> None:
    """The message names the units."""
    with pytest.raises(StoreError, match="'hours since the start'"):
        decoded(np.arange(3), "hours since the start")


@pytest.mark.parametrize("numbers", ([0.0, np.inf], [-np.inf, 6.0], [0.0, 1e300], [0, 2**62]))
def test_numbers_that_are_no_dates(numbers: list[float]) -> None:
    with pytest.raises(StoreError, match=r"cannot be read as dates: units 'hours since 2020-01-01', numbers .*; mend"):
        decoded(np.array(numbers), "hours since 2020-01-01")


def test_a_time_zone_of_the_units() -> None:
    """Midnight an hour east of Greenwich is 23 UTC."""
    (found,) = decoded(np.array([0]), "hours since 2020-01-02T00:00:00+01:00")
    assert found == np.datetime64("2020-01-01T23", "s")


def test_bounds_take_units_from_what_they_bound() -> None:
    """Bounds have no attributes of their own."""
    dataset = xr.Dataset(
        {"time_bnds": (("time", "b"), [[0, 6], [6, 12]])},
        {"time": ("time", [6, 12], {"units": "hours since 2020-01-01", "bounds": "time_bnds"})},
    )
    found = decode_dates(dataset, "a.nc")
    np.testing.assert_array_equal(found["time_bnds"].values[:, 1], found["time"].values)


def test_years_nobody_asked_for() -> None:
    """1754 is what nanoseconds make of a time that they cannot hold; --times may mean it."""
    times = np.array(["1754-08-30T22:43:41", "2020-01-01"], "datetime64[s]")
    with pytest.raises(StoreError, match=r"a\.nc: 1 of 2 times .* 1754-08-30; .*--times"):
        checked_dates(times, "a.nc")
    period = Period(datetime(1754, 1, 1), datetime(1755, 1, 1))
    np.testing.assert_array_equal(checked_dates(times, "a.nc", period), times)
    with pytest.raises(StoreError, match="1 of 1 times have no value"):
        checked_dates(np.array(["NaT"], "datetime64[s]"), "a.nc")
    with pytest.raises(StoreError, match="in 20200101"):
        checked_dates(np.array(["20200101"], "datetime64[D]"), "a.nc")
    assert checked_dates(np.array(["2299-12-31T18"], "datetime64[h]"), "a.nc")[0] == np.datetime64("2299-12-31T18", "s")


@pytest.mark.parametrize(
    "times", [["2020-01-01", "2020-01-02"], [20200101.25, 20200102.0], [0, 6], np.empty(0, "datetime64[s]")]
)
def test_times_that_are_no_dates(times: object) -> None:
    with pytest.raises(StoreError, match=r"a\.nc: times of the type .* are not dates .*'hours since 1970-01-01'"):
        check_are_dates(xr.DataArray(times, dims="time"), "a.nc")


def test_fractions_of_seconds_are_rounded() -> None:
    """To the nearest second, before 1970 as well."""
    times = np.array(["1959-12-31T23:59:59.97", "2020-01-01T00:00:00.4"], "datetime64[ns]")
    found = checked_dates(times, "a.nc")
    assert found.astype(str).tolist() == ["1960-01-01T00:00:00", "2020-01-01T00:00:00"]


def test_text_of_dates() -> None:
    """Time zones become UTC, compact forms are ISO 8601 as well."""
    texts = np.array(["2020-01-01T01:00+01:00", "20200101", "2020-01", "2020-01-01T00:00:00.6Z"])
    found = dates_of_text(texts, "a.pkl")
    assert found.astype(str).tolist() == ["2020-01-01T00:00:00"] * 3 + ["2020-01-01T00:00:01"]
    with pytest.raises(StoreError, match=r"a\.pkl: times are not ISO 8601"):
        dates_of_text(np.array(["yesterday"]), "a.pkl")


@pytest.mark.skipif(not FIELD_CASES.is_dir(), reason="the field cases are not here")
def test_the_field_case() -> None:
    """Float days of six decimals, an hour apart."""
    with xr.open_dataset(FIELD_CASES / "s05_t.nc", decode_times=False) as dataset:
        times = decode_dates(dataset, "s05_t.nc")["time"].values
    assert (np.diff(times) == np.timedelta64(3600, "s")).all()
    assert times[0] == np.datetime64("2023-11-16", "s")
