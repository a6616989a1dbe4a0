"""Valid times and leads of files, by what they state: one valid time for each state, and its lead where it is known.

Forecasts come in three layouts: reference times by leads, a single forecast along its leads, and valid times along
one dimension. All end as states along ``time``, the valid time, with ``state_lead`` beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.dates import UNIT_SECONDS
from kit.io.errors import StoreError

LEAD, VERSION, WINDOW = "state_lead", "state_version", "state_window"
"""Coordinates along ``time``: hours from the start of the forecast, ERA5's ``expver``, hours that a value adds up over.

All are float64; what is unknown is NaN."""
VERSIONS = "expver"
"""ECMWF's version of an experiment, as the Climate Data Store's files call it."""
STATE_COORDINATES = (LEAD, VERSION, WINDOW)
BOUND_START = "state_bound_start"
"""Coordinate along ``time``: where the interval of a statistic begins, from the bounds of the times."""
BOUND_END = "state_bound_end"
MOVED = "moved_to_end"
"""Attribute of fields that files stamp at the beginning of their hours: hours by which times were moved to the end."""

_LEADS = ("step", "prediction_timedelta", "lead_time", "leadtime", "leadtime_hour", "forecast_period", "forecast_hour")
REFERENCES = (
    "forecast_reference_time", "reference_time", "init_time", "initial_time", "initialization_time", "analysis_time",
    "base_time", "forecast_time0", "run_time",
)  # fmt: skip
_VALIDS = ("valid_time", "validity_time", "verification_time")
_TIMES = ("time", "t_time", "datetime")
MEMBERS = ("number", "realization", "ensemble", "ensemble_member", "member")
"""Names, in lower case, of dimensions of an ensemble."""
TIME_DIMENSION = "time_dimension"
"""Key of the encoding under which the file's name of the dimension of the states is kept."""
TIME_DIMENSIONS = (*_TIMES, *_VALIDS, *REFERENCES)
"""Names, in lower case, of dimensions along which states follow each other."""
LEAD_DIMENSIONS = _LEADS
_HOUR = np.timedelta64(3600, "s")


def split_by_lead(dataset: xr.Dataset, where: str) -> Iterator[xr.Dataset]:
    """Give states their valid times, and their leads where the file states them.

    CF conventions 1.11, section 4.4 and the standard names ``time`` (the valid time), ``forecast_reference_time`` and
    ``forecast_period``; a ``time`` beside a lead of another name is the start of the forecast (cfgrib, WeatherBench 2).

    Args:
        dataset: One file, or one part of it, with coordinates decoded but leads.
        where: Name of the data, for messages.

    Yields:
        The dataset with the dimension ``time``; one for each lead, where reference times and leads are dimensions.

    Raises:
        StoreError: There are several members, leads without units, or times that contradict each other.
    """
    dataset = _one_member(dataset, where)
    roles = _roles(dataset, where)
    if roles is None:
        yield dataset
        return
    lead, reference, valid = roles.lead, roles.reference, roles.valid
    hours = None if lead is None else _hours(dataset[lead], where)
    times = _valid_times(dataset, hours, reference, valid, where)
    if hours is None and reference is not None and np.issubdtype(dataset[reference].dtype, np.datetime64):
        hours = (times - dataset[reference]) / _HOUR
    bounds = _bounds(dataset, valid)
    bare = dataset.drop_vars(roles.names & {*map(str, dataset.variables)})
    if times.ndim == 0:
        # One time often comes as a number without a dimension; fields gain it with the coordinate.
        states = bare.expand_dims("time").assign_coords(time=("time", times.values[None]))
        yield _with_states(states, hours, bounds)
        return
    if times.ndim == 1:
        (along,) = times.dims
        states = _along(bare, along).assign_coords(time=("time", times.values))
        yield _with_states(states, hours, bounds)
        return
    across = _lead_dimension(times, hours)
    (along,) = (dimension for dimension in times.dims if dimension != across)
    for index in range(times.sizes[across]):
        states = _along(bare.isel({across: index}, drop=True), along)
        states = states.assign_coords(time=("time", times.isel({across: index}).values))
        alone = hours
        if hours is not None and across in hours.dims:
            alone = hours.isel({across: index})
        yield _with_states(states, alone, None)


