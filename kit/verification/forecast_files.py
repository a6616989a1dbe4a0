"""Forecasts in files, whoever made them, read one variable, start date and lead at a time.

Names, units, windows of accumulations, initial times and leads are those that the file states.
"""

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.products import Window, product_of_attributes
from kit.data.sources.dates import check_are_dates
from kit.data.sources.leads import LEAD, MOVED, WINDOW, split_by_lead
from kit.data.sources.netcdf_files import UNREADABLE
from kit.data.sources.stated_windows import WindowRules, with_window
from kit.data.sources.zarr.retry_store import AbsentChunkError
from kit.data.store.format import GRID
from kit.data.store.reader import Store
from kit.io.errors import KitError, StoreError
from kit.verification.forecast_arrays import FieldArray, find_arrays
from kit.verification.forecast_layouts import MEMBER, grid_of, open_layout

_logger = logging.getLogger(__name__)

Float64 = npt.NDArray[np.float64]
Moment = tuple[datetime, float]
"""Initial time, UTC, and lead in hours."""

_POSITION = "position along "
"""Beginning of the names under which positions travel through ``split_by_lead``."""
_DAMAGED = (*UNREADABLE, zlib.error, EOFError, ArithmeticError, IndexError)


@dataclass(frozen=True)
class ForecastFile:
    """A forecast that is open for reading.

    Attributes:
        path: File or folder.
        dataset: Its arrays, lazy.
        arrays: Arrays of each variable, by the store's name.
        moments: Positions of each state along the file's dimensions of time, by initial time and lead; what has the
            lead 0 is no forecast, and left out.
        windows: Hours over which each accumulated variable adds up, by name.
    """

    path: Path
    dataset: xr.Dataset
    arrays: Mapping[str, Sequence[FieldArray]]
    moments: Mapping[Moment, Mapping[str, int]]
    windows: Mapping[str, frozenset[float]]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the whole file."""
        return dict(self.dataset.attrs)

    @property
    def members(self) -> int:
        """Number of members of an ensemble; 0 of a single forecast."""
        return int(self.dataset.sizes.get(MEMBER, 0))

    @property
    def coordinates(self) -> tuple[Float64, Float64]:
        """Latitudes and longitudes in the file's order, degrees: [H] and [W], or both [H, W]."""
        latitude, longitude = (np.asarray(self.dataset[name].values, dtype=np.float64) for name in GRID)
        return latitude, longitude

    def levels(self, name: str) -> tuple[float, ...]:
        """Pressures in hPa on which the file has a variable, increasing; empty at the surface."""
        return tuple(sorted(level for array in self.arrays[name] for level in array.levels))

    def read(self, name: str, moment: Moment, levels: Sequence[float]) -> npt.NDArray[np.float32]:
        """Read one state of a variable.

        Args:
            name: The store's name of it.
            moment: Initial time and lead.
            levels: Pressures in hPa, in the order that is wanted; without effect at the surface.

        Returns:
            Values in the store's units, [H, W], or [C, H, W] with NaN on levels that the file lacks.

        Raises:
            StoreError: The file is damaged there.
        """
        arrays = self.arrays[name]
        if not arrays[0].levels:
            return self._state(arrays[0], moment)
        found: npt.NDArray[np.float32] | None = None
        for array in arrays:
            values = self._state(array, moment)
            values = values.reshape(len(array.levels), *values.shape[-2:])
            if found is None:
                found = np.full((len(levels), *values.shape[1:]), np.nan, dtype=np.float32)
            for position, level in enumerate(array.levels):
                if level in levels:
                    found[levels.index(level)] = values[position]
        assert found is not None, "a variable has an array"
        return found

    def read_members(self, name: str, moment: Moment, level: float | None = None) -> npt.NDArray[np.float32]:
        """Read one state of a variable of all members, at the surface or on one level.

        Args:
            name: The store's name of it.
            moment: Initial time and lead.
            level: Pressure in hPa, which the file has; None at the surface.

        Returns:
            Values in the store's units, [M, H, W].
        """
        if level is None:
            return self._state(self.arrays[name][0], moment)
        return self.read_levels(name, moment, [level])[0]

    def read_levels(self, name: str, moment: Moment, levels: Sequence[float]) -> list[npt.NDArray[np.float32]]:
        """Read one state of a variable of all members on some levels, each chunk of the file once.

        Args:
            name: The store's name of it.
            moment: Initial time and lead.
            levels: Pressures in hPa, in the order that is wanted, all of which the file has.

        Returns:
            Values of each level in the store's units, [M, H, W].
        """
        found: dict[float, npt.NDArray[np.float32]] = {}
        for array in self.arrays[name]:
            held = [level for level in levels if level in array.levels]
            if not held:
                continue
            if "level" not in self.dataset[array.source].dims:
                found[held[0]] = self._state(array, moment)
                continue
            values = self._state(array, moment, {"level": [array.levels.index(level) for level in held]})
            found |= {level: values[:, position] for position, level in enumerate(held)}
        return [found[level] for level in levels]

    def _state(
        self, array: FieldArray, moment: Moment, place: Mapping[str, list[int]] | None = None
    ) -> npt.NDArray[np.float32]:
        """Read one array's values of a moment: [H, W] or [C, H, W], of all members [M, H, W]."""
        variable = self.dataset[array.source].variable.isel(place or {})
        kept = (MEMBER, "level", *grid_of(self.dataset))
        places = self.moments[moment]
        state = variable.isel({name: places.get(str(name), 0) for name in variable.dims if name not in kept})
        try:
            values = np.asarray(state.transpose(*(name for name in kept if name in state.dims)).values)
        except AbsentChunkError as error:
            msg = f"{error}; the forecast is damaged: fetch it again"
            raise StoreError(msg) from error
        except KitError:
            raise
        except _DAMAGED as error:
            start, lead = moment
            what = f"{self.path}: {array.source} of {start:%Y-%m-%dT%H:%M} + {lead:g} h"
            msg = f"{what} cannot be read ({type(error).__name__}: {error}); fetch the file again"
            raise StoreError(msg) from error
        if array.change is not None:
            # In double precision, then rounded once, as stores are built.
            values = values.astype(np.float64) * array.change[0] + array.change[1]
        return values.astype(np.float32)


