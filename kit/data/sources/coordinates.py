"""Coordinates of files in the store's form: names, order, direction, and matrices of a curvilinear grid.

Everything here is lazy: no values of fields are touched.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.grid import western_edge
from kit.data.sources.fields import Note
from kit.data.store.format import CURVILINEAR, GRID, grid_dimensions, plain_attributes
from kit.data.units import canonical_units
from kit.io.errors import StoreError

Array = npt.NDArray[np.float64]

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
        dataset: One file, or one part of it.
        where: Name of the data, for messages.
        note: Takes what changed.

    Raises:
        StoreError: There is no such form: ensemble members, several forecast steps, a curvilinear grid that
            crosses Greenwich or holds a pole, model levels, two boxes.
    """
    dataset = _with_one_valid_time(dataset, where)
    dataset = dataset.rename(coordinate_names(dataset))
    for name in ("time", "level", *GRID):
        if name in dataset.variables:
            _check_numbers(dataset[name], name, where)
    dataset = _with_matrices(dataset, where, note)
    # One time or one level often comes as a number without a dimension.
    for name in ("time", "level", *grid_dimensions(dataset)):
        if name in dataset.coords and dataset[name].ndim == 0:
            dataset = dataset.expand_dims(name)
    if grid_dimensions(dataset) == GRID:
        dataset = _order_latitudes(dataset, where, note)
        dataset = _order_longitudes(dataset, where, note)
    if "level" in dataset.coords:
        dataset = _order_levels(dataset, where, note)
    if "time" in dataset.coords:
        dataset = _check_times(dataset, where)
    # Coordinates that are no dimensions (a height above ground, the kind of surface) serve nobody here.
    dataset = dataset.drop_vars([name for name in dataset.coords if name not in (*dataset.dims, *GRID)])
    order = ("time", "level", *grid_dimensions(dataset))
    return dataset.transpose(..., *(name for name in order if name in dataset.dims))


def coordinate_names(dataset: xr.Dataset) -> dict[str, str]:
    """Find the store's names of coordinates that a source calls otherwise, by the source's names."""
    known = {str(name).lower(): str(name) for name in (*dataset.coords, *dataset.dims)}
    # Matrices of coordinates often come as plain variables, since no dimension has their name.
    matrices = {str(name).lower(): str(name) for name, array in dataset.data_vars.items() if array.ndim == len(GRID)}
    renames = {}
    for name, spellings in _NAMES.items():
        candidates = matrices | known if name in GRID else known
        spelled = [spelling.lower() for spelling in spellings if spelling.lower() in candidates]
        if spelled and candidates[spelled[0]] != name and name not in dataset.variables:
            renames[candidates[spelled[0]]] = name
    return renames


def projection_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Read the attributes of a file's CF grid mapping; empty where it names none."""
    for array in dataset.data_vars.values():
        # xarray keeps it in the encoding where it decoded the mapping as a coordinate.
        name = str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", ""))).partition(":")[0]
        if name in dataset.variables:
            return plain_attributes(dataset[name].attrs)
    return {}


# Time, members and levels.


