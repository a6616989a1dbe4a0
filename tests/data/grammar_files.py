"""Files of the grammar's forms, as NetCDF and as Zarr; times and leads are written as numbers, by their attributes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tests.data.grammar import (
    EPOCHS,
    GRIDS,
    LEAD_UNITS,
    LEVEL_FORMS,
    LEVELS,
    NAMES,
    STANDARD_NAMES,
    START,
    UPPER,
    Array,
    Form,
    packing,
    unit_of,
    value,
    window_of,
)  # fmt: skip

__all__ = ["write"]


@dataclass(frozen=True)
class States:
    """The states of a file: their dimensions, coordinates, and the valid hour and lead of each.

    Attributes:
        dims: Dimensions along which states lie.
        points: Valid hour and lead of each state, an array of pairs, of the shape of the dimensions.
        coords: Coordinates as xarray takes them.
    """

    dims: tuple[str, ...]
    points: Any
    coords: dict[str, Any]


def write(form: Form, folder: Path) -> Path:
    """Write a form; return what the kit is given: a file, a folder or a store."""
    datasets = [_dataset(form, states) for states in _states(form)]
    if form.expver == "files":
        datasets = _two_versions(form)
    if form.is_zarr:
        (dataset,) = datasets
        if form.expver == "dimension" and form.order % 2:
            # Chunks without a final value are not written.
            dataset = dataset.chunk(dict.fromkeys(dataset.dims, -1) | {"expver": 1, _states(form)[0].dims[0]: 4})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version: Any = int(form.container[-1])
            dataset.to_zarr(folder / "a.zarr", zarr_format=version, encoding=_encoding(form, dataset))
        return folder / "a.zarr"
    if form.parts:
        shared = ["time_bnds"] if form.sums == "bounds" else []
        datasets = [dataset[[name, *shared]] for dataset in datasets for name in _names(form).values()]
    kind: Any = {"netcdf4": "NETCDF4", "netcdf3": "NETCDF3_64BIT"}[form.container]
    for number, dataset in enumerate(datasets):
        dataset.to_netcdf(folder / f"file{number}.nc", format=kind, engine="netcdf4", encoding=_encoding(form, dataset))
    return folder


def _encoding(form: Form, dataset: xr.Dataset) -> dict[Any, Any]:
    encoding: dict[Any, Any] = {}
    names = {own: name for name, own in _names(form).items()}
    for key in dataset.data_vars:
        if form.packing == "int16" and str(key) in names:
            scale, offset = packing(form, names[str(key)])
            encoding[key] = {"dtype": "int16", "scale_factor": scale, "add_offset": offset, "_FillValue": -32767}
    return encoding


# Times and leads.


def _times(form: Form, hours: int | Sequence[int] | Array, dims: tuple[str, ...], **attributes: str) -> Any:
    """Times as numbers since an epoch."""
    epoch, seconds = EPOCHS[form.epoch]
    begin = np.datetime64(epoch, "h")
    if form.twist == "long ago":
        return dims, np.asarray(hours) * 1.0, {"units": "hours since 1066-01-01", "calendar": "proleptic_gregorian"}
    since = (np.asarray(hours) + (START - begin) // np.timedelta64(1, "h")) * 3600 / seconds
    if form.rounded:
        since = np.round(since, 6)
    calendar = form.twist if form.twist in ("noleap", "360_day") else form.calendar
    if form.twist in ("noleap", "360_day"):
        return dims, np.asarray(hours) * 1.0, {"units": "hours since 2020-01-01", "calendar": calendar} | attributes
    return dims, since, {"units": form.epoch, "calendar": calendar} | attributes


def _ahead(form: Form, leads: Any, dims: tuple[str, ...], **attributes: str) -> Any:
    values = np.asarray(leads) * LEAD_UNITS[form.lead_units]
    return dims, values, {"units": form.lead_units} | attributes


def _states(form: Form) -> list[States]:
    """States of each file."""
    if form.layout == "none":
        name = ("time", "valid_time")[form.order % 2]
        hours = form.hours
        if form.twist == "twice":
            hours = [*hours, hours[-1]]
        points = np.array([(hour, 0) for hour in hours])
        coords = {name: _times(form, hours, (name,), standard_name="time")}
        if form.expver == "times":
            coords["expver"] = ((name,), _versions(form, len(hours)))
        if form.sums == "bounds":
            ends = np.array(hours)
            bounds = np.stack([ends - window_of(form, 24, 0), ends], axis=1)
            coords["time_bnds"] = (name, "bnds"), _times(form, bounds, ())[1]
            coords[name][2]["bounds"] = "time_bnds"
        return [States((name,), points, coords)]
    if form.layout == "beside":
        pairs = np.array([(start + lead, lead) for start in form.starts for lead in form.leads])
        reference = pairs[:, 0] - pairs[:, 1]
        along = ("time",)
        return [
            States(along, pairs, {
                "time": _times(form, pairs[:, 0], along, standard_name="time"),
                "forecast_period": _ahead(form, pairs[:, 1], along, standard_name="forecast_period"),
                "forecast_reference_time": _times(form, reference, along, standard_name="forecast_reference_time"),
            })
        ]  # fmt: skip
    if form.layout == "files":
        return [_one_lead(form, lead) for lead in form.leads]
    names = {
        "step": ("time", "step"), "single": ("time", "step"), "wb2": ("time", "prediction_timedelta"),
        "cams": ("forecast_reference_time", "forecast_period"), "init": ("init_time", "lead_time"),
    }  # fmt: skip
    start, lead = names[form.layout]
    valid = np.add.outer(form.starts, form.leads)
    points = np.stack([valid, np.broadcast_to(form.leads, valid.shape)], axis=-1)
    says = {"standard_name": "forecast_reference_time"} if form.layout in ("step", "single", "cams") else {}
    ahead = {"standard_name": "forecast_period"} if says else {}
    coords = {start: _times(form, form.starts, (start,), **says), lead: _ahead(form, form.leads, (lead,), **ahead)}
    if says:
        coords["valid_time"] = _times(form, valid, (start, lead), standard_name="time")
    if form.layout == "single":
        coords[start] = _times(form, form.starts[0], (), **says)
        coords["valid_time"] = _times(form, valid[0], (lead,), standard_name="time")
        return [States((lead,), points[0], coords)]
    return [States((start, lead), points, coords)]


def _one_lead(form: Form, lead: int) -> States:
    """The states of one lead, as cfgrib lays out files of one step."""
    points = np.array([(start + lead, lead) for start in form.starts])
    return States(("time",), points, {
        "time": _times(form, form.starts, ("time",), standard_name="forecast_reference_time"),
        "step": _ahead(form, lead, (), standard_name="forecast_period"),
        "valid_time": _times(form, points[:, 0], ("time",), standard_name="time"),
    })  # fmt: skip


# Fields.


def _names(form: Form) -> dict[str, str]:
    names = dict(NAMES[form.names])
    if form.sums == "suffix":
        names["tp"] = f"total_precipitation_{form.step}hr"
    return {name: names[name] for name in form.variables}


def _dataset(form: Form, states: States) -> xr.Dataset:
    rows, columns = GRIDS[form.grid]
    latitude = form.latitude
    longitude = {"latitude": "longitude", "lat": "lon", "Latitude": "Longitude"}[form.latitude]
    latitudes = rows[::-1] if form.northwards else rows
    longitudes = np.where(columns >= 180, columns - 360, columns) if form.west else columns
    if form.west:
        longitudes = np.sort(longitudes)
    coords = dict(states.coords)
    coords[latitude] = (latitude, latitudes, {"units": "degrees_north"})
    coords[longitude] = (longitude, longitudes, {"units": "degrees_east"})
    level_dim, levels, in_file, attributes = _levels(form)
    if form.scalar:
        coords[level_dim] = ((), in_file[0], attributes)
    elif level_dim:
        coords[level_dim] = ((level_dim,), in_file, attributes)
    data: dict[str, Any] = {}
    for name, own in _names(form).items():
        on_levels: tuple[Any, ...] = (None,)
        if name in UPPER:
            on_levels = levels
        is_deep = name in UPPER and not form.scalar and level_dim != ""
        values = np.array([
            [value(form, name, level, int(hour), int(lead), latitudes, longitudes % 360) for level in on_levels]
            for hour, lead in states.points.reshape(-1, 2)
        ])  # fmt: skip
        if not is_deep:
            values = values[:, 0]
        values = values.reshape(*states.points.shape[:-1], *values.shape[1:])
        dims = (*states.dims, *((level_dim,) if is_deep else ()), latitude, longitude)
        data[own] = _variable(form, name, dims, values)
    if form.twist == "rate":
        data["mtpr"] = (dims, np.full(values.shape, 3e-5), {"units": "kg m**-2 s**-1", "long_name": "Mean rate"})
    bounds = coords.pop("time_bnds", None)
    if bounds is not None:
        data["time_bnds"] = bounds
    dataset = xr.Dataset(data, coords)
    if form.sums == "era5":
        dataset.attrs["title"] = "ERA5 hourly data on single levels"
    if form.twist == "members":
        dataset = xr.concat([dataset, dataset + 1], "number").assign_coords(number=[0, 1])
        for key, array in dataset.data_vars.items():
            array.attrs = dict(data[str(key)][2])
    if form.expver == "dimension":
        dataset = _with_versions(dataset, states.dims[0])
    return dataset


def _levels(form: Form) -> tuple[str, tuple[float, ...], Array, dict[str, str]]:
    """Name of the dimension of levels, their pressures, their numbers in the file, and their attributes."""
    name, attributes, factor = LEVEL_FORMS[form.levels]
    levels = tuple(reversed(LEVELS)) if form.descending else LEVELS
    if form.scalar:
        levels = levels[:1]
    if form.twist == "no levels":
        return "", (500.0,), np.array([500.0]), {}
    in_file = np.array(levels) / factor
    if form.twist in ("bare levels", "plain numbers", "model level", "hybrid"):
        name, attributes = "level", {}
        in_file = np.array(levels)
        if form.twist != "bare levels":
            in_file = np.array([60, 96, 137])
        if form.twist == "model level":
            name = "model_level"
        if form.twist == "hybrid":
            attributes = {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate", "units": "1"}
    return name, levels, in_file, attributes


def _variable(form: Form, name: str, dims: tuple[str, ...], values: Array) -> Any:
    unit, scale, offset = unit_of(form, name)
    attributes: dict[str, Any] = {"units": unit}
    if form.names == "standard" and name in STANDARD_NAMES:
        attributes["standard_name"] = STANDARD_NAMES[name]
    if name == "tp" and form.sums == "bounds":
        attributes["cell_methods"] = "time: sum"
    if name == "tp" and form.sums == "accumulation":
        attributes["accumulation_hours"] = form.step
    if form.twist == "monthly":
        attributes["GRIB_stepType"] = "avgad"
    if form.twist == "maximum" and name == "2t":
        attributes["cell_methods"] = "time: maximum"
    if form.twist == "twice" and name == "2t":
        along = [slice(None)] * values.ndim
        along[0] = slice(-1, None)
        values = values.copy()
        values[tuple(along)] += 1
    kind = "float32" if form.packing == "float32" else "float64"
    in_file = ((values - offset) / scale).astype(kind)
    order = np.random.default_rng(form.order).permutation(len(dims))
    return tuple(dims[axis] for axis in order), in_file.transpose(order), attributes


# ERA5 and ERA5T.


def _versions(form: Form, count: int) -> Any:
    numbers = np.where(np.arange(count) < count // 2, 1, 5)
    return (
        numbers.astype(np.int32) if form.container != "netcdf4" else np.array([f"{number:04d}" for number in numbers])
    )


def _with_versions(dataset: xr.Dataset, along: str) -> xr.Dataset:
    """The old form of the CDS: final values where there are some, others, which are preliminary, in all states."""
    is_final = xr.DataArray(np.arange(dataset.sizes[along]) < dataset.sizes[along] // 2, dims=along)
    parts = []
    for number in (1, 5):
        part = dataset.copy()
        for key in [key for key in dataset.data_vars if key != "time_bnds"]:
            array = dataset[key]
            # Final values are right; preliminary ones beside them are not, and must not be taken.
            changed = array.where(is_final) if number == 1 else array.where(~is_final, array * 1.001)
            part[key] = changed.transpose(*array.dims).assign_attrs(array.attrs)
        parts.append(part.assign_coords(expver=number))
    return xr.concat(parts, "expver", data_vars=[str(key) for key in dataset.data_vars if key != "time_bnds"])


def _two_versions(form: Form) -> list[xr.Dataset]:
    """Two files: final data, and preliminary ones that overlap with them, with other values there."""
    plain = replace(form, expver="none")
    (states,) = _states(plain)
    dataset = _dataset(plain, states)
    (along,) = states.dims
    third = dataset.sizes[along] // 3
    final, early = dataset.isel({along: slice(None, 2 * third)}), dataset.isel({along: slice(third, None)})
    early = early.copy()
    for key in [key for key in early.data_vars if key != "time_bnds"]:
        is_overlap = xr.DataArray(np.arange(early.sizes[along]) < third, dims=along)
        array = early[key]
        early[key] = array.where(~is_overlap, array * 1.001).transpose(*array.dims).assign_attrs(array.attrs)
    return [final.assign_coords(expver=_scalar(form, 1)), early.assign_coords(expver=_scalar(form, 5))]


def _scalar(form: Form, number: int) -> Any:
    return number if form.container != "netcdf4" else f"{number:04d}"
