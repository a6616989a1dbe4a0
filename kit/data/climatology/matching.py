"""What of a climatology fits a store: variables by name, unit, window and levels, and the points of the grid."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data import source_names
from kit.data.store.format import GRID
from kit.data.store.reader import Store
from kit.data.units import canonical_units, conversion
from kit.data.variables import WIND_SPEEDS, lookup
from kit.io.errors import StoreError

Degrees = npt.NDArray[np.float64]

_APART = 1e-4
"""Degrees that two places of one point may differ by: coordinates in single precision do."""
_SPEEDS = {"10m_wind_speed": "10ws", "100m_wind_speed": "100ws", "wind_speed": "ws"}
"""WeatherBench 2's names of the wind's speed."""


@dataclass(frozen=True)
class Wanted:
    """What a climatology is wanted for.

    Attributes:
        store: Store whose states are compared with it.
        latitude: Degrees north, [H], or [H, W] on a curvilinear grid.
        longitude: Degrees east, [W] or [H, W].
        levels: Pressures in hPa.
        names: Variables by the store's names, and speeds of the wind.
    """

    store: Store
    latitude: Degrees
    longitude: Degrees
    levels: Sequence[float]
    names: Sequence[str]

    def source(self, name: str) -> str:
        """Return the variable of the store that a name stands for: of a speed the eastward wind."""
        return WIND_SPEEDS.get(name, (name,))[0]

    def window(self, name: str) -> Any:
        """Return the hours over which a variable is accumulated in the store; None of others."""
        return self.store.variable_attributes(self.source(name)).get("accumulation_hours")

    def is_on_levels(self, name: str) -> bool:
        """Whether a variable is one on levels."""
        return self.source(name) in self.store.atmospheric


@dataclass(frozen=True)
class Match:
    """An array of a climatology that is a variable of a store.

    Attributes:
        key: Name of the array.
        levels: Positions of the wanted levels; None at the surface.
        scale: Factor to the store's unit.
        offset: What is added to the product.
    """

    key: str
    levels: tuple[int, ...] | None
    scale: float
    offset: float


def match_names(dataset: xr.Dataset, wanted: Wanted) -> tuple[dict[str, Match], dict[str, str]]:
    """Find the array of each wanted variable.

    Returns:
        Arrays by the store's names; and what is wrong where there is none that fits, by the same.
    """
    found: dict[str, Match] = {}
    lacking: dict[str, str] = {}
    for name in wanted.names:
        lacking[name] = "is not in it"
        for key, array in dataset.data_vars.items():
            if not {"hour", "dayofyear"} <= set(array.dims) or not _is_called(key, array, name, wanted):
                continue
            match = _match(name, array, wanted)
            if isinstance(match, Match):
                found[name] = match
                del lacking[name]
                break
            lacking[name] = match
    return found, lacking


def _is_called(key: Hashable, array: xr.DataArray, name: str, wanted: Wanted) -> bool:
    """Whether an array is of a variable by its name: the store's own, or any that sources give it."""
    on_levels = "level" in array.dims
    if on_levels != wanted.is_on_levels(name):
        return False
    if key == name or _SPEEDS.get(str(key)) == name:
        return True
    variable = source_names.find(str(key), on_levels=on_levels)
    return variable is not None and variable.kind != "static" and variable.name == name


def _match(name: str, array: xr.DataArray, wanted: Wanted) -> Match | str:
    """Fit an array to a variable; returns what is wrong where it does not."""
    attributes = wanted.store.variable_attributes(wanted.source(name))
    window = wanted.window(name)
    theirs = array.attrs.get("accumulation_hours", source_names.window(str(array.name)))
    if window != theirs:
        return f"is of {_hours(theirs)}, and the store's of {_hours(window)}"
    levels = None
    if "level" in array.dims:
        held = array["level"].values.astype(np.float64).tolist()
        absent = [f"{level:g}" for level in wanted.levels if level not in held]
        if absent:
            return f"lacks {', '.join(absent)} hPa"
        levels = tuple(held.index(level) for level in wanted.levels)
    target, units = str(attributes.get("units", "")), str(array.attrs.get("units", ""))
    # WeatherBench 2 states no units of what it derived: speeds of the wind.
    if name in WIND_SPEEDS:
        target, units = "m s-1", units or "m s-1"
    known = lookup(name, "atmospheric" if levels is not None else "surface")
    try:
        factors = conversion(name, units, canonical_units(target), of_water=known is not None and known.is_water)
    except StoreError as error:
        return f"does not fit: {error}"
    scale, offset = factors or (1.0, 0.0)
    return Match(str(array.name), levels, scale, offset)