def _with_one_valid_time(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Let ``valid_time`` stand for GRIB's reference time and forecast step; a state is of one step and one member."""
    for name, held, remedy in (
        ("step", "forecast steps", "give one analysis or one step per file"),
        ("number", "ensemble members along 'number'", "select one of them first"),
        ("realization", "ensemble members along 'realization'", "select one of them first"),
    ):
        if dataset.sizes.get(name, 1) > 1:
            msg = f"{where}: holds {dataset.sizes[name]} {held}; {remedy}"
            raise StoreError(msg)
        if name in dataset.dims:
            dataset = dataset.squeeze(name, drop=True)
    dataset = dataset.drop_vars(("number", "realization"), errors="ignore")
    dataset = dataset.drop_vars([name for name in ("step", "surface") if name in dataset.coords])
    if "valid_time" not in dataset.coords or "time" not in dataset.coords:
        return dataset
    if dataset["valid_time"].dims == ("time",):
        return dataset.swap_dims(time="valid_time").drop_vars("time")
    if dataset["time"].ndim == 0:
        return dataset.drop_vars("time")
    return dataset.drop_vars("valid_time")


def _check_numbers(coordinate: xr.DataArray, name: str, where: str) -> None:
    if coordinate.size == 0:
        msg = f"{where}: {name} has no values, so that there is nothing to take; fetch the file again"
        raise StoreError(msg)
    wrong = coordinate.values.ravel()
    if coordinate.dtype.kind in "iuf":
        wrong = wrong[~np.isfinite(wrong)]
    # Times are dates, or are refused for what they are.
    if wrong.size and name != "time":
        msg = f"{where}: {name} must hold finite numbers, found {wrong[0]!s} (type {coordinate.dtype}); mend the file"
        raise StoreError(msg)


def _check_times(dataset: xr.Dataset, where: str) -> xr.Dataset:
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


def _order_levels(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    level = dataset["level"]
    values = np.asarray(level.values, dtype=np.float64)
    # Model levels are numbers too, and only the description says that they are no pressures.
    described = f"{level.attrs.get('standard_name', '')} {level.attrs.get('long_name', '')}".lower()
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


# Latitudes and longitudes: vectors.


def _degrees(array: xr.DataArray) -> Array:
    values = array.values
    if values.dtype == np.float32:
        # 359.9 in single precision is 359.899994: take the shortest decimal that means the same number,
        # so that files in single and double precision agree.
        return np.array([float(str(value)) for value in values], dtype=np.float64)
    return np.asarray(values, dtype=np.float64)


def _order_latitudes(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    values = _degrees(dataset["latitude"])
    dataset = dataset.assign_coords(latitude=("latitude", values))
    if not (np.abs(values) <= 90).all() or len(np.unique(values)) < len(values):
        msg = f"{where}: latitudes must be distinct and within [-90, 90], found {values.min():g} to {values.max():g}"
        raise StoreError(msg)
    if (np.diff(values) < 0).all():
        return dataset
    note("latitudes flipped to decrease")
    return dataset.isel(latitude=np.argsort(-values))


def _within_circle(degrees: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Move longitudes into [0, 360); those that lie there stay as they are."""
    # A tiny negative number modulo 360 is 360 in floating point, hence the second modulo.
    return np.where((degrees >= 0) & (degrees < 360), degrees, np.round(degrees % 360, 9) % 360)


def _order_longitudes(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    values = _degrees(dataset["longitude"])
    shifted = _within_circle(values)
    if not np.array_equal(shifted, values):
        note("longitudes shifted to [0, 360)")
    unique, first = np.unique(shifted, return_index=True)
    if len(unique) < len(shifted):
        note("the meridian that the source gave twice was kept once")
    ordered = dataset.assign_coords(longitude=("longitude", shifted)).isel(longitude=first)
    steps = np.diff(unique)
    if steps.size == 0 or steps.max() <= 1.5 * np.median(steps) + 1e-9:
        return ordered
    # A hole is allowed only where it is all that a box across Greenwich leaves out.
    if edge := western_edge(unique):
        note(f"the box crosses Greenwich: columns from {unique[edge]:g} degrees east stand last")
        return ordered
    wide = int(steps.argmax())
    msg = (
        f"{where}: longitudes {values[0]:g} to {values[-1]:g} have a hole between {unique[wide]:g} and "
        f"{unique[wide + 1]:g} degrees east; take one box, or the whole circle"
    )
    raise StoreError(msg)


# Matrices, in the store's order.


def _with_matrices(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Bring a curvilinear grid onto ``(y, x)``: north first, from west to east; leave vectors alone.

    Rows are the dimension along which latitudes fall or rise in every column, columns the one along which longitudes
    do in every row; where both orders hold, as on a grid turned by 45 degrees, the file's own order decides.
    """
    for name in GRID:
        if name in dataset.data_vars and dataset[name].ndim == 2:
            dataset = dataset.set_coords(name)
    for name in GRID:
        if name not in dataset.coords or dataset[name].ndim > 2:
            shape = dataset[name].shape if name in dataset.coords else "none"
            msg = (
                f"{where}: {name} is needed as a vector, or as a matrix [y, x], found {shape} among "
                f"{sorted(map(str, dataset.coords))}; regrid the data to a regular grid"
            )
            raise StoreError(msg)
    latitude, longitude = dataset["latitude"], dataset["longitude"]
    if max(latitude.ndim, longitude.ndim) < 2:
        return dataset
    if set(latitude.dims) != set(longitude.dims):
        msg = f"{where}: latitude lies on {latitude.dims}, longitude on {longitude.dims}; both must be on the same two"
        raise StoreError(msg)
    # The file's own order comes first.
    orders = latitude.dims, latitude.dims[::-1]
    for dims in orders:
        lat, lon = latitude.transpose(*dims).values, longitude.transpose(*dims).values
        if (lat == lat[:, :1]).all() and (lon == lon[:1]).all():
            note("latitudes and longitudes given as matrices are those of a regular grid; kept as vectors")
            fields = _without_coordinates(dataset, dims, GRID)
            return fields.assign_coords(latitude=("latitude", lat[:, 0]), longitude=("longitude", lon[0]))
    for dims in orders:
        turned = _turned(dataset, dims, note)
        if turned is not None:
            return turned
    msg = (
        f"{where}: latitude and longitude are matrices of {latitude.shape} points "
        f"({float(latitude.min()):g} to {float(latitude.max()):g} degrees north, "
        f"{float(longitude.min()):g} to {float(longitude.max()):g} degrees east) that are in no order: latitudes must "
        "fall along every column and longitudes rise along every row within [0, 360), which a grid that holds a pole "
        "or crosses Greenwich cannot; crop it, or regrid it"
    )
    raise StoreError(msg)


def _turned(dataset: xr.Dataset, dims: tuple[Any, ...], note: Note) -> xr.Dataset | None:
    """Turn matrices on these dimensions to the store's order; None where they have none."""
    latitude = dataset["latitude"].transpose(*dims).values.astype(np.float64)
    longitude = dataset["longitude"].transpose(*dims).values.astype(np.float64)
    eastern = _within_circle(longitude)
    northwards, eastwards = _direction(latitude, 0), _direction(eastern, 1)
    if not northwards or not eastwards or not (np.abs(latitude) <= 90).all():
        return None
    if northwards > 0:
        note("rows flipped so that latitudes decrease")
    if eastwards < 0:
        note("columns flipped so that longitudes increase")
    if not np.array_equal(eastern, longitude):
        note("longitudes shifted to [0, 360)")
    rows, columns = slice(None, None, -northwards), slice(None, None, eastwards)
    # y and x: a dimension named latitude, along which latitude varies less than along the other, would mislead.
    fields = _without_coordinates(dataset, dims, CURVILINEAR).isel(y=rows, x=columns)
    return fields.assign_coords(
        latitude=(CURVILINEAR, latitude[rows, columns]), longitude=(CURVILINEAR, eastern[rows, columns])
    )


def _direction(values: Array, axis: int) -> int:
    """1 where all steps along an axis go up, -1 where all go down, else 0."""
    steps = np.diff(values, axis=axis)
    if (steps > 0).all():
        return 1
    return -int((steps < 0).all())


def _without_coordinates(dataset: xr.Dataset, dims: tuple[Any, ...], names: tuple[str, str]) -> xr.Dataset:
    """The fields alone, with two dimensions renamed; what a projection calls its own coordinates is left behind."""
    bare = dataset.drop_vars({*GRID, *dims, *names} & {*map(str, dataset.variables)})
    return bare.rename({old: new for old, new in zip(dims, names, strict=True) if old != new})
