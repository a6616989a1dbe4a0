"""Layouts of forecasts in files: opened lazily, points on rows and columns, levels in hPa, initial times stated.

Read are the kit's own NetCDF and Zarr, WeatherBench 2's layout (``time``, ``prediction_timedelta``, ``level``,
``latitude``, ``longitude`` in any order), any other in which coordinates state initial times and leads, and
anemoi-inference's (``time`` and ``values``, as its ``outputs/netcdf.py`` and ``outputs/zarr.py`` write it); each with a
dimension of members or without. GRIB has its members by number, in one file or in one each.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import xarray as xr

from kit.data.source_names import find
from kit.data.sources.coordinates import coordinate_names
from kit.data.sources.grib.forecasts import forecasts_of
from kit.data.sources.grib.grid import GribGrid
from kit.data.sources.grib.scan import is_grib, scan
from kit.data.sources.leads import LEAD_DIMENSIONS, MEMBERS, REFERENCES
from kit.data.sources.levels import LevelRules, with_level_dimension
from kit.data.sources.netcdf import open_file
from kit.data.sources.zarr.source import opened
from kit.data.store.format import GRID
from kit.io.errors import StoreError

_logger = logging.getLogger(__name__)

MEMBER = "member"
"""Dimension of the members of an ensemble."""
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")
"""Files that a Zarr has at its root."""
_ON_LEVEL = re.compile(r"(\w+)_(\d+)")
"""Names of anemoi's variables on a level: ``z_500``."""
_REFERENCE = re.compile(r"seconds since (.+)")
_LONGEST_LEAD = 60 * 24
"""Hours beyond which the reference of a time's units is not taken for the initial time of a forecast."""


@contextmanager
def open_layout(path: Path, start: datetime | None = None) -> Iterator[xr.Dataset]:
    """Open a forecast lazily: NetCDF, a Zarr folder, GRIB, or a folder of GRIB files, such as one for each member.

    Args:
        path: File or folder.
        start: Initial time, UTC, of a file that states none.

    Yields:
        Its variables under their own names, with ``latitude`` and ``longitude`` as vectors or matrices, ``level`` in
        hPa where there are levels, and the dimension ``member`` where there are several.

    Raises:
        StoreError: It is damaged, or of no layout that can be read.
    """
    where = str(path)
    with _opened(path) as given:
        dataset = _with_member_dimension(given, where)
        dataset = dataset.rename(coordinate_names(dataset))
        if dataset.sizes.get("level") == 0:
            # The kit writes a forecast of the surface alone so.
            dataset = dataset.drop_dims("level")
        _check_grid(dataset, where)
        dataset = dataset.set_coords(list(GRID))
        is_list = dataset["latitude"].ndim == 1 and dataset["latitude"].dims == dataset["longitude"].dims
        if is_list:
            dataset = _in_rows(dataset, where)
        dataset = with_level_dimension(dataset, where, LevelRules(), _logger.info)
        stated = next((str(name) for name in dataset.variables if _states_start(dataset[name])), None)
        if start is not None and stated is not None:
            msg = f"{where}: start has no effect: {stated} states the initial times; leave it out"
            raise StoreError(msg)
        if start is None and stated is None and is_list:
            start = _reference(dataset["time"])
        if start is not None:
            moment = np.datetime64(start.astimezone(UTC).replace(tzinfo=None), "s")
            dataset = dataset.assign_coords(forecast_reference_time=((), moment))
        yield dataset


def grid_of(dataset: xr.Dataset) -> tuple[str, str]:
    """Name the dimensions of rows and columns."""
    latitude, longitude = (dataset[name] for name in GRID)
    return str(latitude.dims[0]), str(longitude.dims[-1])


def _grib_files(path: Path) -> list[Path]:
    """List the GRIB files of a forecast; none of a Zarr, or of another file."""
    if path.is_file():
        return [path] if is_grib(path) else []
    if not path.is_dir() or any((path / name).exists() for name in _ZARR):
        return []
    return [file for file in sorted(path.rglob("*")) if file.is_file() and is_grib(file)]


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    if files := _grib_files(path):
        grids: dict[str, GribGrid] = {}
        messages = [message for file in files for message in scan(file, grids)]
        yield forecasts_of(messages, str(path), _logger.info)
        return
    if path.is_dir():
        with opened(str(path)) as (dataset, arrays):
            # Chunks of Blosc that lack their end are told from whole ones.
            arrays.pin([str(name) for name in dataset.data_vars])
            yield dataset
        return
    if not path.is_file():
        msg = f"{path}: no such file or folder; forecast_file names a forecast in NetCDF, Zarr or GRIB"
        raise StoreError(msg)
    with open_file(path, str(path), (), _logger.info) as parts:
        (dataset,) = parts.values()
        yield dataset


