"""Dates of files as they are meant: decoded from their numbers, and rounded to what these could not say."""

import re
import warnings
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.settings import Period
from kit.io.errors import StoreError

Moments = npt.NDArray[np.datetime64]

FIRST_YEAR, LAST_YEAR = 1800, 2300
"""Years that are believed without being asked for; damaged or overflown numbers are dates, too."""
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
"""Calendars of the CF conventions (section 4.4.1) in which a date since 1582 is a day of ours."""
UNIT_SECONDS = {
    "days": 86400.0, "day": 86400.0, "d": 86400.0,
    "hours": 3600.0, "hour": 3600.0, "hrs": 3600.0, "hr": 3600.0, "h": 3600.0,
    "minutes": 60.0, "minute": 60.0, "mins": 60.0, "min": 60.0,
    "seconds": 1.0, "second": 1.0, "secs": 1.0, "sec": 1.0, "s": 1.0,
    "milliseconds": 1e-3, "millisecond": 1e-3, "millisec": 1e-3, "msec": 1e-3, "ms": 1e-3,
    "microseconds": 1e-6, "microsecond": 1e-6, "microsec": 1e-6, "us": 1e-6,
    "nanoseconds": 1e-9, "nanosecond": 1e-9, "nanosec": 1e-9, "ns": 1e-9,
}  # fmt: skip
"""Seconds of UDUNITS' units of time, by their spellings in lower case."""
_SPANS = (86400, 21600, 10800, 3600, 1800, 900, 600, 300, 60)
"""Seconds that whole times are multiples of, longest first."""
_SPANS_OF_DECIMALS = _SPANS[3:]
_DECIMALS = 12
"""Decimals beyond which a number is not taken to be rounded on purpose."""
_TABLE = 2
"""Dimensions of reference times by leads; what has more is a field."""
_MICROSECONDS = 1_000_000


