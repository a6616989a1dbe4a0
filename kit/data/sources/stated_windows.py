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
from kit.data.sources.leads import BOUND_END, BOUND_START, LEAD, WINDOW
from kit.data.variables import Variable
from kit.io.errors import StoreError

_METHOD = re.compile(
    r"\b(?:time|valid_time|t|step|forecast_period|forecast_reference_time)\s*:\s*(?:\w+\s*:\s*)*(\w+)\b(?!\s*:)"
)
"""A statistic over a dimension of time, as in ``time: sum (interval: 1 hour)`` or ``time: lat: lon: mean``."""
_STEP_RANGE = re.compile(r"(\d+)-(\d+)")
_MONTHLY = ("avgad", "avgua", "avgid", "avgas", "avgd", "avgia", "accummonth")
"""ecCodes' types of steps of statistics over many analyses or forecasts, as in monthly means."""
_SECONDS = 3600.0
_DAY = 86400
"""Seconds; statistics of whole days come at the step of their window, shorter ones may be a selection."""

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
    # Of what the table lacks, the user or a store of the kit's says it.
    accumulated = name in rules.windows or "accumulation_hours" in array.attrs
    if variable is not None:
        accumulated = accumulated or variable.accumulated
    found = _METHOD.search(str(array.attrs.get("cell_methods", "")))
    method = found[1] if found else ""
    step_type = str(array.attrs.get("GRIB_stepType", ""))
    if step_type in _MONTHLY:
        msg = (
            f"{where}: {array.name} is a mean over many days (GRIB_stepType {step_type}), such as of a month; a store "
            "holds states: leave it out by naming others with --variables, or give data of single times"
        )
        raise StoreError(msg)
    if not accumulated:
        return _checked_state(array, name, method, step_type, where, note)
    hours = _stated(array, name, method, rules, where, note)
    if hours is None:
        hours = _of_product(array, name, rules, where, note)
    return _at_ends(array).assign_coords({WINDOW: ("time", hours)})


def _checked_state(array: xr.DataArray, name: str, method: str, step_type: str, where: str, note: Note) -> xr.DataArray:
    """Label means, and refuse other statistics in the place of states."""
    statistic = method or step_type
    if statistic in ("", "point", "instant", "unknown"):
        return array
    if statistic not in ("mean", "avg"):
        msg = (
            f"{where}: {array.name} is a statistic over time ({statistic}), and a store holds states of moments; leave "
            f"it out by naming others with --variables, or, of a sum, say over which hours with --window {name}=WINDOW"
        )
        raise StoreError(msg)
    hours = _interval(array)
    if hours is None or np.ptp(hours) > 0:
        msg = (
            f"{where}: {array.name} is a mean over time, and neither bounds nor steps of whole days say over which "
            "hours; give bounds of the times, or leave it out by naming others with --variables"
        )
        raise StoreError(msg)
    note(f"{array.name} holds means over {hours[0]:g} h, not states of a moment")
    return _at_ends(array).assign_attrs(averaging_hours=float(hours[0]))


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
    if step_range is not None:
        return np.full(count, float(step_range[2]) - float(step_range[1]))
    if method not in ("", "sum", "point"):
        msg = (
            f"{where}: {array.name} is a statistic over time ({method}), where a sum is expected; leave it out by "
            "naming others with --variables"
        )
        raise StoreError(msg)
    if BOUND_START in array.coords and method != "point":
        return _interval(array)
    if method == "sum":
        hours = _interval(array)
        if hours is not None and np.ptp(hours) == 0:
            note(
                f"{name} holds sums by its cell_methods, without bounds: taken as those of the {hours[0]:g} h that end "
                "at each time stamp"
            )
            return hours
    return None


def _of_product(array: xr.DataArray, name: str, rules: WindowRules, where: str, note: Note) -> Hours:
    if rules.product is None:
        msg = (
            f"{where}: {array.name} is accumulated, and neither the file nor its product says over which "
            f"hours. Name the product with --product ({', '.join(PRODUCTS)}), or the window with --window "
            f"{name}=WINDOW: {WINDOW_FORMS}"
        )
        raise StoreError(msg)
    note(f"{name} adds up {rules.product.window.described}, as in {rules.product.name}")
    return _by_rule(array, name, rules.product.window, where)


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
    """Hours of each value's interval: between its bounds, else from time to time where these are whole days apart.

    Values that lie closer may be some of many, such as every sixth of hourly sums: None, as for uneven or single times.
    """
    if BOUND_START in array.coords:
        span = array[BOUND_END].values - array[BOUND_START].values
        return np.asarray(span.astype("timedelta64[s]").astype(np.int64) / _SECONDS)
    times = array["time"].values.astype("datetime64[s]").astype(np.int64)
    if len(times) < 2:
        return None
    steps = np.diff(times)
    if steps.min() < _DAY or steps.max() != steps.min() or steps[0] % _DAY:
        return None
    return np.full(len(times), steps[0] / _SECONDS)


def _at_ends(array: xr.DataArray) -> xr.DataArray:
    """Move times to the ends of their bounds, where a statistic's value is valid."""
    if BOUND_END not in array.coords:
        return array
    return array.assign_coords(time=("time", array[BOUND_END].values.astype("datetime64[s]")))
