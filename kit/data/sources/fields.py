"""One field in the store's form: dimensions, coordinates, name and units, whatever the source called them.

Everything here is lazy: values are touched only where a check needs them, which is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.circle import western_edge
from kit.data.matrices import with_matrices
from kit.data.store.format import GRID, STATIC_PREFIX, grid_dimensions
from kit.data.store.reader import Store
from kit.data.units import canonical_units, conversion
from kit.data.variables import Variable, find, lookup
from kit.io.errors import StoreError

__all__ = ["Note", "canonical_coordinates", "canonical_name", "canonical_values", "coordinate_names", "refuse_negative"]

Note = Callable[[str], None]
"""Takes one sentence about what was done to the data; the same sentence may come more than once."""

_NAMES = {
    "time": ("valid_time", "time", "t_time", "datetime"),
    "level": ("pressure_level", "level", "isobaricInhPa", "isobaricInPa", "plev", "levelist", "lev"),
    "latitude": ("latitude", "lat", "nav_lat", "xlat", "gridlat_0"),
    "longitude": ("longitude", "lon", "nav_lon", "xlong", "gridlon_0"),
}
_FIRST, _LAST = np.datetime64("1678-01-01", "s"), np.datetime64("2262-01-01", "s")
"""Times that nanoseconds since 1970 hold in 64 bits; others would wrap around."""


def canonical_coordinates(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Bring names, order and direction of all coordinates into the store's form.

    Coordinates that are matrices come out on ``(y, x)``, or as vectors where they are those of a regular grid.

    Args:
        dataset: one file, or one part of it.
        where: its name, for messages.
        note: is told what changed.

    Raises:
        StoreError: there is no such form: ensemble members, several forecast steps, a curvilinear grid that
            crosses Greenwich or holds a pole, model levels, two boxes.
    """
    dataset = _drop_members(_one_valid_time(dataset, where), where)
    dataset = dataset.rename(coordinate_names(dataset))
    for name in ("time", "level", *GRID):
        if name in dataset.variables:
            _check_numbers(dataset[name], name, where)
    dataset = with_matrices(dataset, where, note)
    for name in ("time", "level", *grid_dimensions(dataset)):
        if name in dataset.coords and dataset[name].ndim == 0:
            dataset = dataset.expand_dims(name)
    if grid_dimensions(dataset) == GRID:
        dataset = _latitudes(dataset, where, note)
        dataset = _longitudes(dataset, where, note)
    if "level" in dataset.coords:
        dataset = _levels(dataset, where, note)
    if "time" in dataset.coords:
        dataset = _times(dataset, where)
    # Coordinates that are no dimensions (a height above ground, the kind of surface) serve nobody here.
    dataset = dataset.drop_vars([name for name in dataset.coords if name not in (*dataset.dims, *GRID)])
    order = ("time", "level", *grid_dimensions(dataset))
    return dataset.transpose(..., *(name for name in order if name in dataset.dims))


def _check_numbers(coordinate: xr.DataArray, name: str, where: str) -> None:
    if coordinate.size == 0:
        msg = f"{where}: {name} has no values, so that there is nothing to take; fetch the file again"
        raise StoreError(msg)
    if name == "time":
        return
    if coordinate.dtype.kind not in "iuf" or not np.isfinite(coordinate.values).all():
        found = coordinate.values.ravel()
        wrong = found if coordinate.dtype.kind not in "iuf" else found[~np.isfinite(found)]
        msg = f"{where}: {name} must hold finite numbers, found {wrong[0]!s} (type {coordinate.dtype}); mend the file"
        raise StoreError(msg)


def coordinate_names(dataset: xr.Dataset) -> dict[str, str]:
    """The store's names of coordinates that a source calls otherwise, by the source's names."""
    known = {str(name).lower(): str(name) for name in (*dataset.coords, *dataset.dims)}
    # Matrices of coordinates often come as plain variables, since no dimension has their name.
    matrices = {str(name).lower(): str(name) for name, array in dataset.data_vars.items() if array.ndim == len(GRID)}
    renames = {}
    for name, sources in _NAMES.items():
        places = {**matrices, **known} if name in GRID else known
        source = next((places[s.lower()] for s in sources if s.lower() in places), None)
        if source is not None and source != name and name not in dataset.variables:
            renames[source] = name
    return renames


