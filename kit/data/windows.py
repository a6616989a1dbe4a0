"""Accumulation windows: rain of a step is the rain that fell in that step, no more and no less."""

import functools
import operator
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.sources.leads import MOVED
from kit.data.store.reader import Store
from kit.data.variables import lookup
from kit.io.errors import StoreError


def check_windows(store: Store, names: Iterable[str], hours: float, *, hourly: bool = False) -> None:
    """Check that accumulated variables have the window of a prediction.

    Args:
        store: Store that states its windows, as ``kit data build`` does.
        names: Surface variables that are read or predicted.
        hours: Hours from one state of the model to the next.
        hourly: Whether the model's own accumulated variables are of the last hour, whatever its step.

    Raises:
        StoreError: a window is another, or not stated; says how to build the store.
    """
    what, built, wanted = f"steps {hours:g} h", f"hourly data with --step {hours:g}h", hours
    if hourly:
        what, built, wanted = "predicts that of the last hour", "hourly data, without --step", 1.0
    for name in names:
        known = lookup(name, "surface")
        if known is None or not known.accumulated:
            continue
        window = store.variable_attributes(name).get("accumulation_hours")
        found, remedy = "does not say over how many hours it is accumulated (attribute accumulation_hours)", ""
        if window is not None:
            if float(window) == wanted:
                continue
            found = f"is accumulated over {float(window):g} h"
            if not hourly:
                remedy = f"; or set model.timestep {float(window):g}h"
        msg = f"{store.path}: {name} {found}, but the model {what}: build the store from {built}{remedy}"
        raise StoreError(msg)


# Steps between states: instantaneous fields are sampled, accumulated ones are summed over the step.
#
# ERA5's hourly accumulations belong to the hour that ends at their time stamp. A store says so twice: as CF
# ``cell_methods`` and as the attribute ``accumulation_hours``.

Times = npt.NDArray[np.datetime64]
HOUR = np.timedelta64(3600, "s")
_ZERO = np.timedelta64(0, "s")


