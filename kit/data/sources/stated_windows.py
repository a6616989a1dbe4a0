"""What a field's values are of: a moment, or the hours over which they were summed or averaged.

A file says it by ``cell_methods`` and the bounds of its times (CF conventions 1.11, chapter 7), by cfgrib's
``GRIB_stepType`` and ``GRIB_stepRange``, or by the variable's name; else the product is asked, or the user.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.products import PRODUCTS, WINDOW_FORMS, Product, Window
from kit.data.source_names import window
from kit.data.sources.fields import Note
from kit.data.sources.leads import BOUND_END, BOUND_START, LEAD, MOVED, WINDOW
from kit.data.store.format import STATIC_PREFIX
from kit.data.variables import Variable
from kit.io.errors import StoreError

_METHOD = re.compile(
    r"\b(time|valid_time|t|step|forecast_period|forecast_reference_time)\s*:\s*(?:\w+\s*:\s*)*(\w+)\b(?!\s*:)"
)
"""A statistic over a dimension of time, as in ``time: sum (interval: 1 hour)`` or ``time: lat: lon: mean``."""
_STEP_RANGE = re.compile(r"(\d+)-(\d+)")
_MONTHLY = ("avgad", "avgua", "avgid", "avgas", "avgd", "avgia", "accummonth")
"""ecCodes' types of steps of statistics over many analyses or forecasts, as in monthly means."""
_SECONDS = 3600.0
_DAY = 86400
_MONTH = 28 * _DAY
"""Seconds of the shortest month."""
_DAILY = PRODUCTS["era5-daily"]
"""The Climate Data Store's statistics of days, whose files are stamped at the beginning of their day."""

Hours = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WindowRules:
    """What is known of windows beside the files.

    Attributes:
        windows: Windows that the user names, by variable.
        product: Product that the user names, the registry, or the file's own attributes; None where nobody does.
    """

    windows: dict[str, Window]
    product: Product | None


def with_window(
    array: xr.DataArray, name: str, variable: Variable | None, rules: WindowRules, where: str, note: Note
) -> xr.DataArray:
    """Attach the hours that each value adds up over, and check that a state is one.

    Args:
        array: Field with its own attributes, along ``time`` where it has one.
        name: The store's name of it.
        variable: Its entry in the table of variables.
        rules: What is known beside the file.
        where: Name of the file, for messages.
        note: Takes what was found.

    Returns:
        The field, with the coordinate ``state_window`` if it is accumulated, and its valid times at the ends of the
        intervals; or with the attribute ``averaging_hours`` if it is a mean.

    Raises:
        StoreError: Nobody says over which hours it is accumulated, or it is a statistic that is no state.
    """
    # Sources that read windows from headers have attached them.
    if "time" not in array.dims or WINDOW in array.coords:
        return array
    found = _METHOD.search(str(array.attrs.get("cell_methods", "")))
    method = found[2] if found else ""
    step_type = str(array.attrs.get("GRIB_stepType", ""))
    if step_type in _MONTHLY:
        msg = (
            f"{where}: {array.name} is a mean over many days (GRIB_stepType {step_type}), such as of a month; a store "
            "holds states: leave it out by naming others with --variables, or give data of single times"
        )
        raise StoreError(msg)
    # A statistic says itself what it is, whatever product it was made from.
    if found is not None and method in ("sum", "mean") and _is_of_daily_statistics(array, found[1]):
        rules = WindowRules(rules.windows, _DAILY)
    is_mean = (method or step_type) in ("mean", "avg")
    if name in rules.windows and variable is not None and not variable.accumulated and not is_mean:
        msg = (
            f"{where}: --window {name}={rules.windows[name]} has no effect: {array.name} is a state of a moment, and "
            "the file does not say that it is a mean; leave it out, or add the attribute cell_methods, such as with "
            f"NCO's `ncatted -a cell_methods,{array.name},c,c,'time: mean' FILE`"
        )
        raise StoreError(msg)
    # Of what the table lacks, the user or a store of the kit's says it.
    accumulated = "accumulation_hours" in array.attrs or (name in rules.windows and not is_mean)
    if variable is not None:
        accumulated = accumulated or variable.accumulated
    if is_mean and not accumulated:
        return _averaged(array, name, rules, where, note)
    if not accumulated:
        _check_state(array, name, method or step_type, rules, where)
        return array
    rule = rules.windows.get(name)
    hours = _stated(array, name, method, rules, where, note)
    if hours is None:
        rule = _product_of(array, name, method, rules, where, note).window
        hours = _by_rule(array, name, rule, where)
    return _at_ends(array, rule).assign_coords({WINDOW: ("time", hours)})


