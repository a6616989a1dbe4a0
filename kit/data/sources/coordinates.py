"""Coordinates of files in the store's form: names, order, direction, and matrices of a curvilinear grid.

Everything here is lazy: no values of fields are touched.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from kit.data.settings import Period
from kit.data.sources.dates import check_times
from kit.data.sources.fields import Note
from kit.data.sources.grid_order import order_latitudes, order_longitudes, with_matrices
from kit.data.sources.leads import BOUND_END, BOUND_START, STATE_COORDINATES
from kit.data.sources.levels import order_levels
from kit.data.store.format import GRID, grid_dimensions, plain_attributes
from kit.data.units import canonical_units
from kit.io.errors import StoreError

_NAMES = {
    "time": ("valid_time", "time", "t_time", "datetime"),
    "latitude": ("latitude", "lat", "nav_lat", "xlat", "gridlat_0"),
    "longitude": ("longitude", "lon", "nav_lon", "xlong", "gridlon_0"),
}
_DEGREES = {
    "latitude": re.compile(r"deg(?:ree)?s?[_ ]?(?:north|n)", re.IGNORECASE),
    "longitude": re.compile(r"deg(?:ree)?s?[_ ]?(?:east|e)", re.IGNORECASE),
}
"""Units by which CF tells latitudes and longitudes from anything else (CF conventions, sections 4.1 and 4.2)."""


def canonical_coordinates(dataset: xr.Dataset, where: str, note: Note, period: Period | None = None) -> xr.Dataset:
    """Bring names, order and direction of all coordinates into the store's form.

    Coordinates that are matrices come out on ``(y, x)``, or as vectors where they are those of a regular grid.

    Args:
        dataset: One file, or one part of it.
        where: Name of the data, for messages.
        note: Takes what changed.
        period: Times that were asked for, whose years are believed.

    Raises:
        StoreError: There is no such form: ensemble members, several forecast steps, a curvilinear grid that
            crosses Greenwich or holds a pole, model levels, two boxes.
    """
    dataset = dataset.rename(coordinate_names(dataset))
    for name in ("time", "level", *GRID):
        if name in dataset.variables:
            _check_numbers(dataset[name], name, where)
    dataset = with_matrices(dataset, where, note)
    # One time or one level often comes as a number without a dimension.
    for name in ("time", "level", *grid_dimensions(dataset)):
        if name in dataset.coords and dataset[name].ndim == 0:
            dataset = dataset.expand_dims(name)
    if grid_dimensions(dataset) == GRID:
        dataset = order_latitudes(dataset, where, note)
        dataset = order_longitudes(dataset, where, note)
    if "level" in dataset.coords:
        dataset = order_levels(dataset, where)
    if "time" in dataset.coords:
        dataset = check_times(dataset, where, period)
    # Coordinates that are no dimensions (a height above ground, the kind of surface) serve nobody here.
    kept = (*dataset.dims, *GRID, *STATE_COORDINATES, BOUND_START, BOUND_END)
    dataset = dataset.drop_vars([name for name in dataset.coords if name not in kept])
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
        elif not spelled and name in GRID:
            described = [other for other in candidates.values() if _is_described_as(dataset, other, name)]
            # Of several, such as those of cells' corners, none is chosen.
            if len(described) == 1:
                renames[described[0]] = name
    return renames


def _is_described_as(dataset: xr.Dataset, candidate: str, name: str) -> bool:
    """Whether a coordinate is one of latitudes or longitudes by its standard name or its units."""
    if candidate not in dataset.variables:
        return False
    attributes = dataset[candidate].attrs
    if "standard_name" in attributes:
        return str(attributes["standard_name"]) == name
    return _DEGREES[name].fullmatch(str(attributes.get("units", "")).strip()) is not None


def projection_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Read the attributes of a file's CF grid mapping, as JSON knows them; empty where it names none."""
    return plain_attributes(mapping_of_fields(dataset.data_vars.values(), dataset))


def mapping_of_fields(fields: Iterable[xr.DataArray], dataset: xr.Dataset) -> dict[str, Any]:
    """Read the first CF grid mapping that fields of a dataset name; empty where they name none."""
    for array in fields:
        # xarray keeps it in the encoding where it decoded the mapping as a coordinate.
        name = str(array.attrs.get("grid_mapping", array.encoding.get("grid_mapping", ""))).partition(":")[0]
        if name in dataset.variables:
            return dict(dataset[name].attrs)
    return {}


def _check_numbers(coordinate: xr.DataArray, name: str, where: str) -> None:
    if coordinate.size == 0:
        msg = f"{where}: {name} has no values, so that there is nothing to take; fetch the file again"
        raise StoreError(msg)
    # Degrees around a rotated pole are no latitudes and longitudes, whatever they are called.
    standard_name = str(coordinate.attrs.get("standard_name", ""))
    if name in GRID and standard_name.startswith(("grid_", "projection_")):
        msg = (
            f"{where}: {name} is a {standard_name}, which counts along a rotated or projected grid; write the "
            "latitudes and longitudes of its points to the file as matrices, or regrid it first"
        )
        raise StoreError(msg)
    units = str(coordinate.attrs.get("units", ""))
    # Longitudes that are said to be degrees north are a slip that their name corrects.
    in_degrees = canonical_units(units) in ("1", "degree") or any(
        pattern.fullmatch(units.strip()) for pattern in _DEGREES.values()
    )
    if name in GRID and not in_degrees:
        msg = (
            f"{where}: {name} comes in {units!r}, degrees {'north' if name == 'latitude' else 'east'} are expected; "
            "convert it, or mend its attribute units"
        )
        raise StoreError(msg)
    wrong = coordinate.values.ravel()
    if coordinate.dtype.kind in "iuf":
        wrong = wrong[~np.isfinite(wrong)]
    # Times are dates, or are refused for what they are.
    if wrong.size and name != "time":
        msg = f"{where}: {name} must hold finite numbers, found {wrong[0]!s} (type {coordinate.dtype}); mend the file"
        raise StoreError(msg)
