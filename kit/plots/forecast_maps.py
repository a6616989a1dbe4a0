"""Maps of a forecast that ``kit forecast`` wrote, beside what came where a store has it.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.data.sources.netcdf_files import UNREADABLE
from kit.data.store.build import open_store
from kit.data.store.format import GRID
from kit.data.store.reader import Store
from kit.io.errors import KitError, SettingsError, StoreError
from kit.plots.map_grid import MapGrid
from kit.plots.map_series import MapAlbum, MapSeries, channel_of, chosen_channels, chosen_starts
from kit.plots.maps import MapFrame, MapSetting
from kit.plots.settings import PlotSettings
from kit.verification.forecast_layouts import MEMBER, open_layout
from kit.verification.same_grid import SharedGrid, shared_grid

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]

FORECAST, PERSISTENCE = "Forecast", "Persistence"
_DIMENSIONS = ("time", "lead_time")


@dataclass(frozen=True)
class Analyses:
    """What came, on the points of a forecast.

    Attributes:
        store: Store that holds it.
        shared: Points that both have.
    """

    store: Store
    shared: SharedGrid

    def read(self, variable: str, level: float | None, moment: datetime) -> Array | None:
        """Read a field, [H, W]; None where the store does not have it."""
        store, grid = self.store, self.shared.grid
        places = np.flatnonzero(store.times == np.datetime64(moment.replace(tzinfo=None), "s"))
        known = store.surface if level is None else store.atmospheric
        if not places.size or variable not in known or (level is not None and level not in store.levels):
            return None
        levels = None if level is None else [store.levels.index(level)]
        state = np.empty(grid.chunk_slice(store, variable, int(places[0]), levels).shape, dtype=np.float32)
        grid.chunk_slice(store, variable, int(places[0]), levels).read(state)
        return state.reshape(state.shape[-2:])


class OpenForecast:
    """A forecast of the kit that is open for reading; ``members`` is 0 of a single one."""

    def __init__(self, path: Path, dataset: xr.Dataset) -> None:
        missing = [name for name in _DIMENSIONS if name not in dataset.dims or name not in dataset.coords]
        if missing:
            msg = (
                f"{path}: is no forecast of `kit forecast`, for want of the dimension {' and '.join(missing)}; it has "
                f"{', '.join(map(str, dataset.dims))}. Forecasts of others are scored with kit evaluate "
                "--forecast_file, and not drawn"
            )
            raise StoreError(msg)
        self.path, self.dataset = path, dataset
        self.members = int(dataset.sizes.get(MEMBER, 0))
        times, leads = dataset["time"], dataset["lead_time"]
        # The kit writes leads as whole or broken hours, and initial times with a calendar.
        if times.dtype.kind != "M" or leads.dtype.kind not in "iuf" or leads.attrs.get("units") != "hours":
            msg = f"{path}: expected times in time and hours in lead_time, as `kit forecast` writes them"
            raise StoreError(msg)
        seconds = times.values.astype("datetime64[s]").astype(np.int64)
        self.starts = [datetime.fromtimestamp(int(moment), tz=UTC) for moment in seconds]
        self.leads = leads.values.astype(np.float64).tolist()
        self.latitude, self.longitude = (np.asarray(dataset[name].values, dtype=np.float64) for name in GRID)
        self.grid = [str(dataset["latitude"].dims[0]), str(dataset["longitude"].dims[-1])]
        fields = {str(name): array for name, array in dataset.data_vars.items() if set(self.grid) <= set(array.dims)}
        self.surface = [name for name, array in fields.items() if "level" not in array.dims]
        self.atmospheric = [name for name in fields if name not in self.surface]
        self.levels = dataset["level"].values.tolist() if self.atmospheric else []

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

    def read(self, variable: str, level: float | None, start: int, lead: int, member: int = 0) -> Array:
        """Read a field, [H, W].

        Raises:
            StoreError: The file is damaged there.
        """
        place = {"time": start, "lead_time": lead}
        if level is not None:
            place["level"] = self.levels.index(level)
        if self.members:
            place[MEMBER] = member
        array = self.dataset[variable].isel(place)
        # A dimension of members that has one alone.
        array = array.isel({name: 0 for name in array.dims if name not in self.grid}).transpose(*self.grid)
        try:
            return np.asarray(array.values, dtype=np.float32)
        except KitError:
            raise
        except UNREADABLE as error:
            msg = f"{self.path}: {variable} cannot be read ({type(error).__name__}: {error}); make the forecast anew"
            raise StoreError(msg) from error


@contextmanager
def opened_forecast(path: Path) -> Iterator[OpenForecast]:
    """Open a forecast.

    Raises:
        StoreError: it is none of ``kit forecast``, or damaged.
    """
    with open_layout(path) as dataset:
        yield OpenForecast(path, dataset)


def forecast_maps(settings: PlotSettings) -> MapAlbum:
    """Read maps of a single forecast.

    Args:
        settings: File, store, channels, times and leads.

    Raises:
        KitError: the file is none of ``kit forecast``, is damaged, or does not fit the store or the settings.
    """
    assert settings.forecast_file is not None
    with opened_forecast(settings.forecast_file) as file:
        if file.members:
            msg = f"{file.path}: holds {file.members} members of an ensemble, and these maps are of a single forecast"
            raise StoreError(msg)
        channels = chosen_channels(settings.variables, file.surface, dict.fromkeys(file.atmospheric, file.levels))
        starts = chosen_starts(settings.time, settings.samples, file.starts, str(file.path))
        steps = file.chosen_steps(settings.steps)
        shown = range(steps) if settings.animate else range(steps - 1, steps)
        analyses = analyses_of(file, settings)
        series = []
        for start in starts:
            for name, variable, level in channels:
                frames = [_frame(file, analyses, variable, level, (start, lead)) for lead in shown]
                channel = channel_of(variable, level, file.dataset[variable].attrs)
                series.append(MapSeries(name, channel, file.starts[start], _alike(frames)))
        return MapAlbum(setting_of(file, analyses), series)


def analyses_of(file: OpenForecast, settings: PlotSettings) -> Analyses | None:
    """Open what came on the forecast's points; None where no store is named.

    Raises:
        StoreError: the store is on another grid, or has a part of the forecast's.
    """
    if settings.data.store is None:
        return None
    store = open_store(settings.data.store)
    shared = shared_grid(file.path, file.latitude, file.longitude, store)
    if (len(shared.rows), len(shared.columns)) != (len(file.latitude), file.longitude.shape[-1]):
        msg = f"{store.path}: has only a part of the forecast's grid; name a store that has all of it"
        raise StoreError(msg)
    return Analyses(store, shared)


def _frame(
    file: OpenForecast, analyses: Analyses | None, variable: str, level: float | None, place: tuple[int, int]
) -> MapFrame:
    """Read the fields of one initial time and lead, on the grid of the store where there is one."""
    start, lead = place
    hours = file.leads[lead]
    valid_time = file.starts[start] + timedelta(hours=hours)
    field_HW = file.read(variable, level, start, lead)
    if analyses is None:
        return MapFrame(valid_time, hours, {FORECAST: field_HW})
    # In the order of the store's rows and columns.
    field_HW = field_HW[np.ix_(analyses.shared.rows, analyses.shared.columns)]
    forecasts = {FORECAST: field_HW}
    last_HW = analyses.read(variable, level, file.starts[start])
    if last_HW is not None:
        forecasts[PERSISTENCE] = last_HW
    return MapFrame(valid_time, hours, forecasts, analyses.read(variable, level, valid_time))


def _alike(frames: list[MapFrame]) -> list[MapFrame]:
    """Give all frames the same maps: persistence is no forecast without a target to hold it against."""
    if all(frame.target is not None for frame in frames):
        return frames
    return [replace(frame, forecasts={FORECAST: frame.forecasts[FORECAST]}, target=None) for frame in frames]


def setting_of(file: OpenForecast, analyses: Analyses | None) -> MapSetting:
    """Describe the grid that is drawn: the store's points where there is one."""
    # NetCDF has no truth values.
    synthetic = str(file.dataset.attrs.get("synthetic", "")).lower() == "true"
    if analyses is None:
        return MapSetting(MapGrid.of(file.latitude, file.longitude), synthetic)
    store, grid = analyses.store, analyses.shared.grid
    mask_HW = grid.read_static(store, "lsm") if "lsm" in store.static else None
    return MapSetting(MapGrid.of(grid.latitude(store), grid.longitude(store)), synthetic, mask_HW)