def decode_dates(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Decode the numbers of a file's dates, and round them to what is meant.

    Args:
        dataset: File as xarray opens it with ``decode_times=False``.
        where: Name of the file, for messages.

    Returns:
        The dataset, with ``datetime64[s]`` for every variable of the form ``UNIT since DATE``, and for its bounds.

    Raises:
        StoreError: Dates are of another calendar or unit, or in a precision in which they cannot be told.
    """
    decoded = {}
    bounds = {
        str(array.attrs[key]): dict(array.attrs)
        for array in dataset.variables.values()
        for key in ("bounds", "climatology")
        if key in array.attrs
    }
    for key, variable in dataset.variables.items():
        attributes = dict(variable.attrs)
        if "units" not in attributes and str(key) in bounds:
            # Bounds take units and calendar from what they bound (CF conventions, section 7.1).
            inherited = bounds[str(key)]
            attributes |= {name: inherited[name] for name in ("units", "calendar") if name in inherited}
        is_date = " since " in str(attributes.get("units", "")) and variable.dtype.kind in "iuf"
        if is_date and (variable.ndim <= _TABLE or str(key) in bounds):
            decoded[key] = _decoded(variable, attributes, f"{where}: {key}")
    names = [name for name in decoded if name in dataset.coords]
    changed = dataset.drop_indexes([name for name in names if name in dataset.xindexes])
    changed = changed.assign(decoded).set_coords(names)
    for name in names:
        if changed[name].dims == (name,):
            changed = changed.set_xindex([name])
    changed.set_close(dataset.close)
    return changed


def _decoded(variable: xr.Variable, attributes: dict[str, Any], what: str) -> xr.Variable:
    """Decode the dates of a variable."""
    units = str(attributes["units"])
    calendar = str(attributes.get("calendar", "standard")).strip().lower()
    if calendar not in CALENDARS:
        msg = (
            f"{what} counts in the calendar {calendar!r}, whose days are not those of the store; expected one of "
            f"{', '.join(CALENDARS)}: convert the file first, such as with xarray's "
            "`convert_calendar('standard', align_on='date')`"
        )
        raise StoreError(msg)
    seconds = UNIT_SECONDS.get(units.partition(" since ")[0].strip().lower())
    if seconds is None:
        msg = (
            f"{what} has the units {units!r}, in which a time has no fixed length; expected days, hours, minutes or "
            "seconds since a date: mend the attribute units and the numbers"
        )
        raise StoreError(msg)
    raw = np.asarray(variable.values)
    plain = xr.Variable(variable.dims, raw, {"units": units, "calendar": calendar})
    try:
        if np.isinf(raw).any():
            # NumPy would make a date of them, too.
            raise OverflowError
        with warnings.catch_warnings():
            # Dates before 1582 come as objects of cftime, which are refused below.
            warnings.simplefilter("ignore")
            # Nanoseconds, which are xarray's own choice, hold no year before 1678 or after 2262.
            coder = xr.coders.CFDatetimeCoder(time_unit="us")
            values = np.asarray(coder.decode(plain).values)
    except (ValueError, OverflowError, TypeError, KeyError) as error:
        msg = f"{what} cannot be read as dates: units {units!r}, numbers {_extent(raw)}; mend the units or the numbers"
        raise StoreError(msg) from error
    if values.dtype.kind != "M":
        msg = (
            f"{what} holds the date {values.ravel()[0]}, before the calendar {calendar!r} became ours in 1582; mend "
            "the dates, or leave these states out"
        )
        raise StoreError(msg)
    stored = np.dtype(variable.encoding.get("dtype", raw.dtype))
    packing = abs(float(variable.encoding.get("scale_factor", 0.0)))
    meant = _meant(values.astype("datetime64[us]"), raw, stored, packing, seconds, f"{what} ({units})")
    kept = {name: value for name, value in attributes.items() if name not in ("units", "calendar")}
    return xr.Variable(variable.dims, meant, kept, {"units": units, "calendar": calendar, "dtype": stored})


def _meant(
    values: Moments, raw: npt.NDArray[Any], stored: np.dtype[Any], packing: float, unit: float, what: str
) -> Moments:
    """Round moments to those that their writer meant.

    A writer counts whole minutes or hours, and stores them as numbers that cannot hold them: 02:00 is 0.083333 days,
    which is 01:59:59.97. So the nearest second is taken; and where all numbers lie no further from whole days, hours
    or minutes than their own precision (half the unit of their last decimal, or half the step between floating-point
    numbers), these are. Days as single precision since 1900 are multiples of 337 s; of such numbers nothing is known
    but what they are near to, and where that is nothing whole, they are refused.

    Args:
        values: Numbers as they stand, as dates.
        raw: The numbers.
        stored: Their type in the file.
        packing: Step between packed numbers; 0 of those that are not packed.
        unit: Seconds of their unit.
        what: File and variable, for the message.

    Raises:
        StoreError: The numbers are too coarse to tell which times are meant.
    """
    present = ~np.isnat(values)
    numbers = raw[present]
    if (stored.kind in "iu" and not packing) or not numbers.size:
        return _nearest_seconds(values)
    exact = values[present].astype(np.int64)
    largest = np.abs(numbers).max()
    held = raw.dtype if raw.dtype.kind == "f" else np.dtype(np.float64)
    if stored.kind == "f":
        held = stored
    singles = numbers.astype(np.float32).astype(np.float64) == numbers
    if singles.all() and (exact % _MICROSECONDS).any():
        # Computed in single precision, and only then stored in double.
        held = np.dtype(np.float32)
    resolution = max(float(np.spacing(largest.astype(held))), packing) * unit / 2
    # What numbers hold to their last bit is near to what is meant; what was rounded to few decimals may be further off,
    # and says nothing of whole days.
    for slack, spans in ((resolution, _SPANS), (_half_of_last_decimal(numbers) * unit, _SPANS_OF_DECIMALS)):
        for span in spans:
            whole = np.round(exact / (span * _MICROSECONDS)) * span * _MICROSECONDS
            if slack < span / 2 and np.abs(whole - exact).max() <= slack * _MICROSECONDS + 1:
                rounded = values.copy()
                rounded[present] = whole.astype(np.int64).astype("datetime64[us]")
                return rounded.astype("datetime64[s]")
    if resolution >= 1:
        shown = np.datetime_as_string(values[present].ravel()[0], unit="s")
        msg = (
            f"{what}: numbers of the type {held} are {2 * resolution:g} s apart there and stand for {shown} and "
            "others that are no whole minutes, so that the times that are meant are not known; write double precision"
        )
        raise StoreError(msg)
    return _nearest_seconds(values)


def _half_of_last_decimal(numbers: npt.NDArray[Any]) -> float:
    """Find by how much numbers that were rounded to some decimals may be off; 0 where they were not rounded."""
    for decimals in range(_DECIMALS + 1):
        if np.array_equal(np.round(numbers, decimals), numbers):
            return 0.5 * 10.0**-decimals
    return 0.0


def _nearest_seconds(values: Moments) -> Moments:
    """Round dates to whole seconds; those of coarser units, and what is no date, stay."""
    if np.datetime_data(values.dtype)[0] not in ("ms", "us", "ns", "ps", "fs", "as"):
        return values.astype("datetime64[s]")
    down = values.astype("datetime64[s]")
    # The rest is small, whatever the unit: a sum with half a second would not fit near the ends of nanoseconds.
    rest = (values - down.astype(values.dtype)).astype("timedelta64[us]").astype(np.int64)
    up = (rest >= _MICROSECONDS // 2) & ~np.isnat(values)
    rounded: Moments = down + up.astype("timedelta64[s]")
    return rounded


def checked_dates(values: npt.NDArray[Any], where: str, period: Period | None = None) -> Moments:
    """Check that dates can be meant, and round them to seconds.

    Args:
        values: Dates of any unit.
        where: Name of the data, for messages.
        period: Times that were asked for, whose years are believed.

    Raises:
        StoreError: One is missing, or of a year that nobody asked for.
    """
    without = int(np.isnat(values).sum())
    if without:
        msg = f"{where}: {without} of {values.size} times have no value; leave these states out"
        raise StoreError(msg)
    # Years of any unit, before seconds, which do not hold all of them.
    years = values.astype("datetime64[Y]").astype(np.int64) + 1970
    believed = (years >= FIRST_YEAR) & (years <= LAST_YEAR)
    if period is not None:
        believed |= (years >= period.start.year) & (years <= period.end.year)
    if not believed.all():
        year = int(years[~believed][0])
        found = str(year)
        if 0 < year < 10_000:
            found = f"{values[~believed][0].astype('datetime64[D]')}"
        msg = (
            f"{where}: {int((~believed).sum())} of {values.size} times lie outside the years {FIRST_YEAR} to "
            f"{LAST_YEAR}, the first in {found}; mend them, or name these years in --times if they are meant"
        )
        raise StoreError(msg)
    return _nearest_seconds(values)


def check_times(dataset: xr.Dataset, where: str, period: Period | None = None) -> xr.Dataset:
    """Check that the times of a dataset are dates, and round them to seconds.

    Args:
        dataset: Fields along ``time``.
        where: Name of the file, for messages.
        period: Times that were asked for, whose years are believed.

    Raises:
        StoreError: They are of another calendar, missing, or out of range.
    """
    times = dataset["time"]
    check_are_dates(times, where)
    return dataset.assign_coords(time=("time", checked_dates(times.values, where, period)))


def check_are_dates(times: xr.DataArray, where: str) -> None:
    """Check that times are dates along one dimension, of which there is one at least.

    Raises:
        StoreError: They are not; names the units with which they would be.
    """
    if times.ndim == 1 and times.size and np.issubdtype(times.dtype, np.datetime64):
        return
    first = ", ".join(map(str, times.values.ravel()[:1]))
    msg = (
        f"{where}: times of the type {times.dtype} and the shape {times.shape} (first: {first}) are not dates of the "
        "standard calendar; write numbers with units such as 'hours since 1970-01-01' (of CDO's absolute times: "
        "`cdo -r copy IN OUT`)"
    )
    raise StoreError(msg)


def dates_of_text(texts: npt.NDArray[Any], where: str) -> Moments:
    """Read dates of ISO 8601, those with a time zone as UTC.

    Args:
        texts: Text of each date.
        where: Name of the data, for messages.

    Raises:
        StoreError: One is no such date.
    """
    moments = []
    for text in texts.astype(str).tolist():
        written = text.strip()
        # datetime wants a day, and would read 202001 as a year and no month.
        if re.fullmatch(r"\d{4}-\d\d", written):
            written += "-01"
        try:
            moment = datetime.fromisoformat(written)
        except ValueError as error:
            msg = f"{where}: times are not ISO 8601, such as 2020-01-01T06:00:00 ({error}); mend them"
            raise StoreError(msg) from error
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        moments.append(moment)
    return _nearest_seconds(np.array(moments, dtype="datetime64[us]"))


def _extent(numbers: npt.NDArray[Any]) -> str:
    if not numbers.size:
        return "none"
    return f"{np.nanmin(numbers):g} to {np.nanmax(numbers):g}"
