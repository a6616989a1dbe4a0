"""Coordinates that are matrices, as they come in files, brought into the store's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.store.format import CURVILINEAR, GRID, plain_attributes
from kit.io.errors import StoreError

__all__ = ["projection_of", "with_matrices"]

Array = npt.NDArray[np.float64]


def with_matrices(dataset: xr.Dataset, where: str, note: Callable[[str], None]) -> xr.Dataset:
    """Bring a curvilinear grid onto ``(y, x)``: north first, from west to east.

    Rows are the dimension along which latitudes fall or rise in every column, columns the one along which longitudes
    do in every row; where both ways hold, as on a grid turned by 45 degrees, the file's own order decides.

    Args:
        dataset: its coordinates are named ``latitude`` and ``longitude``; vectors are left alone.
        where: its name, for messages.
        note: is told what changed.

    Raises:
        StoreError: there are no such coordinates, or they have no such order.
    """
    dataset = dataset.set_coords([name for name in GRID if name in dataset.data_vars and dataset[name].ndim == 2])
    for name in GRID:
        if name not in dataset.coords or dataset[name].ndim > 2:
            shape = dataset[name].shape if name in dataset.coords else "none"
            msg = (
                f"{where}: {name} is needed as a vector, or as a matrix [y, x], found {shape} among "
                f"{sorted(map(str, dataset.coords))}; regrid the data to a regular grid"
            )
            raise StoreError(msg)
    latitude, longitude = (dataset[name] for name in GRID)
    if max(latitude.ndim, longitude.ndim) < 2:
        return dataset
    if set(latitude.dims) != set(longitude.dims):
        msg = f"{where}: latitude lies on {latitude.dims}, longitude on {longitude.dims}; both must be on the same two"
        raise StoreError(msg)
    ways = [tuple(map(str, latitude.dims)), tuple(map(str, latitude.dims[::-1]))]
    regular = _regular(dataset, ways, note)
    return _ordered(dataset, ways, where, note) if regular is None else regular


def _regular(dataset: xr.Dataset, ways: list[tuple[str, ...]], note: Callable[[str], None]) -> xr.Dataset | None:
    """Vectors in the place of matrices that say the same; None where they do not."""
    for dims in ways:
        latitude, longitude = (dataset[name].transpose(*dims).values for name in GRID)
        if (latitude == latitude[:, :1]).all() and (longitude == longitude[:1]).all():
            note("latitudes and longitudes given as matrices are those of a regular grid; kept as vectors")
            vectors = {"latitude": ("latitude", latitude[:, 0]), "longitude": ("longitude", longitude[0])}
            return _bare(dataset, dims, GRID).assign_coords(vectors)
    return None


def _ordered(dataset: xr.Dataset, ways: list[tuple[str, ...]], where: str, note: Callable[[str], None]) -> xr.Dataset:
    for dims in ways:
        latitude, longitude = (dataset[name].transpose(*dims).values.astype(np.float64) for name in GRID)
        eastern = np.where((longitude >= 0) & (longitude < 360), longitude, np.round(longitude % 360, 9) % 360)
        northwards, eastwards = _sense(latitude, 0), _sense(eastern, 1)
        if not northwards or not eastwards or not (np.abs(latitude) <= 90).all():
            continue
        turn = slice(None, None, -northwards), slice(None, None, eastwards)
        for told, said in (
            (northwards > 0, "rows flipped so that latitudes decrease"),
            (eastwards < 0, "columns flipped so that longitudes increase"),
            (not np.array_equal(eastern, longitude), "longitudes shifted to [0, 360)"),
        ):
            if told:
                note(said)
        turned = _bare(dataset, dims, CURVILINEAR).isel(y=turn[0], x=turn[1])
        return turned.assign_coords(latitude=(CURVILINEAR, latitude[turn]), longitude=(CURVILINEAR, eastern[turn]))
    north, east = (f"{float(dataset[name].min()):g} to {float(dataset[name].max()):g} degrees" for name in GRID)
    msg = (
        f"{where}: latitude and longitude are matrices of {dataset['latitude'].shape} points ({north} north, {east} "
        "east) that are in no order: latitudes must fall along every column and longitudes rise along every row within "
        "[0, 360), which a grid that holds a pole or crosses Greenwich cannot; crop it, or regrid it"
    )
    raise StoreError(msg)


def _sense(values: Array, axis: int) -> int:
    """1 where all steps along an axis go up, -1 where all go down, else 0."""
    steps = np.diff(values, axis=axis)
    return 1 if (steps > 0).all() else -1 if (steps < 0).all() else 0


def _bare(dataset: xr.Dataset, dims: tuple[str, ...], names: tuple[str, str]) -> xr.Dataset:
    """The fields alone, with two dimensions renamed; what a projection calls its own coordinates is left behind."""
    bare = dataset.drop_vars({*GRID, *dims, *names} & {*map(str, dataset.variables)})
    return bare.rename({old: new for old, new in zip(dims, names, strict=True) if old != new})


def projection_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Attributes of a file's CF grid mapping; none where it names none."""
    for array in dataset.data_vars.values():
        name = str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", ""))).partition(":")[0]
        if name in dataset.variables:
            return plain_attributes(dataset[name].attrs)
    return {}