@contextmanager
def open_forecast(
    path: Path,
    store: Store,
    variables: Sequence[str] | None = None,
    start: datetime | None = None,
    windows: Mapping[str, Window] | None = None,
) -> Iterator[ForecastFile]:
    """Open a forecast: NetCDF, or a Zarr folder.

    Args:
        path: File or folder.
        store: Store that it is compared with; variables that it lacks are left out.
        variables: The store's names of those that are wanted; all by default.
        start: Initial time, UTC, of a file that states none.
        windows: Hours over which accumulated variables add up, where the file does not say.

    Raises:
        StoreError: It is damaged, of another layout, or states too little to be compared.
    """
    with open_layout(path, start) as dataset:
        arrays = find_arrays(dataset, store, variables, str(path))
        moments, held = _find_moments(dataset, arrays, dict(windows or {}), str(path))
        yield ForecastFile(path, dataset, arrays, moments, held)


def _find_moments(
    dataset: xr.Dataset, arrays: Mapping[str, Sequence[FieldArray]], windows: dict[str, Window], where: str
) -> tuple[dict[Moment, dict[str, int]], dict[str, frozenset[float]]]:
    """Find initial times and leads of all states, and the windows of what is accumulated."""
    kept = (MEMBER, "level", *grid_of(dataset))
    sources = [array.source for held in arrays.values() for array in held]
    along = dict.fromkeys(str(name) for source in sources for name in dataset[source].dims if name not in kept)
    positions = {_POSITION + name: (name, np.arange(dataset.sizes[name])) for name in along}
    accumulated: dict[str, str] = {}
    for name, (first, *_) in arrays.items():
        if first.variable is not None and first.variable.accumulated:
            accumulated[first.source] = name
    unused = windows.keys() - accumulated.values()
    if unused:
        msg = f"{where}: --window {min(unused)} has no effect: no such accumulated variable is scored; leave it out"
        raise StoreError(msg)
    rules = WindowRules(windows, product_of_attributes(dataset.attrs))
    moments: dict[Moment, dict[str, int]] = {}
    held: dict[str, set[float]] = {name: set() for name in accumulated.values()}
    # Members share their times and windows.
    one_member = dataset.isel({MEMBER: 0}, drop=True) if MEMBER in dataset.dims else dataset
    for part in split_by_lead(one_member.assign(positions)[[*accumulated, *positions]], where):
        leads = _leads_of(part, where)
        valid = part["time"].values.astype("datetime64[s]")
        for index, lead in enumerate(leads.tolist()):
            start = valid[index] - np.timedelta64(round(lead * 3600), "s")
            moment = start.item().replace(tzinfo=UTC), round(lead, 6)
            if moment in moments:
                msg = f"{where}: the start {start} with the lead {lead:g} h is there twice; mend the file"
                raise StoreError(msg)
            moments[moment] = {name: _position(part[_POSITION + name], index, where) for name in along}
        for source, name in accumulated.items():
            if (leads > 0).any():
                held[name] |= _windows_of(part[source].isel(time=leads > 0), name, arrays[name][0], rules, where)
    forecasts = {moment: place for moment, place in moments.items() if moment[1] > 0}
    if not forecasts:
        msg = f"{where}: holds no state of a lead above 0, so that there is no forecast to score"
        raise StoreError(msg)
    return forecasts, {name: frozenset(hours) for name, hours in held.items()}