def _one_valid_time(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Let ``valid_time`` stand for GRIB's reference time and forecast step."""
    if "step" in dataset.dims and dataset.sizes["step"] > 1:
        msg = f"{where}: holds {dataset.sizes['step']} forecast steps; give one analysis or one step per file"
        raise StoreError(msg)
    dataset = dataset.squeeze("step", drop=True) if "step" in dataset.dims else dataset
    dataset = dataset.drop_vars([name for name in ("step", "surface") if name in dataset.coords])
    if "valid_time" not in dataset.coords or "time" not in dataset.coords:
        return dataset
    if dataset["valid_time"].dims == ("time",):
        return dataset.swap_dims(time="valid_time").drop_vars("time")
    return dataset.drop_vars("time") if dataset["time"].ndim == 0 else dataset.drop_vars("valid_time")


def _drop_members(dataset: xr.Dataset, where: str) -> xr.Dataset:
    for name in ("number", "realization"):
        if name in dataset.dims and dataset.sizes[name] > 1:
            msg = f"{where}: holds {dataset.sizes[name]} ensemble members along {name!r}; select one of them first"
            raise StoreError(msg)
        dataset = dataset.squeeze(name, drop=True) if name in dataset.dims else dataset
        dataset = dataset.drop_vars(name, errors="ignore")
    return dataset


def _degrees(array: xr.DataArray) -> npt.NDArray[np.float64]:
    values = array.values
    if values.dtype == np.float32:
        # 359.9 in single precision is 359.899994: take the shortest decimal that means the same number,
        # so that files in single and double precision agree.
        return np.array([float(str(value)) for value in values], dtype=np.float64)
    return np.asarray(values, dtype=np.float64)


def _latitudes(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    dataset = dataset.assign_coords(latitude=("latitude", _degrees(dataset["latitude"])))
    values = dataset["latitude"].values
    if not (np.abs(values) <= 90).all() or len(np.unique(values)) < len(values):
        msg = f"{where}: latitudes must be distinct and within [-90, 90], found {values.min():g} to {values.max():g}"
        raise StoreError(msg)
    if (np.diff(values) < 0).all():
        return dataset
    note("latitudes flipped to decrease")
    return dataset.isel(latitude=np.argsort(-values))


def _longitudes(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    values = _degrees(dataset["longitude"])
    shifted = np.where((values >= 0) & (values < 360), values, np.round(values % 360, 9) % 360)
    if not np.array_equal(shifted, values):
        note("longitudes shifted to [0, 360)")
    unique, first = np.unique(shifted, return_index=True)
    if len(unique) < len(shifted):
        note("the meridian that the source gave twice was kept once")
    _contiguous(unique, values, where, note)
    return dataset.assign_coords(longitude=("longitude", shifted)).isel(longitude=first)


def _contiguous(shifted: npt.NDArray[np.float64], values: npt.NDArray[np.float64], where: str, note: Note) -> None:
    steps = np.diff(shifted)
    if steps.size == 0 or steps.max() <= 1.5 * np.median(steps) + 1e-9:
        return
    if edge := western_edge(shifted):
        note(f"the box crosses Greenwich: columns from {shifted[edge]:g} degrees east stand last")
        return
    wide = int(steps.argmax())
    msg = (
        f"{where}: longitudes {values[0]:g} to {values[-1]:g} have a hole between {shifted[wide]:g} and "
        f"{shifted[wide + 1]:g} degrees east; take one box, or the whole circle"
    )
    raise StoreError(msg)


def _levels(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    level = dataset["level"]
    values = np.asarray(level.values, dtype=np.float64)
    described = " ".join(str(level.attrs.get(key, "")) for key in ("standard_name", "long_name")).lower()
    if "hybrid" in described or "sigma" in described or "model" in described:
        msg = f"{where}: levels are {described.strip()!r}; the store wants pressure levels: interpolate the data first"
        raise StoreError(msg)
    units = canonical_units(str(level.attrs.get("units", "hPa")))
    if units == "Pa":
        note("levels converted from Pa to hPa")
        values = np.round(values / 100, 6)
    elif units not in ("hPa", "1"):
        msg = f"{where}: levels come in {level.attrs['units']!r}; the store wants pressure in hPa or Pa"
        raise StoreError(msg)
    if values.min() <= 0 or values.max() > 1100 or len(np.unique(values)) < len(values):
        found = ", ".join(f"{value:g}" for value in values)
        msg = f"{where}: levels must be distinct pressures between 0 and 1100 hPa, found {found}"
        raise StoreError(msg)
    dataset = dataset.assign_coords(level=("level", values))
    return dataset if (np.diff(values) > 0).all() else dataset.isel(level=np.argsort(values))


def _times(dataset: xr.Dataset, where: str) -> xr.Dataset:
    times = dataset["time"]
    if times.ndim != 1 or not np.issubdtype(times.dtype, np.datetime64):
        first = times.values.ravel()[:1]
        msg = f"{where}: times of the type {times.dtype} ({first}) are not dates of the standard calendar"
        raise StoreError(msg)
    if without := int(np.isnat(times.values).sum()):
        msg = f"{where}: {without} of {times.size} times have no value; leave these states out"
        raise StoreError(msg)
    values = times.values.astype("datetime64[s]")
    outside = (values < _FIRST) | (values > _LAST)
    if outside.any():
        msg = f"{where}: the time {values[outside][0]} is not between {_FIRST} and {_LAST}; correct it"
        raise StoreError(msg)
    return dataset.assign_coords(time=("time", values.astype("datetime64[ns]")))


def canonical_name(array: xr.DataArray) -> tuple[str, Variable | None]:
    """The store's name of a field, and what the table knows of it.

    A static variable that comes with times is recognised too; its prefix is ``static_``.
    """
    source = str(array.name)
    on_levels = "level" in array.dims
    bare = source.removeprefix(STATIC_PREFIX)
    variable = find(source, on_levels=on_levels)
    if variable is None and bare != source:
        variable = find(bare, on_levels=on_levels)
    if variable is None:
        for key in ("GRIB_shortName", "short_name"):
            variable = variable or find(str(array.attrs.get(key, "")), on_levels=on_levels)
    if variable is None:
        return re.sub(r"[^A-Za-z0-9_]", "_", source), None
    return (STATIC_PREFIX + variable.name if variable.kind == "static" else variable.name), variable


def canonical_values(array: xr.DataArray, name: str, variable: Variable | None, where: str, note: Note) -> xr.DataArray:
    """Convert units and type, and give the field the attributes of the table.

    Raises:
        StoreError: it does not hold numbers, or its units cannot be converted.
    """
    if array.dtype.kind not in "biuf":
        msg = f"{where}: {array.name} holds {array.dtype} values, numbers expected; leave it out, or convert the file"
        raise StoreError(msg)
    units = array.attrs.get("units")
    converted = array
    if variable is None:
        note(f"{name} is not in the kit's table of variables; taken as it is")
        attributes: dict[str, Any] = {key: array.attrs[key] for key in ("long_name", "units") if key in array.attrs}
    else:
        attributes = dict(variable.attributes())
        if units is None:
            note(f"{name} came without units; taken to be {variable.units!r}")
        else:
            change = conversion(f"{where}: {array.name}", str(units), variable.units)
            if change is not None:
                # Convert in double precision, then round once.
                converted = array.astype(np.float64) * change[0] + change[1]
                note(f"{name} converted from {units} to {variable.units}")
    single: xr.DataArray = xr.apply_ufunc(_single, converted, dask="parallelized", output_dtypes=[np.float32])
    if "accumulation_hours" in array.attrs:
        attributes["accumulation_hours"] = array.attrs["accumulation_hours"]
    single.attrs = attributes
    return single.rename(name)


def _single(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Round to single precision; what it cannot hold becomes infinite, which the checks report."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


# Values below zero of what cannot be: refused where they are read.


def refuse_negative(store: Store, name: str, times: Sequence[int], values: npt.NDArray[np.float32]) -> None:
    """Refuse states with values below zero by more than packing and differences of sums leave.

    Args:
        store: where they were read.
        name: of the variable.
        times: positions of the states in the store.
        values: of these states; the first axis is time. Missing ones say nothing.

    Raises:
        StoreError: names the time and the value.
    """
    known = lookup(name, "surface" if name in store.surface else "atmospheric")
    below = values < -(known.margin if known else 0.0)
    if below.any():
        first = int(np.flatnonzero(below.reshape(len(values), -1).any(axis=1))[0])
        found, unit = float(np.nanmin(values[first])), f" {known.units}" if known else ""
        msg = (
            f"{store.path}: {name} at {store.times[times[first]]} is as low as {found:g}{unit}, but it is transformed "
            f"as what cannot be below zero. Correct the source and build the store again, or leave {name} out"
        )
        raise StoreError(msg)
