"""Other grids, only when asked: xarray-regrid brings fields to latitudes and longitudes of another spacing.

What a field is decides how. States (temperature, wind, pressure) are interpolated linearly between the four points
around. What is an amount on an area (precipitation and all that is accumulated, shares such as a land-sea mask or cloud
cover) is averaged over the new cells by the area that they share with the old ones, so that the sum over the globe
stays. Numbers of classes (soil types) and directions, of which no mean makes sense, are taken from the nearest point.

All is lazy, a state at a time. Longitudes go around the circle. A value is missing where any value that it is made of
is missing.

Dimension letters: H latitude, W longitude.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.circle import is_closed, western_edge
from kit.data.selection import Region, cropped, describe, with_context
from kit.data.settings import BuildSettings
from kit.data.sources.base import SourceData
from kit.data.sources.fields import Note, canonical_coordinates
from kit.data.store.format import STATIC_PREFIX
from kit.data.variables import Variable, lookup
from kit.io.errors import StoreError

__all__ = ["Method", "Target", "method_of", "regridded", "shaped", "wanted_region"]

Method = Literal["linear", "conservative", "nearest"]

_CLASSES = ("slt", "tvh", "tvl")
_DIRECTIONS = ("degree", "radian")
_DIGITS = 9
_GRID = ("latitude", "longitude")

Degrees = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """Points to bring fields to.

    Attributes:
        latitude: degrees north, decreasing, [H].
        longitude: degrees in [0, 360), increasing, [W].
        is_global: the whole globe at one spacing, of which a build takes what its data cover.
        told: where the grid is from.
    """

    latitude: Degrees
    longitude: Degrees
    is_global: bool
    told: str

    @classmethod
    def of_spacing(cls, spacing: float) -> Target:
        """The globe with both poles and Greenwich, as upstream's grids are: 0.4 degrees are 451 x 900 points.

        Raises:
            StoreError: the spacing does not divide 180 degrees.
        """
        rows = round(180 / spacing)
        if rows < 2 or abs(rows * spacing - 180) > 1e-6:
            msg = f"--regrid {spacing:g}: expected degrees that divide 180, such as 0.1, 0.25, 0.4 or 1.5"
            raise StoreError(msg)
        exact = 180 / rows
        return cls(
            np.round(90 - exact * np.arange(rows + 1), _DIGITS),
            np.round(exact * np.arange(2 * rows), _DIGITS),
            is_global=True,
            told=f"{exact:g} degrees",
        )

    @classmethod
    def like(cls, reference: str) -> Target:
        """The grid of a store or of a NetCDF file.

        Raises:
            StoreError: it cannot be read, or has no latitudes and longitudes.
        """
        path = Path(reference)
        if not path.exists():
            msg = f"--regrid_like {reference}: no such store or file"
            raise StoreError(msg)
        try:
            with xr.open_dataset(path, engine="zarr" if path.is_dir() else "netcdf4", decode_times=False) as opened:
                grid = canonical_coordinates(xr.Dataset(coords=_bare(opened)), reference, lambda _: None)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            msg = f"--regrid_like {reference}: has no latitudes and longitudes that can be read ({error})"
            raise StoreError(msg) from error
        latitude, longitude = (np.asarray(grid[name].values, dtype=np.float64) for name in _GRID)
        return cls(latitude, longitude, is_global=False, told=path.name)

    @property
    def spacing(self) -> float:
        """Degrees between neighbours."""
        return float(max(np.median(np.abs(np.diff(axis))) for axis in (self.latitude, self.longitude)))

    @property
    def margin(self) -> float:
        """Degrees around a region that its points may need."""
        return 2 * self.spacing + 1

    def within(self, field: xr.DataArray) -> Target:
        """The part of a global target that lies between the outermost points of a field."""
        if not self.is_global:
            return self
        latitude, eastwards = field["latitude"].values, _eastwards(field["longitude"].values)
        rows = (self.latitude <= latitude.max() + 1e-6) & (self.latitude >= latitude.min() - 1e-6)
        if _reaches_poles(latitude):
            rows[:] = True
        offset = np.round((self.longitude - eastwards[0]) % 360, _DIGITS) % 360
        columns = offset <= eastwards[-1] - eastwards[0] + 1e-6
        if is_closed(eastwards):
            columns[:] = True
        if rows.sum() < 2 or columns.sum() < 2:
            msg = f"--regrid to {self.told}: fewer than two points lie within the data; choose a finer grid"
            raise StoreError(msg)
        return Target(self.latitude[rows], self.longitude[columns], is_global=False, told=self.told)


def method_of(name: str, asked: Method | None) -> Method:
    """How a field is brought to another grid.

    Args:
        name: the store's, with the prefix of statics.
        asked: for all fields that can be averaged; None for what suits each.
    """
    variable = _known(name)
    no_mean = name.removeprefix(STATIC_PREFIX) in _CLASSES or (variable is not None and variable.units in _DIRECTIONS)
    if no_mean:
        return "nearest"
    if asked is not None or variable is None:
        return asked or "linear"
    is_share = (variable.low, variable.high, variable.units) == (0, 1, "1")
    return "conservative" if variable.accumulated or is_share else "linear"


def _known(name: str) -> Variable | None:
    if name.startswith(STATIC_PREFIX):
        return lookup(name.removeprefix(STATIC_PREFIX), "static")
    return lookup(name, "surface") or lookup(name, "atmospheric")


def regridded(
    fields: Mapping[str, xr.DataArray], target: Target, asked: Method | None, note: Note
) -> tuple[dict[str, xr.DataArray], dict[str, Any]]:
    """Bring fields to another grid, lazily.

    Args:
        fields: in the store's form, on one grid, by the store's names.
        target: the grid; of a global one, what the fields cover.
        asked: a method for all that can be averaged.
        note: is told what is done.

    Returns:
        The fields, and what is recorded: from, to, methods by name, the library and its version.

    Raises:
        StoreError: the fields lie on a curvilinear grid, or on too few points, or do not cover the target.
    """
    first = next(iter(fields.values()))
    if "latitude" not in first.dims:
        msg = (
            "--regrid has no way from a curvilinear grid to latitudes and longitudes: neighbours there are no rows and "
            "columns. Train on the grid as it is, or regrid the data by a library such as xESMF before"
        )
        raise StoreError(msg)
    part = target.within(first)
    _check_covered(first, part)
    sides = _described(first["latitude"].values, first["longitude"].values), _described(part.latitude, part.longitude)
    if _is_same(first, part):
        note(f"--regrid {target.told}: the data are on that grid already; left as they are")
        return dict(fields), {}
    methods = {name: method_of(name, asked) for name in fields}
    _tell(first, part, methods, sides, note)
    done = {name: _one(field, part, methods[name]) for name, field in fields.items()}
    library = f"xarray-regrid {importlib.metadata.version('xarray-regrid')}"
    return done, {"from": sides[0], "to": sides[1], "methods": methods, "library": library}


def _tell(
    field: xr.DataArray, target: Target, methods: Mapping[str, Method], sides: tuple[str, str], note: Note
) -> None:
    used = sorted(set(methods.values()))
    by_method = "; ".join(f"{kind}: {', '.join(n for n, m in methods.items() if m == kind)}" for kind in used)
    note(f"regridded from {sides[0]} to {sides[1]} ({by_method})")
    old = Target(field["latitude"].values, field["longitude"].values, is_global=False, told="").spacing
    if target.spacing < old - 1e-6:
        note(f"the new grid is finer than the data's ({old:g} degrees): it adds points and no detail")
    if target.spacing > 2 * old + 1e-6 and "linear" in used:
        note(
            f"linear interpolation from {old:g} to {target.spacing:g} degrees leaves points between unread; averages "
            "are taken with --regrid_method conservative"
        )


def _one(field: xr.DataArray, target: Target, method: Method) -> xr.DataArray:
    import xarray_regrid  # noqa: F401 - it registers the accessor

    # Eastwards without a jump, in double precision; then back into the store's order.
    eastwards = _eastwards(field["longitude"].values)
    order = np.argsort((eastwards % 360).round(_DIGITS), kind="stable")
    source = field.isel(longitude=np.argsort(order)).assign_coords(longitude=eastwards).astype(np.float64)
    columns = _eastwards(target.longitude)
    grid = xr.Dataset(coords={"latitude": target.latitude, "longitude": columns})
    accessor: Any = source.regrid
    if method == "conservative":
        result = _averaged(source, target.latitude, columns)
    else:
        result = accessor.linear(grid) if method == "linear" else accessor.nearest(grid)
    result = result.transpose(*field.dims).astype(np.float32)
    result = result.assign_coords(longitude=np.round(columns % 360, _DIGITS) % 360, latitude=target.latitude)
    result = result.sortby("longitude")
    result.attrs = dict(field.attrs)
    return result.rename(field.name)


def _averaged(source: xr.DataArray, latitude: Degrees, eastwards: Degrees) -> xr.DataArray:
    """Means over new cells by the area that they share with old ones.

    The library's own weights measure rows in degrees and correct them by the middle of each row: the global mean then
    changes by some 1e-6, and a row at a pole counts nothing. Here its overlaps are taken of the sines of the rows'
    edges, which are areas, and of edges around the circle.
    """
    from xarray_regrid import utils
    from xarray_regrid.methods import conservative

    north, south = np.sin(np.deg2rad(_edges(source["latitude"].values))), np.sin(np.deg2rad(_edges(latitude)))
    rows = _overlap(north[::-1], south[::-1])[::-1, ::-1]
    west, east = _edges(source["longitude"].values), _edges(eastwards)
    columns = np.sum([_overlap(west + turn, east) for turn in (-360, 0, 360)], axis=0)
    weights: dict[Any, xr.DataArray] = {
        axis: utils.create_dot_dataarray(utils.normalize_overlap(shared), axis, values, source[axis].values)
        for axis, shared, values in (("latitude", rows, latitude), ("longitude", columns, eastwards))
    }
    # A value is missing where any part of it is.
    averaged: xr.DataArray = conservative.apply_weights(source, weights, skipna=True, nan_threshold=0.0)
    return averaged


def _overlap(source_edges: Degrees, target_edges: Degrees) -> npt.NDArray[np.float64]:
    import pandas as pd
    from xarray_regrid import utils

    intervals = (pd.IntervalIndex.from_breaks(edges) for edges in (source_edges, target_edges))
    return np.asarray(utils.overlap(*intervals))


def _edges(centres: Degrees) -> Degrees:
    """Edges of cells: halfway between neighbours, and as far beyond the outer ones; rows end at the poles."""
    middle = (centres[1:] + centres[:-1]) / 2
    edges = np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
    return np.clip(edges, -90, 90) if centres[0] > centres[-1] else edges


def _eastwards(longitude: Degrees) -> Degrees:
    """Longitudes from the western edge of a box on, increasing, perhaps beyond 360."""
    edge = 0 if is_closed(longitude) else western_edge(longitude)
    return np.concatenate([longitude[edge:] - 360, longitude[:edge]]) if edge else np.asarray(longitude)


def _check_covered(field: xr.DataArray, target: Target) -> None:
    """Refuse points beyond the outermost of the data by more than the data's own spacing."""
    latitude, eastwards = field["latitude"].values, _eastwards(field["longitude"].values)
    if len(latitude) < 2 or len(eastwards) < 2:
        msg = f"--regrid: the data have {len(latitude)} x {len(eastwards)} points; two rows and columns are needed"
        raise StoreError(msg)
    rows = _reaches_poles(latitude) or (
        target.latitude.max() <= latitude.max() + 1e-6 and target.latitude.min() >= latitude.min() - 1e-6
    )
    offset = np.round((target.longitude - eastwards[0]) % 360, 6) % 360
    columns = is_closed(eastwards) or bool((offset <= eastwards[-1] - eastwards[0] + 1e-6).all())
    if not rows or not columns:
        msg = (
            f"--regrid to {target.told}: its points lie beyond the data's, {_described(latitude, eastwards)}; give "
            "data that cover it, or a smaller grid"
        )
        raise StoreError(msg)