def _hours(window: Any) -> str:
    return "no stated window" if window is None else f"{window} h"


def select_grid(dataset: xr.Dataset, wanted: Wanted, place: str) -> Mapping[str, slice | npt.NDArray[np.intp]]:
    """Find the wanted points on the grid of a climatology.

    Returns:
        Positions along its dimensions of latitude and longitude, in this order.

    Raises:
        StoreError: they are none of its points.
    """
    if not set(GRID) <= set(dataset.coords):
        msg = f"{place}: has no coordinates latitude and longitude; it has {', '.join(map(str, dataset.coords))}"
        raise StoreError(msg)
    latitude, longitude = (dataset[name].values.astype(np.float64) for name in GRID)
    found = None
    if latitude.ndim == longitude.ndim == wanted.latitude.ndim == 1:
        places = _nearest(np.abs(latitude - wanted.latitude[:, None])), _nearest(_turned(longitude, wanted.longitude))
        if places[0] is not None and places[1] is not None:
            found = dict(zip(GRID, map(_run, places), strict=True))
    elif latitude.ndim == longitude.ndim == wanted.latitude.ndim == 2 and dataset["latitude"].dims:
        found = _part(dataset, latitude, longitude, wanted)
    if found is None:
        msg = (
            f"{place}: has another grid: {_described(latitude, longitude)}, and what is scored of {wanted.store.path} "
            f"is {_described(wanted.latitude, wanted.longitude)}; use a climatology on the grid of the store, such as "
            f"one that `kit data climatology` makes of such a store"
        )
        raise StoreError(msg)
    return found


def _turned(degrees: Degrees, wanted: Degrees) -> Degrees:
    """Measure distances along the circle, [wanted, held]."""
    return np.asarray(np.abs((degrees - wanted[:, None] + 180) % 360 - 180))


def _nearest(distance: Degrees) -> npt.NDArray[np.intp] | None:
    """Find the nearest of the second axis for each of the first; None if one is not the same point."""
    positions = np.asarray(distance.argmin(axis=1))
    if distance.min(axis=1).max() > _APART:
        return None
    return positions


def _run(positions: npt.NDArray[np.intp] | None) -> slice | npt.NDArray[np.intp]:
    """Write positions that follow each other as a slice, which is read in one piece."""
    assert positions is not None
    first, last = int(positions[0]), int(positions[-1])
    if np.array_equal(positions, np.arange(first, last + 1)):
        return slice(first, last + 1)
    return positions


def _part(
    dataset: xr.Dataset, latitude: Degrees, longitude: Degrees, wanted: Wanted
) -> dict[str, slice | npt.NDArray[np.intp]] | None:
    """Find a rectangle of points among the matrices of a curvilinear grid."""
    height, width = wanted.latitude.shape
    away = np.abs(latitude - wanted.latitude[0, 0]) + np.abs(_around(longitude - wanted.longitude[0, 0]))
    row, column = np.unravel_index(int(away.argmin()), latitude.shape)
    rows, columns = slice(int(row), int(row) + height), slice(int(column), int(column) + width)
    if latitude[rows, columns].shape != wanted.latitude.shape:
        return None
    apart = (
        np.abs(latitude[rows, columns] - wanted.latitude),
        np.abs(_around(longitude[rows, columns] - wanted.longitude)),
    )
    if max(apart[0].max(), apart[1].max()) > _APART:
        return None
    names = [str(name) for name in dataset["latitude"].dims]
    return dict(zip(names, (rows, columns), strict=True))


def _around(degrees: Degrees) -> Degrees:
    return np.asarray((degrees + 180) % 360 - 180)


def _described(latitude: Degrees, longitude: Degrees) -> str:
    """Describe a grid in words."""
    rows, columns = latitude.shape[0], longitude.shape[-1]
    kind = " (curvilinear)" if latitude.ndim == 2 else ""
    return (
        f"{rows} x {columns} points{kind}, {latitude.min():g} to {latitude.max():g} degrees north, "
        f"{longitude.min():g} to {longitude.max():g} degrees east"
    )
