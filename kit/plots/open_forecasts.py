"""Forecasts in files that are open for drawing: the kit's own, and those of others beside a store of their variables.

Dimensions: M member, H latitude, W longitude.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.data.products import Window
from kit.data.sources.netcdf_files import UNREADABLE
from kit.data.store.build import open_store
from kit.data.store.format import GRID
from kit.data.store.reader import Store
from kit.io.errors import KitError, SettingsError, StoreError
from kit.verification.forecast_files import ForecastFile, open_forecast
from kit.verification.forecast_layouts import MEMBER, open_layout

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]

_DIMENSIONS = ("time", "lead_time")


class OpenForecast(ABC):
    """A forecast that is open for reading.

    Attributes:
        path: File or folder.
        members: Number of members; 0 of a single forecast.
        numbers: Number of each member, as the file counts them.
        starts: Initial times, UTC, in order.
        leads: Hours, in order, of which every initial time has a state.
        latitude: Degrees north in the file's order, [H] or [H, W].
        longitude: Degrees east, [W] or [H, W].
        surface: Variables at the surface.
        levels: Pressures in hPa of each variable that has some.
        synthetic: Whether values are a simulation's.
    """

    path: Path
    members: int
    numbers: Sequence[int]
    starts: Sequence[datetime]
    leads: Sequence[float]
    latitude: Array
    longitude: Array
    surface: Sequence[str]
    levels: Mapping[str, Sequence[float]]
    synthetic: bool

    @abstractmethod
    def attributes(self, variable: str) -> Mapping[str, Any]:
        """Return a variable's attributes: its units, and the hours that it adds up over."""

    @abstractmethod
    def read(self, variable: str, level: float | None, start: int, lead: int) -> Array:
        """Read a field, [H, W], or those of all members, [M, H, W].

        Raises:
            StoreError: The file is damaged there.
        """

    def chosen_steps(self, steps: int | None) -> int:
        """Return the number of leads that are drawn, all by default.

        Raises:
            SettingsError: there are fewer.
        """
        if steps is not None and steps > len(self.leads):
            msg = (
                f"steps: {self.path} has {len(self.leads)}, the last one {self.leads[-1]:g} h ahead; got {steps}; ask "
                "for no more, or make a longer forecast with kit forecast --steps"
            )
            raise SettingsError(msg)
        return steps or len(self.leads)


class OwnForecast(OpenForecast):
    """A forecast of ``kit forecast`` or ``kit ensemble``."""

    def __init__(self, path: Path, dataset: xr.Dataset) -> None:
        self.path, self._dataset = path, dataset
        self.members = int(dataset.sizes.get(MEMBER, 0))
        self.numbers = dataset[MEMBER].values.tolist() if self.members else []
        seconds = dataset["time"].values.astype("datetime64[s]").astype(np.int64)
        self.starts = [datetime.fromtimestamp(int(moment), tz=UTC) for moment in seconds]
        self.leads = dataset["lead_time"].values.astype(np.float64).tolist()
        self.latitude, self.longitude = (np.asarray(dataset[name].values, dtype=np.float64) for name in GRID)
        self._grid = [str(dataset["latitude"].dims[0]), str(dataset["longitude"].dims[-1])]
        fields = {str(name): array for name, array in dataset.data_vars.items() if set(self._grid) <= set(array.dims)}
        self.surface = [name for name, array in fields.items() if "level" not in array.dims]
        on_levels = [name for name in fields if name not in self.surface]
        self.levels = {name: dataset["level"].values.tolist() for name in on_levels}
        # NetCDF has no truth values.
        self.synthetic = str(dataset.attrs.get("synthetic", "")).lower() == "true"

    def attributes(self, variable: str) -> Mapping[str, Any]:
        """Return a variable's attributes in the file."""
        return dict(self._dataset[variable].attrs)

    def read(self, variable: str, level: float | None, start: int, lead: int) -> Array:
        """Read a field, [H, W], or those of all members, [M, H, W]."""
        place = {"time": start, "lead_time": lead}
        if level is not None:
            place["level"] = self.levels[variable].index(level)
        array = self._dataset[variable].isel(place)
        kept = [MEMBER, *self._grid] if self.members else self._grid
        # A dimension of members that has one alone.
        array = array.isel({name: 0 for name in array.dims if name not in kept}).transpose(*kept)
        try:
            return np.asarray(array.values, dtype=np.float32)
        except KitError:
            raise
        except UNREADABLE as error:
            msg = f"{self.path}: {variable} cannot be read ({type(error).__name__}: {error}); make the forecast anew"
            raise StoreError(msg) from error