def _reaches_poles(latitude: Degrees) -> bool:
    step = float(np.abs(np.diff(latitude)).max()) if len(latitude) > 1 else 0.0
    return bool(latitude.max() + step >= 90 and latitude.min() - step <= -90)


def _is_same(field: xr.DataArray, target: Target) -> bool:
    pairs = ((field["latitude"].values, target.latitude), (field["longitude"].values, target.longitude))
    return all(len(mine) == len(theirs) and np.abs(mine - theirs).max() < 1e-6 for mine, theirs in pairs)


def _described(latitude: Sequence[float] | Degrees, longitude: Sequence[float] | Degrees) -> str:
    rows, columns = np.asarray(latitude), np.asarray(longitude)
    return (
        f"{len(rows)} x {len(columns)} points {abs(rows[1] - rows[0]):g} degrees apart, {rows[0]:g} to {rows[-1]:g} "
        "degrees north"
    )


def _bare(dataset: xr.Dataset) -> dict[str, Any]:
    known = {str(name).lower(): name for name in dataset.variables}
    found: dict[str, Any] = {}
    for name, spellings in (("latitude", ("latitude", "lat")), ("longitude", ("longitude", "lon"))):
        key = next((known[spelling] for spelling in spellings if spelling in known), None)
        if key is not None:
            found[name] = (dataset[key].dims if dataset[key].ndim != 1 else (name,), dataset[key].values)
    return found