def at_step(field: xr.DataArray, *, accumulated: bool, hours: int | None, note: Note) -> xr.DataArray:
    """Sample or sum a field to the store's times, and state its window.

    Times of the store are those that are whole steps from midnight UTC; where the source has none of them,
    those that are whole steps from its first time.

    Args:
        field: Field in the store's form, with times.
        accumulated: Whether its values belong to the hours before their time stamps: ``accumulation_hours`` of
            the source, which states it.
        hours: Step of the store; None keeps the source's times.
        note: Function that takes in what was done.

    Raises:
        StoreError: the step is shorter than the source's or no multiple of it, or hours of a window are
            missing.
    """
    window = int(field.attrs.get("accumulation_hours", 1))
    times = field["time"].values.astype("datetime64[s]")
    step = np.diff(times).min() if len(times) > 1 else None
    if hours is None or step is None or step == hours * HOUR:
        if accumulated and hours is not None and hours > window:
            note(f"{field.name} stays accumulated over {window} h: the data do not hold the hours between the states")
        return _stated(field, accumulated, window, window)
    wanted = hours * HOUR
    if wanted < step or wanted % step != _ZERO:
        msg = f"{field.name} comes every {step / HOUR:g} h, which makes no step of {hours} h; choose a multiple of it"
        raise StoreError(msg)
    whole = (times - np.datetime64(0, "s")) % wanted == _ZERO
    if not whole.any():
        whole = (times - times[0]) % wanted == _ZERO
    targets = np.asarray(times[whole])
    note(f"states every {hours} h taken of those every {step / HOUR:g} h")
    if not accumulated:
        return _stated(_select(field, times, targets), accumulated, window, window)
    if step != window * HOUR:
        msg = (
            f"{field.name} is accumulated over {window} h but comes every {step / HOUR:g} h: it cannot be summed to "
            f"{hours} h; leave it out, or give data at every {window} h"
        )
        raise StoreError(msg)
    note(f"{field.name} summed over the {hours} h that end at each time stamp")
    return _stated(_summed(field, times, targets, hours // window, step), accumulated, hours, window)


def _select(field: xr.DataArray, times: Times, targets: Times) -> xr.DataArray:
    return field.isel(time=np.searchsorted(times, targets))


def _summed(field: xr.DataArray, times: Times, targets: Times, count: int, step: np.timedelta64) -> xr.DataArray:
    """Sum the values of the windows that end at the targets, from the first window that is complete."""
    needed = targets[:, None] - np.arange(count) * step
    there = np.isin(needed, times)
    complete = there.all(axis=1)
    if not complete.any():
        msg = f"{field.name}: no window of {count} values is complete between {times[0]} and {times[-1]}"
        raise StoreError(msg)
    first = int(complete.argmax())
    targets, needed, there = targets[first:], needed[first:], there[first:]
    for target, moments, held in zip(targets, needed, there, strict=True):
        if not held.all():
            gone = moments[~held][-1]
            msg = f"{field.name} at {gone} is missing, and the sum that ends at {target} needs it; fill the gap"
            raise StoreError(msg)
    # Added from the last hour of the window to the first, in double precision.
    parts = [_select(field, times, targets - index * step).astype(np.float64).data for index in range(count)]
    # A missing value makes the sum missing.
    total = functools.reduce(operator.add, parts).astype(np.float32)
    return _select(field, times, targets).copy(data=total)


def _stated(field: xr.DataArray, accumulated: bool, window: int, interval: int) -> xr.DataArray:
    field = field.copy(deep=False)
    comment = field.attrs.get("accumulation_comment", "")
    dropped = ("accumulation_hours", "accumulation_comment")
    field.attrs = {key: value for key, value in field.attrs.items() if key not in dropped}
    if not accumulated:
        averaged = field.attrs.get("averaging_hours")
        if averaged is None:
            return field.assign_attrs(cell_methods="time: point")
        return field.assign_attrs(cell_methods=f"time: mean (interval: {averaged:g} hours)")
    method = "interval: 1 hour" if interval == 1 else f"interval: {interval} hours"
    if window != interval:
        comment = f"over {window} hours"
    if comment:
        method += f" comment: {comment}"
    return field.assign_attrs(cell_methods=f"time: sum ({method})", accumulation_hours=window)


def trim(fields: Mapping[str, xr.DataArray], note: Note) -> dict[str, xr.DataArray]:
    """Leave out states for which not all fields have values: sums at the beginning, statistics that were moved."""
    fields = _where_moved(fields, note)
    # Fields that were summed say in a comment over how many hours.
    starts = [field["time"].values[0] for field in fields.values() if "comment" in field.attrs["cell_methods"]]
    if not starts:
        return dict(fields)
    start = max(starts)
    early: set[str] = set()
    for name, field in fields.items():
        times = field["time"].values
        if times[-1] < start:
            sums = [key for key, other in fields.items() if other["time"].values[0] == start]
            msg = (
                f"{name} ends at {times[-1].astype('datetime64[m]')}, before the first sum of {', '.join(sums)} is "
                f"complete at {start.astype('datetime64[m]')}: of one forecast take leads that all have, such as "
                f"--lead 0h/12h, or leave it out with --leave_out {','.join(sums)}"
            )
            raise StoreError(msg)
        early.update(times[times < start].astype("datetime64[m]").astype(str).tolist())
    if early:
        note(f"{', '.join(sorted(early))} left out: hours that the sums need lie before the data")
    trimmed = {name: field.sel(time=slice(start, None)) for name, field in fields.items()}
    return _at_states(trimmed, note)


def _where_moved(fields: Mapping[str, xr.DataArray], note: Note) -> Mapping[str, xr.DataArray]:
    """Take the times that all fields share, where statistics were moved to the end of their hours.

    A day's sum that a file stamps at 00 UTC is valid 24 h later, beside the state of that moment.
    """
    is_moved = {name: MOVED in field.attrs for name, field in fields.items()}
    for field in fields.values():
        hours = field.attrs.pop(MOVED, None)
        if hours is not None:
            note(f"{field.name}: time stamps moved by {hours:g} h, from the beginning of its hours to their end")
    if not any(is_moved.values()) or all(is_moved.values()):
        return fields
    shared = functools.reduce(np.intersect1d, [field["time"].values for field in fields.values()])
    if not shared.size:
        moved = ", ".join(name for name in fields if is_moved[name])
        others = ", ".join(name for name in fields if not is_moved[name])
        msg = (
            f"{moved}, which are valid at the end of their hours, and {others} share no time; give more states, or "
            "leave one kind out with --leave_out"
        )
        raise StoreError(msg)
    lost = np.setdiff1d(np.concatenate([field["time"].values for field in fields.values()]), shared)
    first = lost[0].astype("datetime64[m]")
    note(f"{len(lost)} times left out, the first {first}: not all variables have a state or end their hours there")
    return {name: field.sel(time=shared) for name, field in fields.items()}


def _at_states(fields: dict[str, xr.DataArray], note: Note) -> dict[str, xr.DataArray]:
    """Leave out sums of forecasts at times between the states of all other fields."""
    others = [field["time"].values for field in fields.values() if "comment" not in field.attrs["cell_methods"]]
    if not others:
        return fields
    result = {}
    for name, field in fields.items():
        times = field["time"].values
        if "comment" in field.attrs["cell_methods"] and len(others[0]) < len(times) and np.isin(others[0], times).all():
            note(f"{name} taken at the times of the states, over {field.attrs['accumulation_hours']} h each")
            result[name] = field.sel(time=others[0])
        else:
            result[name] = field
    return result
