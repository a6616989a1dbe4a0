"""Forecasts on another grid than a store's, interpolated to its points where that is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.grid import Grid
from kit.data.sources.crop_regrid import Method, regridded
from kit.data.sources.target_grid import TargetGrid
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from kit.verification.same_grid import Float64, Positions, range_of

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OtherGrid:
    """Points of a store that a forecast on another grid is interpolated to.

    Attributes:
        grid: Part of the store's grid that the forecast covers.
        target: Points of this part, eastwards from Greenwich.
        order: Positions of the store's columns among these.
        rows: Positions of the forecast's rows, from north to south.
        columns: Positions of its columns, eastwards from Greenwich, each meridian once.
        latitude: Degrees north of these rows.
        longitude: Degrees east of these columns.
        method: Way of interpolation.
    """

    grid: Grid
    target: TargetGrid
    order: Positions
    rows: Positions
    columns: Positions
    latitude: Float64
    longitude: Float64
    method: Method

    def take(self, name: str, values: Float32) -> Float32:
        """Interpolate values of a variable, [..., H, W], to the store's points."""
        field = self._field(values.reshape(-1, *values.shape[-2:]))
        found = regridded({name: field}, self.target, self.method, lambda _: None)[0][name]
        # Across Greenwich the store's columns begin in the west.
        ordered = found.values[..., self.order]
        return np.asarray(ordered, dtype=np.float32).reshape(*values.shape[:-2], *ordered.shape[-2:])

    def described(self, names: list[str]) -> dict[str, Any]:
        """Say what is interpolated: from which points to which, and how each variable is."""
        field = self._field(np.zeros((1, self.rows.max() + 1, self.columns.max() + 1), dtype=np.float32))
        return regridded(dict.fromkeys(names, field), self.target, self.method, lambda _: None)[1]

    def _field(self, values: Float32) -> xr.DataArray:
        ordered = values[:, self.rows][:, :, self.columns]
        coordinates = {"latitude": self.latitude, "longitude": self.longitude}
        return xr.DataArray(ordered, dims=("state", "latitude", "longitude"), coords=coordinates)


def other_grid(path: Path, latitude: Float64, longitude: Float64, store: Store, method: Method) -> OtherGrid:
    """Find the points of a store that a forecast on another grid covers.

    Args:
        path: File of the forecast, for messages.
        latitude: Its latitudes in any order, degrees north, [H].
        longitude: Its longitudes in any order, degrees east, [W].
        store: Store that it is compared with.
        method: Way of interpolation; directions are taken from the nearest point in any case.

    Raises:
        StoreError: One of the grids is curvilinear, or they have too few points in common.
    """
    if latitude.ndim == 2 or store.curvilinear:
        msg = (
            f"--regrid_method: {path} and {store.path} must both lie on latitudes and longitudes; points of a "
            "curvilinear grid are no rows and columns: interpolate the forecast by a library such as xESMF first"
        )
        raise StoreError(msg)
    rows = np.argsort(-latitude)
    degrees, columns = np.unique(np.round(longitude % 360, 6) % 360, return_index=True)
    shape = (len(latitude), len(longitude))
    whole = TargetGrid(store.latitude, store.longitude, is_global=True, label=store.path.name)
    field = xr.DataArray(
        np.zeros((len(rows), len(columns))),
        dims=("latitude", "longitude"),
        coords={"latitude": latitude[rows], "longitude": degrees},
    )
    if min(shape) < 2:
        msg = f"--regrid_method: {path} has {shape[0]} x {shape[1]} points; two rows and columns are needed"
        raise StoreError(msg)
    target = whole.within(field)
    rows_held = range_of(np.isin(store.latitude, target.latitude))
    columns_held = range_of(np.isin(store.longitude, target.longitude))
    assert rows_held is not None, "points between others make a run of rows"
    assert columns_held is not None, "and of columns"
    grid = Grid(rows_held, columns_held, (0, 0))
    order = np.searchsorted(target.longitude, np.round(grid.longitude(store) % 360, 9))
    return OtherGrid(grid, target, order, rows, columns, latitude[rows], degrees, method)