@dataclass(frozen=True)
class _Roles:
    """Coordinates by what they say of a state; None where no coordinate says it."""

    lead: str | None
    reference: str | None
    valid: str | None
    names: frozenset[str]
    """All coordinates of times and leads that the file has."""


def _roles(dataset: xr.Dataset, where: str) -> _Roles | None:
    """Find the coordinates that state leads, reference times and valid times; None for a dataset without times."""
    names = {str(name).lower(): str(name) for name in (*dataset.dims, *dataset.variables)}
    lead = _find(dataset, names, _LEADS, "forecast_period")
    reference = _find(dataset, names, REFERENCES, "forecast_reference_time")
    valid = _find(dataset, names, _VALIDS, "")
    time = _find(dataset, names, _TIMES, "time")
    found = frozenset(name for name in (lead, reference, valid, time) if name is not None)
    if valid is None and time != reference:
        # Beside a reference time, time is the valid one; CF calls nothing else by that name.
        is_valid = lead is None or reference is not None or _is_cf_period(dataset, lead)
        valid = time if is_valid else None
    if reference is None and time != valid:
        reference = time
    # Without a time there are no states; a dimension without values is refused with the others.
    if (valid or reference or "") not in dataset.variables and lead is None:
        return None
    if valid is None and reference is None:
        msg = (
            f"{where}: holds {dataset.sizes.get(str(lead), 1)} leads ({lead}) without reference or valid times; add a "
            "coordinate of times"
        )
        raise StoreError(msg)
    if valid in dataset.variables and lead not in dataset.variables:
        # Valid times tell the leads, which a dimension may leave out.
        lead = None
    for name in (lead, reference, valid):
        if name is not None and name not in dataset.variables:
            msg = f"{where}: the dimension {name} has no values, so that valid times are unknown; add that coordinate"
            raise StoreError(msg)
    return _Roles(lead, reference, valid, found)