def _leads_of(part: xr.Dataset, where: str) -> Float64:
    """Return the lead of each state in hours.

    Raises:
        StoreError: The file does not state them, or times that are none.
    """
    if LEAD not in part.coords:
        msg = (
            f"{where}: does not state from which initial time it forecasts; add a coordinate of initial times "
            "(standard_name forecast_reference_time) or of leads, or score it with kit evaluate --start TIME"
        )
        raise StoreError(msg)
    check_are_dates(part["time"], where)
    leads = np.asarray(part[LEAD].values, dtype=np.float64)
    if not np.isfinite(leads).all() or leads.min() < 0:
        msg = f"{where}: leads must be 0 h or more, found {leads.min():g} h; mend the file, or give another --start"
        raise StoreError(msg)
    return leads


def _position(along: xr.DataArray, index: int, where: str) -> int:
    """Return the position of a state along one of the file's dimensions."""
    if along.dims == ("time",):
        return int(along.values[index])
    if along.size > 1:
        name = str(along.name).removeprefix(_POSITION)
        msg = (
            f"{where}: has the dimension {name} of {along.size}, which is no initial time, lead, level, row or column; "
            "select along it first"
        )
        raise StoreError(msg)
    return int(along.values.ravel()[0])


def _windows_of(array: xr.DataArray, name: str, described: FieldArray, rules: WindowRules, where: str) -> set[float]:
    """Return the hours over which values add up."""
    try:
        windowed = with_window(array, name, described.variable, rules, where, _logger.info)
    except StoreError as error:
        msg = (
            f"{where}: {described.source} is accumulated, and the file does not say over which hours; say it with "
            f"--window {name}=6h (or since-start), or leave it out by naming others with --variables"
        )
        raise StoreError(msg) from error
    if MOVED in windowed.attrs:
        msg = f"{where}: {described.source} is stamped at the beginning of its hours, not at their end; mend the file"
        raise StoreError(msg)
    return set(np.asarray(windowed[WINDOW].values, dtype=np.float64).tolist())