def _with_member_dimension(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Give the dimension of several members its name; a single member is a forecast like any other."""
    found = [name for name, size in dataset.sizes.items() if str(name).lower() in MEMBERS and size > 1]
    if len(found) > 1:
        msg = f"{where}: has members along {' and '.join(map(str, found))}; select along one of them first"
        raise StoreError(msg)
    for name in found:
        # Members are told by their place, and named by their numbers where they have some.
        if name in dataset.variables and dataset[name].dtype.kind not in "iu":
            dataset = dataset.drop_vars([name])
        dataset = dataset.rename({name: MEMBER})
    return dataset


def _check_grid(dataset: xr.Dataset, where: str) -> None:
    missing = [name for name in GRID if name not in dataset.variables]
    if missing:
        held = ", ".join(map(str, dataset.variables))
        msg = f"{where}: its grid is unknown, for want of {' and '.join(missing)}; it holds {held}"
        raise StoreError(msg)
    latitude, longitude = (dataset[name] for name in GRID)
    for coordinate in (latitude, longitude):
        is_sound = coordinate.dtype.kind in "iuf" and bool(np.isfinite(coordinate.values).all())
        if not is_sound or coordinate.ndim not in (1, 2) or not coordinate.size:
            msg = f"{where}: {coordinate.name} must be finite numbers on one dimension or two; mend the file"
            raise StoreError(msg)
    if np.abs(latitude.values).max() > 90:
        msg = f"{where}: latitudes reach {np.abs(latitude.values).max():g}, 90 degrees at most are expected"
        raise StoreError(msg)
    same = latitude.dims == longitude.dims
    if latitude.ndim != longitude.ndim or (latitude.ndim == 2 and not same):
        msg = f"{where}: latitude lies on {latitude.dims}, longitude on {longitude.dims}; mend the file"
        raise StoreError(msg)


def _in_rows(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """Lay points that are listed one by one out in rows and columns, and give names like ``z_500`` their unit, hPa.

    Raises:
        StoreError: They are not those of a regular grid.
    """
    (points,) = dataset["latitude"].dims
    # Single precision has no more digits.
    latitude = np.round(dataset["latitude"].values.astype(np.float64), 4)
    longitude = np.round(dataset["longitude"].values.astype(np.float64) % 360, 4) % 360
    rows, columns = np.unique(latitude)[::-1], np.unique(longitude)
    order = np.lexsort((longitude, -latitude))
    shape = len(rows), len(columns)
    expected_latitude, expected_longitude = np.repeat(rows, shape[1]), np.tile(columns, shape[0])
    if not (
        np.array_equal(latitude[order], expected_latitude) and np.array_equal(longitude[order], expected_longitude)
    ):
        msg = (
            f"{where}: its {len(order)} points, on {shape[0]} latitudes and {shape[1]} longitudes, make no rows and "
            "columns, as those of a reduced Gaussian grid do not; interpolate the forecast to the store's grid first"
        )
        raise StoreError(msg)
    coordinates = {name: value for name, value in dataset.coords.items() if points not in value.dims}
    in_rows = xr.Dataset(coords={**coordinates, "latitude": rows, "longitude": columns}, attrs=dataset.attrs)
    for key, array in dataset.data_vars.items():
        if points not in array.dims:
            in_rows[key] = array.variable
            continue
        listed = array.variable.transpose(..., points).isel({points: order})
        data = listed.data.reshape(*listed.shape[:-1], *shape)
        found = _ON_LEVEL.fullmatch(str(key))
        is_on_level = found is not None and find(found[1], on_levels=True) is not None
        name = f"{key}hPa" if is_on_level else str(key)
        in_rows[name] = xr.Variable((*listed.dims[:-1], *GRID), data, array.attrs)
    return in_rows


def _states_start(variable: xr.DataArray) -> bool:
    if variable.attrs.get("standard_name") in ("forecast_reference_time", "forecast_period"):
        return True
    return str(variable.name).lower() in (*REFERENCES, *LEAD_DIMENSIONS)


def _reference(times: xr.DataArray) -> datetime | None:
    """Read the initial time that anemoi-inference writes as the reference of its times; None where it is none.

    Where the first state is of that moment, it may be the first prediction's as well, so that nothing is stated.
    """
    found = _REFERENCE.fullmatch(str(times.encoding.get("units", "")))
    if found is None or times.dtype.kind != "M" or times.ndim != 1 or not times.size:
        return None
    try:
        reference = datetime.fromisoformat(found[1].strip())
    except ValueError:
        return None
    leads = (times.values - np.datetime64(reference, "s")) / np.timedelta64(3600, "s")
    if leads.min() <= 0 or leads.max() > _LONGEST_LEAD:
        return None
    return reference.replace(tzinfo=UTC)
