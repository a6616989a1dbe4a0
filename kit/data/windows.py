"""Accumulation windows: rain of a step must be the rain that fell in that step, no more and no less."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.fields import Note
from kit.data.store.reader import Store
from kit.data.variables import lookup
from kit.io.errors import StoreError

__all__ = ["at_step", "check_windows", "source_step", "trimmed"]


def check_windows(store: Store, names: Iterable[str], hours: float, *, hourly: bool = False) -> None:
    """Refuse accumulated variables whose window is not that of a prediction.

    Args:
        store: states its windows, as ``kit data build`` does.
        names: surface variables that are read or predicted.
        hours: from one state of the model to the next.
        hourly: the model's own accumulated variables are of the last hour, whatever its step.

    Raises:
        StoreError: a window is another, or not stated; says how to build the store.
    """
    wanted = 1.0 if hourly else hours
    for name in names:
        known = lookup(name, "surface")
        if known is None or not known.accumulated:
            continue
        window = store.variable_attributes(name).get("accumulation_hours")
        if window is None:
            found = "does not say over how many hours it is accumulated (attribute accumulation_hours)"
        elif float(window) != wanted:
            found = f"is accumulated over {float(window):g} h"
        else:
            continue
        what = "predicts that of the last hour" if hourly else f"steps {hours:g} h"
        built = "hourly data, without --step" if hourly else f"hourly data with --step {hours:g}h"
        step = "" if hourly or window is None else f"; or set model.timestep {float(window):g}h"
        msg = f"{store.path}: {name} {found}, but the model {what}: build the store from {built}{step}"
        raise StoreError(msg)


# Steps between states: instantaneous fields are sampled, accumulated ones are summed over the step.
#
# ERA5's hourly accumulations belong to the hour that ends at their time stamp. A store says so twice: as CF
# ``cell_methods`` and as the attribute ``accumulation_hours``.

Times = npt.NDArray[np.datetime64]
HOUR = np.timedelta64(3600, "s")


def source_step(times: Times) -> np.timedelta64 | None:
    """Smallest distance between states; None where there is only one."""
    return None if len(times) < 2 else np.diff(times.astype("datetime64[s]")).min()


def at_step(field: xr.DataArray, *, accumulated: bool, hours: int | None, note: Note) -> xr.DataArray:
    """A field at the store's times, with its window stated.

    Times of the store are those that are whole steps from midnight UTC; where the source has none of them,
    those that are whole steps from its first time.

    Args:
        field: the store's form, with times.
        accumulated: its values belong to the hours before their time stamps: ``accumulation_hours`` of
            the source, one by default.
        hours: step of the store; None keeps the source's times.
        note: is told what was done.

    Raises:
        StoreError: the step is shorter than the source's or no multiple of it, or hours of a window are
            missing.
    """
    window = int(field.attrs.get("accumulation_hours", 1))
    times = field["time"].values.astype("datetime64[s]")
    step, wanted = source_step(times), None if hours is None else hours * HOUR
    if wanted is None or step is None or step == wanted:
        if accumulated and hours is not None and hours > window:
            note(f"{field.name} stays accumulated over {window} h: the data do not hold the hours between the states")
        return _stated(field, accumulated, window, window)
    if wanted < step or wanted % step != np.timedelta64(0, "s"):
        msg = f"{field.name} comes every {step / HOUR:g} h, which makes no step of {hours} h; choose a multiple of it"
        raise StoreError(msg)
    assert hours is not None
    targets = _targets(times, wanted)
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


def _targets(times: Times, step: np.timedelta64) -> Times:
    since = times - np.datetime64(0, "s")
    whole = since % step == np.timedelta64(0, "s")
    if not whole.any():
        whole = (times - times[0]) % step == np.timedelta64(0, "s")
    return np.asarray(times[whole])


def _select(field: xr.DataArray, times: Times, targets: Times) -> xr.DataArray:
    return field.isel(time=np.searchsorted(times, targets))


def _summed(field: xr.DataArray, times: Times, targets: Times, count: int, step: np.timedelta64) -> xr.DataArray:
    complete = [bool(np.isin(target - np.arange(count) * step, times).all()) for target in targets]
    if not any(complete):
        msg = f"{field.name}: no window of {count} values is complete between {times[0]} and {times[-1]}"
        raise StoreError(msg)
    targets = targets[complete.index(True) :]
    for target in targets:
        needed = target - np.arange(count) * step
        if not np.isin(needed, times).all():
            gone = needed[~np.isin(needed, times)][-1]
            msg = f"{field.name} at {gone} is missing, and the sum that ends at {target} needs it; fill the gap"
            raise StoreError(msg)
    parts = [_select(field, times, targets - index * step).astype(np.float64).data for index in range(count)]
    # A missing value makes the sum missing.
    total = functools.reduce(operator.add, parts).astype(np.float32)
    return _select(field, times, targets).copy(data=total)


def _stated(field: xr.DataArray, accumulated: bool, window: int, interval: int) -> xr.DataArray:
    field = field.copy(deep=False)
    field.attrs = {key: value for key, value in field.attrs.items() if key != "accumulation_hours"}
    if not accumulated:
        return field.assign_attrs(cell_methods="time: point")
    unit = "hour" if interval == 1 else "hours"
    comment = "" if window == interval else f" comment: over {window} hours"
    return field.assign_attrs(
        cell_methods=f"time: sum (interval: {interval} {unit}{comment})", accumulation_hours=window
    )


def trimmed(fields: Mapping[str, xr.DataArray], note: Note) -> dict[str, xr.DataArray]:
    """Leave out the first states where a sum would need hours from before the data."""
    starts = [field["time"].values[0] for field in fields.values() if "comment" in field.attrs["cell_methods"]]
    if not starts:
        return dict(fields)
    early = sorted(
        {str(t.astype("datetime64[m]")) for f in fields.values() for t in f["time"].values if t < max(starts)}
    )
    if early:
        note(f"{', '.join(early)} left out: hours that the sums need lie before the data")
    return {name: field.sel(time=slice(max(starts), None)) for name, field in fields.items()}