def _is_of_daily_statistics(array: xr.DataArray, dimension: str) -> bool:
    """Whether a statistic is of the Climate Data Store's daily statistics, by its words and its times.

    These keep the names of GRIB converted by cfgrib: the statistic is one over ``valid_time``, of days in UTC.
    """
    if dimension != "valid_time" or BOUND_START in array.coords:
        return False
    if not any(str(key).startswith("GRIB_") for key in array.attrs):
        return False
    times = array["time"].values.astype("datetime64[s]").astype(np.int64)
    return len(times) > 1 and bool((times % _DAY == 0).all())


def _check_state(array: xr.DataArray, name: str, statistic: str, rules: WindowRules, where: str) -> None:
    """Refuse statistics in the place of states."""
    if statistic not in ("", "point", "instant", "unknown"):
        msg = (
            f"{where}: {array.name} is a statistic over time ({statistic}), and a store holds states of moments; leave "
            f"it out by naming others with --variables, or, of a sum, say over which hours with --window {name}=WINDOW"
        )
        raise StoreError(msg)
    if rules.product is _DAILY and statistic != "point" and not name.startswith(STATIC_PREFIX):
        msg = (
            f"{where}: {array.name} is of the product {_DAILY.name}, whose values are means, sums, maxima or minima of "
            "a day, and it does not say which; add the attribute cell_methods, such as with NCO's "
            f"`ncatted -a cell_methods,{array.name},c,c,'time: mean' FILE`"
        )
        raise StoreError(msg)


def _averaged(array: xr.DataArray, name: str, rules: WindowRules, where: str, note: Note) -> xr.DataArray:
    """Label a mean with its hours, and move it to their end."""
    rule = rules.windows.get(name)
    hours = _interval(array)
    # A store of the kit's states it.
    if "averaging_hours" in array.attrs:
        hours = np.full(array.sizes["time"], float(array.attrs["averaging_hours"]))
    if rule is None and hours is None and rules.product is _DAILY:
        rule = _DAILY.window
    if rule is not None and rule.kind in ("hours", "after"):
        hours = np.full(array.sizes["time"], rule.length)
    if hours is not None and np.ptp(hours) > 0:
        msg = (
            f"{where}: {array.name} holds means over {hours.min():g} to {hours.max():g} h, such as of months, and a "
            "store holds values of one kind: leave it out by naming others with --variables, or give data of single "
            "times"
        )
        raise StoreError(msg)
    if hours is None:
        msg = (
            f"{where}: {array.name} is a mean over time, and no bounds of its times say over which hours; "
            f"{_sides_of_stamps(array, name)}leave it out by naming others with --variables"
        )
        raise StoreError(msg)
    note(f"{array.name} holds means over {hours[0]:g} h, not states of a moment")
    return _at_ends(array, rule).assign_attrs(averaging_hours=float(hours[0]))


def _sides_of_stamps(array: xr.DataArray, name: str) -> str:
    """Word the settings that say on which side of the time stamps hours lie; empty for months, which differ."""
    times = array["time"].values.astype("datetime64[s]").astype(np.int64)
    step = _DAY if len(times) < 2 else int(np.diff(times).min())
    if step >= _MONTH:
        return ""
    hours = f"{step / _SECONDS:g}h"
    return (
        f"say --window {name}={hours} if they end at the time stamps, --window {name}={hours}-after if they begin "
        "there (or another number of hours), or "
    )


