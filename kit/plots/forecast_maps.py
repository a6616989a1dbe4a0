"""Maps of a forecast in a file, beside what came where a store has it.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from kit.plots.map_grid import MapGrid
from kit.plots.map_series import MapAlbum, MapSeries, channel_of, chosen_channels, chosen_starts
from kit.plots.maps import MapFrame, MapSetting
from kit.plots.open_forecasts import Array, OpenForecast
from kit.plots.settings import PlotSettings
from kit.verification.same_grid import SharedGrid, shared_grid

if TYPE_CHECKING:
    pass

FORECAST, PERSISTENCE = "Forecast", "Persistence"


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


def forecast_maps(file: OpenForecast, settings: PlotSettings) -> MapAlbum:
    """Read maps of a single forecast.

    Args:
        file: The forecast.
        settings: Store, channels, times and leads.

    Raises:
        KitError: the file is damaged, or does not fit the store or the settings.
    """
    channels = chosen_channels(settings.variables, file.surface, file.levels)
    starts = chosen_starts(settings.time, settings.samples, file.starts, str(file.path))
    steps = file.chosen_steps(settings.steps)
    shown = range(steps) if settings.animate else range(steps - 1, steps)
    analyses = analyses_of(file, settings)
    series = []
    for start in starts:
        for name, variable, level in channels:
            frames = [_frame(file, analyses, variable, level, (start, lead)) for lead in shown]
            channel = channel_of(variable, level, file.attributes(variable))
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
    if analyses is None:
        return MapSetting(MapGrid.of(file.latitude, file.longitude), file.synthetic)
    store, grid = analyses.store, analyses.shared.grid
    mask_HW = grid.read_static(store, "lsm") if "lsm" in store.static else None
    return MapSetting(MapGrid.of(grid.latitude(store), grid.longitude(store)), file.synthetic, mask_HW)