# The part of the globe that a build takes, on the grid that it wants: what the data give, cropped and regridded.


def wanted_region(settings: BuildSettings) -> Region | None:
    """What a source is asked for: the region, its halo, and what another grid needs around them.

    Raises:
        StoreError: there is no such grid.
    """
    target, region = _target(settings), settings.region
    if target is None:
        return None if region is None else with_context(region, settings.halo)
    if region is not None:
        return with_context(region, settings.halo + target.margin)
    if target.is_global or is_closed(target.longitude):
        return None
    edge = western_edge(target.longitude)
    corners = target.latitude.max(), target.longitude[edge], target.latitude.min(), target.longitude[edge - 1]
    north, west, south, east = map(float, corners)
    return with_context((north, west, south, east), target.margin)


def shaped(source: SourceData, settings: BuildSettings) -> SourceData:
    """Crop and regrid the fields of a source, lazily.

    Raises:
        StoreError: the region selects nothing; the fields cannot be brought to the grid.
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
    if settings.region is not None:
        inner = with_context(settings.region, settings.halo)
        fields = {name: cropped(field, inner, settings.path) for name, field in fields.items()}
        describe(next(iter(fields.values())), settings.region, settings.halo, notes.append)
    return replace(source, fields=fields, notes=tuple(notes), regridding=facts)


def _target(settings: BuildSettings) -> Target | None:
    if settings.regrid is not None:
        return Target.of_spacing(settings.regrid)
    return None if settings.regrid_like is None else Target.like(settings.regrid_like)


def _check_margin(field: xr.DataArray, target: Target) -> None:
    """Refuse data so coarse that what was taken around the region does not reach the next of their points."""
    axes = [field[name].values for name in ("latitude", "longitude") if field[name].ndim == 1]
    spacing = max((float(np.median(np.abs(np.diff(axis)))) for axis in axes if len(axis) > 1), default=0.0)
    if spacing + target.spacing / 2 > target.margin:
        msg = (
            f"--region with --regrid to {target.told}: the data are {spacing:g} degrees apart, and only "
            f"{target.margin:g} degrees around the region were taken to fill it; regrid without --region, and take the "
            "region in training (data.region)"
        )
        raise StoreError(msg)
