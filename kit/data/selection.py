"""What a build takes of the data's grid: a region with context around it, before any value is read.

A region goes eastwards from west to east, borders included, across Greenwich where west is the greater one; an east of
360 is the end of the circle. It means what ``data.region`` means of a store (``kit.data.grid``), in grid points instead
of patches.

Dimension letters: H latitude, W longitude, Y and X the rows and columns of a curvilinear grid.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.circle import is_closed, western_edge
from kit.data.sources.fields import Note
from kit.io.errors import StoreError

__all__ = ["Region", "cropped", "describe", "with_context"]

Region = tuple[float, float, float, float]
"""North, west, south, east in degrees, borders included."""
_DIGITS = 6
"""Of a distance in degrees; what is beyond is rounding."""

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def with_context(region: Region, degrees: float) -> Region:
    """A region and so many degrees around it, itself a region; the poles end it, and the circle is not passed twice."""
    if not degrees:
        return region
    north, west, south, east = region
    around = _span(west, east) + 2 * degrees
    rows = min(north + degrees, 90.0), max(south - degrees, -90.0)
    if around >= 360 - 10**-_DIGITS:
        return rows[0], 0.0, rows[1], 360.0
    west = round(west - degrees, _DIGITS) % 360
    # An east of 360 would leave Greenwich out.
    return rows[0], west, rows[1], round(west + around, _DIGITS) % 360


def cropped(data: Labelled, region: Region | None, where: str) -> Labelled:
    """The part of a dataset or field within a region, still lazy; of a curvilinear grid the smallest box around it.

    Args:
        data: with latitudes and longitudes in [0, 360), in the store's form or not; without them it stays as it is.
        region: context included; None for everything.
        where: name of the data, for messages.

    Raises:
        StoreError: the region selects nothing, or both ends of the data and not what is between them.
    """
    if region is None or not {"latitude", "longitude"} <= set(data.coords):
        return data
    latitude, longitude = (np.asarray(data[name].values, dtype=np.float64) for name in ("latitude", "longitude"))
    if latitude.ndim == 2:
        return _box(data, latitude, longitude, region, where)
    rows, columns = _rows(latitude, region), _columns(longitude, region)
    if not rows.any() or not columns.any():
        raise StoreError(_nothing(where, region, latitude, longitude))
    _in_one_piece(where, region, longitude, columns)
    taken = {"latitude": _indexer(rows), "longitude": _indexer(columns)}
    return data.isel({axis: index for axis, index in taken.items() if axis in data.dims})


def describe(field: xr.DataArray, region: Region, halo: float, note: Note) -> None:
    """Say which region was taken, and where the data end before it does.

    Args:
        field: any field of the result.
        region: as it was asked for.
        halo: degrees of context that were asked for.
        note: is told.
    """
    latitude, longitude = (np.asarray(field[name].values, dtype=np.float64) for name in ("latitude", "longitude"))
    around = f" with {halo:g} degrees around it" if halo else ""
    shape = " x ".join(str(field.sizes[axis]) for axis in field.dims[-2:])
    note(f"region north {region[0]:g}, west {region[1]:g}, south {region[2]:g}, east {region[3]:g}{around}: {shape}")
    if latitude.ndim == 2:
        return
    north, west, south, east = with_context(region, halo)
    spacing = float(np.median(np.abs(np.diff(latitude)))) if len(latitude) > 1 else 180.0
    missing = {"north": north - latitude.max(), "south": latitude.min() - south}
    if not is_closed(np.sort(longitude)):
        ordered = np.sort(longitude)
        edge = western_edge(ordered)
        missing["west"] = _east_of(ordered[edge], west)
        missing["east"] = (east - ordered[edge - 1]) % 360
    for side, short in missing.items():
        usual = spacing if side in ("north", "south") else _spacing(longitude)
        if usual - 10**-_DIGITS <= short < 180:
            note(f"the data end {round(float(short), _DIGITS):g} degrees short of the region{around} in the {side}")


def _rows(latitude: npt.NDArray[np.float64], region: Region) -> npt.NDArray[np.bool_]:
    north, _, south, _ = region
    degrees = np.round(latitude, _DIGITS)
    return np.asarray((degrees <= round(north, _DIGITS)) & (degrees >= round(south, _DIGITS)))


def _columns(longitude: npt.NDArray[np.float64], region: Region) -> npt.NDArray[np.bool_]:
    _, west, _, east = region
    span, offsets = _span(west, east), _east_of(longitude, west)
    return np.asarray(offsets < span if east > 0 and east % 360 == 0 else offsets <= span)


def _span(west: float, east: float) -> float:
    return round((east - west) % 360, _DIGITS) or 360.0


def _east_of(longitude: Any, west: float) -> Any:
    return np.round((longitude - west) % 360, _DIGITS) % 360


def _spacing(longitude: npt.NDArray[np.float64]) -> float:
    return float(np.median(np.diff(np.sort(longitude)))) if len(longitude) > 1 else 360.0


def _indexer(chosen: npt.NDArray[np.bool_]) -> slice | npt.NDArray[np.intp]:
    """Positions as a slice where they follow each other: a source then reads one piece."""
    positions = np.flatnonzero(chosen)
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions


def _in_one_piece(
    where: str, region: Region, longitude: npt.NDArray[np.float64], columns: npt.NDArray[np.bool_]
) -> None:
    order = np.argsort(longitude)
    eastwards, chosen = longitude[order], columns[order]
    if is_closed(eastwards):
        return
    chosen = np.roll(chosen, -western_edge(eastwards))
    if int(chosen[0]) + int((np.diff(chosen.astype(np.int8)) > 0).sum()) > 1:
        msg = (
            f"{where}: the region {region} (north, west, south, east) selects both ends of the data and not what is "
            f"between them; {_extent(eastwards)}. Choose one end"
        )
        raise StoreError(msg)


def _box(
    data: Labelled,
    latitude_YX: npt.NDArray[np.float64],
    longitude_YX: npt.NDArray[np.float64],
    region: Region,
    where: str,
) -> Labelled:
    inside = _rows(latitude_YX, region) & _columns(longitude_YX, region)
    if not inside.any():
        raise StoreError(_nothing(where, region, latitude_YX, longitude_YX))
    rows, columns = data["latitude"].dims
    taken = {rows: np.flatnonzero(inside.any(axis=1)), columns: np.flatnonzero(inside.any(axis=0))}
    return data.isel({axis: slice(int(found[0]), int(found[-1]) + 1) for axis, found in taken.items()})


def _nothing(where: str, region: Region, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64]) -> str:
    return (
        f"{where}: the region {region} (north, west, south, east) selects no grid point; the data hold "
        f"{latitude.max():g} to {latitude.min():g} degrees north, {_extent(np.unique(longitude))}"
    )


def _extent(eastwards: npt.NDArray[np.float64]) -> str:
    edge = 0 if is_closed(eastwards) else western_edge(eastwards)
    return f"{eastwards[edge]:g} to {eastwards[edge - 1]:g} degrees east"
