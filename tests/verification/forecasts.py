"""One small forecast in the layouts that files come in, with the store that it is compared with."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.store.reader import Store
from kit.data.variables import Variable, lookup
from kit.forecasting.writing import ForecastLayout, writing
from tests.factories import synthetic_store

LONG_NAMES = {
    "2t": "2m_temperature",
    "10u": "10m_u_component_of_wind",
    "10v": "10m_v_component_of_wind",
    "msl": "mean_sea_level_pressure",
    "tp": "total_precipitation_6hr",
    "z": "geopotential",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
    "t": "temperature",
    "q": "specific_humidity",
}
"""WeatherBench 2's names."""
STEPS = 4


def variable_of(store: Store, name: str) -> Variable:
    """Look a variable of a store up in the table."""
    found = lookup(name, "surface" if name in store.surface else "atmospheric")
    assert found is not None
    return found


@dataclass(frozen=True)
class Forecast:
    """Made-up forecasts from some states of a store, 6 to 24 hours ahead.

    Attributes:
        store: Store that holds the states that came.
        starts: Initial times, UTC.
        fields: Values by variable: [N, S, H, W] and [N, S, C, H, W] of N starts and S steps; of an ensemble, with the
            members first, [M, N, S, ...].
        rows: Rows that ``own`` writes.
        columns: Columns that it writes.
    """

    store: Store
    starts: list[datetime]
    fields: dict[str, npt.NDArray[np.float32]]
    rows: slice = field(default_factory=lambda: slice(None))
    columns: slice = field(default_factory=lambda: slice(None))

    @property
    def members(self) -> int:
        """Number of members; 0 of a single forecast."""
        name, values = next(iter(self.fields.items()))
        return len(values) if values.ndim - (name in self.store.atmospheric) == 5 else 0

    def own(self, path: Path) -> Path:
        """Write it as ``kit forecast`` does, on some rows and columns."""
        store = self.store
        described: dict[str, dict[str, Any]] = {}
        for name in self.fields:
            described[name] = {**variable_of(store, name).attributes()}
        if "tp" in described:
            described["tp"]["accumulation_hours"] = 6
        layout = ForecastLayout(
            surface={name: described[name] for name in store.surface},
            atmospheric={name: described[name] for name in store.atmospheric},
            levels=store.levels,
            latitude=store.latitude[self.rows],
            longitude=store.longitude[self.columns],
            starts=self.starts,
            timestep=timedelta(hours=6),
            steps=STEPS,
            members=self.members,
        )
        with writing(path, layout) as writer:
            for name, values in self.fields.items():
                for index in np.ndindex(values.shape[: 3 if self.members else 2]):
                    writer.write(name, index, values[(*index, ..., self.rows, self.columns)])
        return path

    def weatherbench(self) -> xr.Dataset:
        """Return it in WeatherBench 2's layout, latitudes increasing and after longitudes."""
        data: dict[str, Any] = {}
        for name, values in self.fields.items():
            turned = np.swapaxes(values, -1, -2)[..., ::-1]
            level = ("level",) if name in self.store.atmospheric else ()
            member = ("number",) if self.members else ()
            dimensions = (*member, "time", "prediction_timedelta", *level, "longitude", "latitude")
            data[LONG_NAMES[name]] = (dimensions, turned, {"units": variable_of(self.store, name).units})
        coordinates = {
            "time": np.array([start.replace(tzinfo=None) for start in self.starts], dtype="datetime64[ns]"),
            "prediction_timedelta": (np.arange(1, STEPS + 1) * np.timedelta64(6, "h")).astype("timedelta64[ns]"),
            "level": np.array(self.store.levels),
            "latitude": self.store.latitude[::-1],
            "longitude": self.store.longitude,
        }
        return xr.Dataset(data, coordinates)

    def anemoi(self, path: Path, *, reference: str | None = None, first: int = 1) -> Path:
        """Write the forecast of the first start as anemoi-inference's ``outputs/netcdf.py`` does.

        Args:
            path: File to write.
            reference: Reference of the times; by default the start.
            first: Steps from the reference to the first state.
        """
        store = self.store
        latitude, longitude = np.meshgrid(store.latitude, store.longitude, indexing="ij")
        with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
            file.createDimension("values", latitude.size)
            file.createDimension("time", STEPS)
            time = file.createVariable("time", "i4", ("time",))
            time.units = f"seconds since {reference or self.starts[0].replace(tzinfo=None)}"
            time.calendar = "gregorian"
            time[:] = 21600 * np.arange(first, first + STEPS)
            for key, degrees, units in (
                ("latitude", latitude, "degrees_north"),
                ("longitude", longitude, "degrees_east"),
            ):
                coordinate = file.createVariable(key, "f4", ("values",))
                coordinate.units = units
                coordinate[:] = degrees.ravel()
            for name, values in self.fields.items():
                listed: dict[str, npt.NDArray[np.float32]] = {name: values[0]}
                if name in store.atmospheric:
                    listed = {f"{name}_{level}": values[0, :, at] for at, level in enumerate(store.levels)}
                for key, points in listed.items():
                    file.createVariable(key, "f4", ("time", "values"))[:] = points.reshape(STEPS, -1)
        return path


def forecast_for(folder: Path, *, starts: int = 2, **options: Any) -> Forecast:
    """Build a store, and make forecasts of its states that are wrong by some noise."""
    chosen: dict[str, Any] = {"surface": ("2t", "10u", "10v", "msl", "tp"), "times": 12, "height": 8, "width": 16}
    store = synthetic_store(folder / "store", **(chosen | options))
    random = np.random.default_rng(1)
    fields = {}
    for name in (*store.surface, *store.atmospheric):
        states = store.read(name, slice(None))
        came = np.stack([states[start + 1 : start + 1 + STEPS] for start in range(starts)])
        fields[name] = (came + states.std() / 10 * random.standard_normal(came.shape)).astype(np.float32)
    times = [moment.replace(tzinfo=UTC) for moment in store.times[:starts].tolist()]
    return Forecast(store, times, fields)


def ensemble_for(folder: Path, *, members: int = 4, spread: float = 1.0, starts: int = 2, **options: Any) -> Forecast:
    """Build a store, and make an ensemble whose members differ from an unknown centre as what came does.

    Args:
        folder: Folder for the store.
        members: Number of members.
        spread: Size of the members' differences from the centre; 1 for that of what came.
        starts: Number of start dates.
        options: Options of the store.
    """
    single = forecast_for(folder, starts=starts, **options)
    random = np.random.default_rng(2)
    fields = {}
    for name, centre in single.fields.items():
        noise = single.store.read(name, slice(None)).std() / 10 * random.standard_normal((members, *centre.shape))
        fields[name] = (centre + spread * noise).astype(np.float32)
    return replace(single, fields=fields)