class OthersForecast(OpenForecast):
    """A forecast of somebody else, in the names and units of a store."""

    def __init__(self, file: ForecastFile, store: Store) -> None:
        self.path, self._file, self._store = file.path, file, store
        self.members = file.members
        self.numbers = file.dataset[MEMBER].values.tolist() if MEMBER in file.dataset.coords else range(file.members)
        self.starts = sorted({start for start, _ in file.moments})
        leads_of_each = [{lead for start, lead in file.moments if start == one} for one in self.starts]
        self.leads = sorted(set.intersection(*leads_of_each))
        if not self.leads:
            msg = f"{file.path}: its initial times have no lead in common; choose some of them with another tool first"
            raise StoreError(msg)
        self.latitude, self.longitude = file.coordinates
        self.levels = {name: file.levels(name) for name in file.arrays if file.levels(name)}
        self.surface = [name for name in file.arrays if name not in self.levels]
        self.synthetic = bool(store.attributes.get("synthetic"))

    def attributes(self, variable: str) -> Mapping[str, Any]:
        """Return the units of the store, in which values are read, and the file's hours of accumulation."""
        known = self._file.arrays[variable][0].variable
        units = self._store.variable_attributes(variable).get("units", None if known is None else known.units)
        attributes = {"units": units}
        windows = self._file.windows.get(variable, frozenset())
        if len(windows) == 1:
            (attributes["accumulation_hours"],) = windows
        return attributes

    def read(self, variable: str, level: float | None, start: int, lead: int) -> Array:
        """Read a field, [H, W], or those of all members, [M, H, W]."""
        moment = (self.starts[start], self.leads[lead])
        if self.members:
            return self._file.read_members(variable, moment, level)
        levels = [] if level is None else [level]
        field = self._file.read(variable, moment, levels)
        return field.reshape(field.shape[-2:])


@contextmanager
def opened_forecast(
    path: Path, store: str | Path | None = None, windows: Mapping[str, Window] | None = None
) -> Iterator[OpenForecast]:
    """Open a forecast.

    Args:
        path: NetCDF, a Zarr folder, GRIB, or a folder of GRIB files.
        store: Store with the variables of a forecast of others; one of the kit needs none.
        windows: Hours over which accumulated variables add up, where a forecast of others does not say.

    Raises:
        SettingsError: it is the kit's, which says its windows, and some were given.
        StoreError: it is damaged, or of others and there is no store that it could be held against.
    """
    with open_layout(path) as dataset:
        if _is_own(dataset):
            if windows:
                msg = f"window: has no effect: {path} is a forecast of the kit, and says its windows; leave it out"
                raise SettingsError(msg)
            yield OwnForecast(path, dataset)
            return
        dimensions = ", ".join(map(str, dataset.dims))
    if store is None:
        msg = (
            f"{path}: is no forecast of `kit forecast`, which has times along time and hours along lead_time; it has "
            f"the dimensions {dimensions}. To draw one of others, name a store of its variables with --data.store"
        )
        raise StoreError(msg)
    opened = open_store(str(store))
    with open_forecast(path, opened, windows=windows) as file:
        yield OthersForecast(file, opened)


def _is_own(dataset: xr.Dataset) -> bool:
    """Decide whether the kit wrote a forecast: leads are whole or broken hours, and initial times have a calendar."""
    if not all(name in dataset.dims and name in dataset.coords for name in _DIMENSIONS):
        return False
    times, leads = (dataset[name] for name in _DIMENSIONS)
    return times.dtype.kind == "M" and leads.dtype.kind in "iuf" and leads.attrs.get("units") == "hours"