def _one_member(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Drop dimensions of ensemble members; several members are refused."""
    for name in MEMBERS:
        if dataset.sizes.get(name, 1) > 1:
            msg = f"{where}: holds {dataset.sizes[name]} ensemble members along {name!r}; select one of them first"
            raise StoreError(msg)
        if name in dataset.dims:
            dataset = dataset.squeeze(name, drop=True)
    return dataset.drop_vars([name for name in (*MEMBERS, "surface") if name in dataset.coords])


def _find(dataset: xr.Dataset, names: dict[str, str], known: tuple[str, ...], standard_name: str) -> str | None:
    """Find a coordinate by its standard name, else by its own."""
    for name in dataset.coords:
        if standard_name and dataset[name].attrs.get("standard_name") == standard_name and dataset[name].ndim < 3:
            return str(name)
    for spelling in known:
        if spelling in names:
            found = names[spelling]
            stated = dataset[found].attrs.get("standard_name") if found in dataset.variables else None
            # A time may say of itself that it is a reference time; another role is then not its.
            if stated not in ("forecast_reference_time", "forecast_period") or not standard_name:
                return found
            if stated == standard_name:
                return found
    return None


def _is_cf_period(dataset: xr.Dataset, lead: str) -> bool:
    """Whether a lead is CF's ``forecast_period`` of times that are valid times, and no dimension of its own."""
    coordinate = dataset[lead]
    is_period = lead == "forecast_period" or coordinate.attrs.get("standard_name") == "forecast_period"
    return is_period and lead not in dataset.dims


def _hours(coordinate: xr.DataArray, where: str) -> xr.DataArray:
    """Read leads as hours, of whole seconds as times are."""
    values = coordinate.values
    units = str(coordinate.attrs.get("units", coordinate.encoding.get("units", ""))).strip().lower()
    if values.dtype.kind == "m":
        values, units = values / np.timedelta64(1, "ms"), "ms"
    # Beside leads in h and d, m is a minute.
    seconds = 60.0 if units == "m" else UNIT_SECONDS.get(units)
    if values.dtype.kind not in "iuf" or seconds is None:
        msg = (
            f"{where}: the leads {coordinate.name} come in {units or 'no unit'!r} (type {values.dtype}); expected "
            "hours, days, minutes or seconds: mend the attribute units"
        )
        raise StoreError(msg)
    if not np.isfinite(values).all():
        msg = f"{where}: the leads {coordinate.name} hold {values[~np.isfinite(values)][0]}; leave these states out"
        raise StoreError(msg)
    return coordinate.copy(data=np.round(values.astype(np.float64) * seconds) / 3600)


def _valid_times(
    dataset: xr.Dataset, hours: xr.DataArray | None, reference: str | None, valid: str | None, where: str
) -> xr.DataArray:
    """Compute or read valid times; those that are stated twice must agree."""
    stated = None if valid is None else dataset[valid].reset_coords(drop=True)
    computed = None
    if hours is not None and reference is not None:
        start = dataset[reference].reset_coords(drop=True)
        if np.issubdtype(start.dtype, np.datetime64):
            ahead = hours.reset_coords(drop=True)
            # In seconds: nanoseconds hold no more than 292 years from 1970.
            seconds = (ahead * 3600).round().astype("timedelta64[s]")
            computed = start.astype("datetime64[s]") + seconds
            order = (*start.dims, *(name for name in ahead.dims if name not in start.dims))
            computed = computed.transpose(*order)
        elif stated is None:
            stated = start
    if stated is None:
        stated = dataset[reference].reset_coords(drop=True) if computed is None else computed
    elif computed is not None and set(stated.dims) == set(computed.dims) and stated.dtype.kind == "M":
        apart = np.abs(stated.values.astype("datetime64[s]") - computed.transpose(*stated.dims).values)
        if apart.size and apart.max() > np.timedelta64(60, "s"):
            msg = (
                f"{where}: {valid} is up to {apart.max() / _HOUR:g} h away from {reference} and its leads; they must "
                "agree: mend the file"
            )
            raise StoreError(msg)
    if stated.ndim > 2:
        msg = f"{where}: times have the dimensions {stated.dims}; expected reference times by leads: mend the file"
        raise StoreError(msg)
    return stated


def _lead_dimension(times: xr.DataArray, hours: xr.DataArray | None) -> Any:
    """Choose the dimension of two along which a forecast goes ahead."""
    if hours is not None and hours.ndim == 1:
        return hours.dims[0]
    known = [dimension for dimension in times.dims if str(dimension).lower() in _LEADS]
    return known[0] if known else times.dims[1]


def _bounds(dataset: xr.Dataset, valid: str | None) -> npt.NDArray[Any] | None:
    """Read the bounds of the times, [T, 2]; None where there are none."""
    if valid is None:
        return None
    attributes = dataset[valid].attrs | dataset[valid].encoding
    name = str(attributes.get("bounds", attributes.get("climatology", "")))
    if name not in dataset.variables:
        return None
    bounds = dataset[name]
    if VERSIONS in bounds.dims:
        # Final and preliminary states may each have bounds, which are the same ones.
        first = bounds.isel({VERSIONS: 0}, drop=True)
        if not (bounds == first).all():
            return None
        bounds = first
    if bounds.ndim != 2 or bounds.dtype.kind != "M":
        return None
    return bounds.values.astype("datetime64[s]")


def _along(dataset: xr.Dataset, dimension: Any) -> xr.Dataset:
    """Call a dimension time, and keep its own name in the encoding, which sources of chunks need."""
    result = dataset.copy() if dimension == "time" else dataset.rename({dimension: "time"})
    result.encoding = {TIME_DIMENSION: str(dimension)}
    return result


def _with_states(states: xr.Dataset, hours: xr.DataArray | None, bounds: npt.NDArray[Any] | None) -> xr.Dataset:
    """Attach leads and bounds along the times."""
    count = states.sizes["time"]
    if VERSION in states.coords and states[VERSION].ndim == 0:
        states = states.assign_coords({VERSION: ("time", np.full(count, states[VERSION].item()))})
    if hours is not None:
        states = states.assign_coords({LEAD: ("time", np.broadcast_to(hours.values.ravel(), count).copy())})
    if bounds is not None and bounds.shape == (count, 2):
        states = states.assign_coords({BOUND_START: ("time", bounds[:, 0]), BOUND_END: ("time", bounds[:, 1])})
    return states
