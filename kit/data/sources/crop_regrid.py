"""Other grids, only when asked: xarray-regrid brings fields to latitudes and longitudes of another spacing.

What a field is decides how. States (temperature, wind, pressure) are interpolated linearly between the four points
around. What is an amount on an area (precipitation and all that is accumulated, shares such as a land-sea mask or cloud
cover) is averaged over the new cells by the area that they share with the old ones, so that the sum over the globe
stays. Numbers of classes (soil types) and directions, of which no mean makes sense, are taken from the nearest point.

All is lazy, a state at a time. Longitudes go around the circle. A value is missing where any value that it is made of
is missing.

Dimension letters: H latitude, W longitude.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.grid import distance_east, edges, from_western_edge, is_closed, spacing, western_edge
from kit.data.region import Region, cropped, with_context
from kit.data.settings import BuildSettings
from kit.data.sources.base import SourceData
from kit.data.sources.fields import Note
from kit.data.sources.target_grid import DIGITS, TINY, TargetGrid, points_described, same_points, spacing_of
from kit.data.store.format import GRID, STATIC_PREFIX
from kit.data.variables import lookup
from kit.io.errors import StoreError

Method = Literal["linear", "conservative", "nearest"]

# Types of soil, of high and of low vegetation.
_CLASSES = ("slt", "tvh", "tvl")
_DIRECTIONS = ("degree", "radian")
Degrees = npt.NDArray[np.float64]


def method_of(name: str, requested: Method | None) -> Method:
    """Choose how a field is brought to another grid.

    Args:
        name: Name in the store, with the prefix of statics.
        requested: Method for all fields that can be averaged; None for what suits each.
    """
    bare = name.removeprefix(STATIC_PREFIX)
    if name.startswith(STATIC_PREFIX):
        variable = lookup(bare, "static")
    else:
        variable = lookup(name, "surface") or lookup(name, "atmospheric")
    # No mean makes sense of these.
    if bare in _CLASSES or (variable is not None and variable.units in _DIRECTIONS):
        return "nearest"
    if requested is not None:
        return requested
    if variable is not None:
        # An amount or a share is averaged, so that its sum over the globe stays and no rain is negative.
        is_share = (variable.low, variable.high, variable.units) == (0, 1, "1")
        if variable.accumulated or is_share:
            return "conservative"
    return "linear"


def regridded(
    fields: Mapping[str, xr.DataArray], target: TargetGrid, requested: Method | None, note: Note
) -> tuple[dict[str, xr.DataArray], dict[str, Any]]:
    """Bring fields to another grid, lazily.

    Args:
        fields: Fields in the store's form, on one grid, by the store's names.
        target: Grid to bring them to; of a global one, what the fields cover.
        requested: Method for all fields that can be averaged.
        note: Takes what is done.

    Returns:
        The fields, and what is recorded: from, to, methods by name, the library and its version.

    Raises:
        StoreError: The fields lie on a curvilinear grid, or on too few points, or do not cover the target.
    """
    first = next(iter(fields.values()))
    if "latitude" not in first.dims:
        msg = (
            "--regrid has no way from a curvilinear grid to latitudes and longitudes: neighbours there are no rows and "
            "columns. Train on the grid as it is, or regrid the data by a library such as xESMF before"
        )
        raise StoreError(msg)
    target = target.within(first)
    latitude, longitude = first["latitude"].values, first["longitude"].values
    target.check_covered(latitude, longitude)
    before, after = points_described(latitude, longitude), points_described(target.latitude, target.longitude)
    if same_points(latitude, target.latitude) and same_points(longitude, target.longitude):
        note(f"--regrid {target.label}: the data are on that grid already; left as they are")
        return dict(fields), {}
    methods = {name: method_of(name, requested) for name in fields}
    by_method: dict[str, list[str]] = {}
    for name, method in methods.items():
        by_method.setdefault(method, []).append(name)
    listed = "; ".join(f"{method}: {', '.join(names)}" for method, names in sorted(by_method.items()))
    note(f"regridded from {before} to {after} ({listed})")
    old = spacing_of(latitude, longitude)
    if target.spacing < old - TINY:
        note(f"the new grid is finer than the data's ({old:g} degrees): it adds points and no detail")
    if target.spacing > 2 * old + TINY and "linear" in by_method:
        note(
            f"linear interpolation from {old:g} to {target.spacing:g} degrees leaves points between unread; averages "
            "are taken with --regrid_method conservative"
        )
    done = {name: _regrid(field, target, methods[name]) for name, field in fields.items()}
    library = f"xarray-regrid {importlib.metadata.version('xarray-regrid')}"
    return done, {"from": before, "to": after, "methods": methods, "library": library}


def _regrid(field: xr.DataArray, target: TargetGrid, method: Method) -> xr.DataArray:
    import xarray_regrid  # noqa: F401 - it registers the accessor

    # Eastwards without a jump, in double precision; then back into the store's order.
    eastwards = from_western_edge(field["longitude"].values)
    order = np.argsort((eastwards % 360).round(DIGITS), kind="stable")
    source = field.isel(longitude=np.argsort(order)).assign_coords(longitude=eastwards).astype(np.float64)
    columns = from_western_edge(target.longitude)
    grid = xr.Dataset(coords={"latitude": target.latitude, "longitude": columns})
    accessor: Any = source.regrid
    if method == "conservative":
        result = _averaged(source, target.latitude, columns)
    elif method == "linear":
        result = accessor.linear(grid)
    else:
        result = accessor.nearest(grid)
    result = result.transpose(*field.dims).astype(np.float32)
    result = result.assign_coords(longitude=np.round(columns % 360, DIGITS) % 360, latitude=target.latitude)
    result = result.sortby("longitude")
    result.attrs = dict(field.attrs)
    return result.rename(field.name)


def _averaged(source: xr.DataArray, latitude: Degrees, eastwards: Degrees) -> xr.DataArray:
    """Means over new cells by the area that they share with old ones.

    The library's own weights measure rows in degrees and correct them by the middle of each row: the global mean then
    changes by some 1e-6, and a row at a pole counts nothing. Here its overlaps are taken of the sines of the rows'
    edges, which are areas, and of edges around the circle.
    """
    import pandas as pd
    from xarray_regrid import utils
    from xarray_regrid.methods import conservative

    def overlap(source_edges: Degrees, target_edges: Degrees) -> Degrees:
        old, new = pd.IntervalIndex.from_breaks(source_edges), pd.IntervalIndex.from_breaks(target_edges)
        return np.asarray(utils.overlap(old, new))

    # No cell reaches beyond a pole. Intervals want increasing edges, rows decrease.
    old_rows = np.sin(np.deg2rad(np.clip(edges(source["latitude"].values), -90, 90)))
    new_rows = np.sin(np.deg2rad(np.clip(edges(latitude), -90, 90)))
    rows = overlap(old_rows[::-1], new_rows[::-1])[::-1, ::-1]
    old_columns, new_columns = edges(source["longitude"].values), edges(eastwards)
    columns = np.sum([overlap(old_columns + turn, new_columns) for turn in (-360, 0, 360)], axis=0)
    weights: dict[Any, xr.DataArray] = {}
    for axis, shared, values in (("latitude", rows, latitude), ("longitude", columns, eastwards)):
        normalized = utils.normalize_overlap(shared)
        weights[axis] = utils.create_dot_dataarray(normalized, axis, values, source[axis].values)
    # A value is missing where any part of it is.
    averaged: xr.DataArray = conservative.apply_weights(source, weights, skipna=True, nan_threshold=0.0)
    return averaged


# The part of the globe that a build takes, on the grid that it wants: what the data give, cropped and regridded.


def wanted_region(settings: BuildSettings) -> Region | None:
    """Find what a source is asked for: the region, its halo, and what another grid needs around them.

    Raises:
        StoreError: There is no such grid.
    """
    target = _target(settings)
    if settings.region is not None:
        margin = 0.0 if target is None else target.margin
        return with_context(settings.region, settings.halo + margin)
    if target is None or target.is_global or is_closed(target.longitude):
        return None
    edge = western_edge(target.longitude)
    north, south = float(target.latitude.max()), float(target.latitude.min())
    west, east = float(target.longitude[edge]), float(target.longitude[edge - 1])
    return with_context((north, west, south, east), target.margin)


def shaped(source: SourceData, settings: BuildSettings) -> SourceData:
    """Crop and regrid the fields of a source, lazily.

    Raises:
        StoreError: The region selects nothing; the fields cannot be brought to the grid.
    """
    region, target = wanted_region(settings), _target(settings)
    if not source.fields or (region is None and target is None):
        return source
    notes = list(source.notes)
    facts: dict[str, Any] = {}
    fields = {name: cropped(field, region, settings.path) for name, field in source.fields.items()}
    if target is not None:
        if settings.region is not None:
            _check_margin(next(iter(fields.values())), target)
        fields, facts = regridded(fields, target, settings.regrid_method, notes.append)
    # What was taken around the region for interpolation is cut off again.
    if settings.region is not None:
        inner = with_context(settings.region, settings.halo)
        fields = {name: cropped(field, inner, settings.path) for name, field in fields.items()}
        describe(next(iter(fields.values())), settings.region, settings.halo, notes.append)
    return replace(source, fields=fields, notes=tuple(notes), regridding=facts)


def _target(settings: BuildSettings) -> TargetGrid | None:
    if settings.regrid is not None:
        return TargetGrid.of_spacing(settings.regrid)
    if settings.regrid_like is not None:
        return TargetGrid.like(settings.regrid_like)
    return None


def _check_margin(field: xr.DataArray, target: TargetGrid) -> None:
    """Check that what was taken around the region reaches the next of the data's points."""
    apart = 0.0
    for name in GRID:
        axis = field[name].values
        if axis.ndim == 1 and len(axis) > 1:
            apart = max(apart, spacing(axis))
    if apart + target.spacing / 2 > target.margin:
        msg = (
            f"--region with --regrid to {target.label}: the data are {apart:g} degrees apart, and only "
            f"{target.margin:g} degrees around the region were taken to fill it; regrid without --region, and take the "
            "region in training (data.region)"
        )
        raise StoreError(msg)


