"""Latitudes and longitudes of files in the store's order: vectors, and matrices of a curvilinear grid."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.grid import western_edge
from kit.data.region import Region, cropped
from kit.data.sources.fields import Note
from kit.data.store.format import CURVILINEAR, GRID
from kit.io.errors import StoreError

Array = npt.NDArray[np.float64]


# Vectors.


def _degrees(array: xr.DataArray) -> Array:
    values = array.values
    if values.dtype == np.float32:
        # 359.9 in single precision is 359.899994: take the shortest decimal that means the same number,
        # so that files in single and double precision agree.
        return np.array([float(str(value)) for value in values], dtype=np.float64)
    return np.asarray(values, dtype=np.float64)


def order_latitudes(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Put vectors of latitudes in decreasing order.

    Raises:
        StoreError: they are not distinct, or lie beyond a pole.
    """
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


def order_longitudes(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Bring vectors of longitudes into [0, 360), increasing.

    Raises:
        StoreError: they have a hole that is not the rest of the circle.
    """
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


def with_matrices(dataset: xr.Dataset, where: str, note: Note) -> xr.Dataset:
    """Bring a curvilinear grid onto ``(y, x)``: north first, from west to east; leave vectors alone.

    Rows are the dimension along which latitudes fall or rise in every column, columns the one along which longitudes
    do in every row; where both orders hold, as on a grid turned by 45 degrees, the file's own order decides. Along
    columns latitudes may change, too, but no more than twice as much: those are rows.
    """
    for name in GRID:
        if name in dataset.data_vars and dataset[name].ndim == 2:
            dataset = dataset.set_coords(name)
    for name in GRID:
        if name not in dataset.coords or dataset[name].ndim > 2:
            shape = dataset[name].shape if name in dataset.coords else "none"
            msg = (
                f"{where}: {name} is needed as a vector, or as a matrix [y, x], found {shape} among "
                f"{sorted(map(str, dataset.coords))}; write those of all points to the file, or regrid it first"
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
        if turned is not None and not _is_on_its_side(turned):
            return turned
    msg = (
        f"{where}: latitude and longitude are matrices of {latitude.shape} points "
        f"({float(latitude.min()):g} to {float(latitude.max()):g} degrees north, "
        f"{float(longitude.min()):g} to {float(longitude.max()):g} degrees east) that are in no order: latitudes must "
        "fall along every column and longitudes rise along every row within [0, 360), which a grid that holds a pole "
        "or crosses Greenwich cannot; take a part that does neither with --region, or regrid it before the build, "
        "such as with `cdo remapbil,GRID IN OUT`"
    )
    raise StoreError(msg)


def _is_on_its_side(dataset: xr.Dataset) -> bool:
    """Whether latitudes change along the rows of a grid more than twice as much as along its columns."""
    latitude = dataset["latitude"].values
    if min(latitude.shape) < 2:
        return False
    southwards, eastwards = (float(np.abs(np.diff(latitude, axis=axis)).mean()) for axis in (0, 1))
    return eastwards > 2 * southwards


def part_of_crossing(dataset: xr.Dataset, region: Region | None, where: str) -> xr.Dataset:
    """Crop a curvilinear grid that crosses Greenwich, or holds a pole: its part may have the order that it lacks.

    Args:
        dataset: One file, with latitudes and longitudes by these names.
        region: Region that is taken, context included; None for everything.
        where: Name of the data, for messages.

    Returns:
        The part; the dataset as it is where there is no region, or where its longitudes do not pass 360.

    Raises:
        StoreError: The region selects nothing.
    """
    matrices = [name for name in GRID if name in dataset.variables and dataset[name].ndim == len(GRID)]
    if region is None or len(matrices) < len(GRID):
        return dataset
    eastern = _within_circle(np.asarray(dataset["longitude"].values, dtype=np.float64))
    # Neighbours are never half the circle apart but where they are counted from 0 again.
    if not any((np.abs(np.diff(eastern, axis=axis)) > 180).any() for axis in (0, 1)):
        return dataset
    return cropped(dataset.set_coords(matrices), region, where)


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