def _stated(array: xr.DataArray, name: str, method: str, rules: WindowRules, where: str, note: Note) -> Hours | None:
    """Read the hours from what the user says, else from what the file states; None where neither does."""
    count = array.sizes["time"]
    if name in rules.windows:
        note(f"{name} adds up {rules.windows[name].described}, as --window says")
        return _by_rule(array, name, rules.windows[name], where)
    stated = array.attrs.get("accumulation_hours") or window(str(array.name))
    if stated:
        return np.full(count, float(stated))
    step_range = _STEP_RANGE.fullmatch(str(array.attrs.get("GRIB_stepRange", "")))
    if step_range is not None and rules.product is not _DAILY:
        # Of several leads converters write the range of the first alone, which says nothing of the others.
        begin, end = float(step_range[1]), float(step_range[2])
        if LEAD not in array.coords or bool((array[LEAD] == end).all()):
            return np.full(count, end - begin)
    if method not in ("", "sum", "point"):
        msg = (
            f"{where}: {array.name} is a statistic over time ({method}), where a sum is expected; leave it out by "
            "naming others with --variables"
        )
        raise StoreError(msg)
    return None if method == "point" else _interval(array)


def _product_of(array: xr.DataArray, name: str, method: str, rules: WindowRules, where: str, note: Note) -> Product:
    """Return the product that says over which hours a variable adds up; refuse where there is none."""
    times = array["time"].values.astype("datetime64[s]").astype(np.int64)
    # A sum that comes every day is one of whole days, which the window of no hourly product describes.
    is_of_days = method == "sum" and len(times) > 1 and np.diff(times).min() >= _DAY
    if is_of_days and rules.product is not _DAILY:
        msg = (
            f"{where}: {array.name} holds sums of whole days by its cell_methods, and no bounds of its times say where "
            f"these begin; {_sides_of_stamps(array, name)}leave it out by naming others with --variables"
        )
        raise StoreError(msg)
    if rules.product is _DAILY and len(times) > 1 and np.diff(times).min() < _DAY:
        msg = (
            f"{where}: {array.name} comes every {np.diff(times).min() / _SECONDS:g} h, and values of the product "
            f"{_DAILY.name} are of whole days; name another --product, or the window with --window {name}=WINDOW: "
            f"{WINDOW_FORMS}"
        )
        raise StoreError(msg)
    if rules.product is None:
        msg = (
            f"{where}: {array.name} is accumulated, and neither the file nor its product says over which "
            f"hours. Name the product with --product ({', '.join(PRODUCTS)}), or the window with --window "
            f"{name}=WINDOW: {WINDOW_FORMS}"
        )
        raise StoreError(msg)
    note(f"{name} adds up {rules.product.window.described}, as in {rules.product.name}")
    return rules.product


def _by_rule(array: xr.DataArray, name: str, rule: Window, where: str) -> Hours:
    valid = array["time"].values.astype("datetime64[s]").astype(np.int64)
    lead = np.full(len(valid), np.nan)
    if LEAD in array.coords:
        lead = array[LEAD].values.astype(np.float64)
    hours: Hours = np.asarray(rule.before(valid, lead), dtype=np.float64)
    if np.isnan(hours).any():
        msg = (
            f"{where}: {name} adds up {rule.described}, and the file states neither leads nor reference times; "
            f"give files that do, or another window with --window {name}=WINDOW: {WINDOW_FORMS}"
        )
        raise StoreError(msg)
    return hours


def _interval(array: xr.DataArray) -> Hours | None:
    """Hours of each value's interval, between its bounds; None where it has none."""
    if BOUND_START not in array.coords:
        return None
    span = array[BOUND_END].values - array[BOUND_START].values
    return np.asarray(span.astype("timedelta64[s]").astype(np.int64) / _SECONDS)


def _at_ends(array: xr.DataArray, rule: Window | None) -> xr.DataArray:
    """Move times to the ends of their intervals, where a statistic's value is valid."""
    if rule is not None and rule.kind == "after":
        length = np.timedelta64(round(rule.length * _SECONDS), "s")
        ends = array["time"].values.astype("datetime64[s]") + length
        return array.assign_coords(time=("time", ends)).assign_attrs({MOVED: rule.length})
    if BOUND_END not in array.coords:
        return array
    return array.assign_coords(time=("time", array[BOUND_END].values.astype("datetime64[s]")))