def describe(field: xr.DataArray, region: Region, halo: float, note: Note) -> None:
    """Note which region was taken, and where the data end before it does.

    Args:
        field: Any field of the result.
        region: Region as it was asked for.
        halo: Degrees of context that were asked for.
        note: Takes the sentences.
    """
    latitude = np.asarray(field["latitude"].values, dtype=np.float64)
    eastwards = np.sort(np.asarray(field["longitude"].values, dtype=np.float64))
    around = f" with {halo:g} degrees around it" if halo else ""
    height, width = field.sizes[field.dims[-2]], field.sizes[field.dims[-1]]
    north, west, south, east = region
    note(f"region north {north:g}, west {west:g}, south {south:g}, east {east:g}{around}: {height} x {width}")
    if latitude.ndim == 2:
        return
    north, west, south, east = with_context(region, halo)
    between_rows, between_columns = spacing(latitude), spacing(eastwards)
    missing = [
        ("north", north - latitude.max(), between_rows),
        ("south", latitude.min() - south, between_rows),
    ]
    if not is_closed(eastwards):
        edge = western_edge(eastwards)
        missing += [
            ("west", distance_east(eastwards[edge], west), between_columns),
            ("east", (east - eastwards[edge - 1]) % 360, between_columns),
        ]
    for side, short, usual in missing:
        # Less than a spacing: no grid point is missing. More than half the circle: the data reach beyond the region.
        if usual - 1e-6 <= short < 180:
            note(f"the data end {round(float(short), 6):g} degrees short of the region{around} in the {side}")
