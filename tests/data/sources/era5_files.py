"""NetCDF files in the forms in which the CDS has delivered ERA5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

__all__ = ["new_form", "old_form", "write"]

LATITUDE = np.array([50.5, 50.25, 50.0])
LONGITUDE = np.array([5.0, 5.25, 5.5, 5.75])


def _values(shape: tuple[int, ...], base: float) -> Any:
    return base + np.arange(np.prod(shape), dtype=np.float64).reshape(shape) / 100


def new_form(
    names: tuple[str, ...] = ("t2m", "u10"),
    *,
    levels: tuple[float, ...] = (),
    times: int = 4,
    start: str = "2020-01-01",
) -> xr.Dataset:
    """``valid_time``, ``pressure_level``, scalar ``number``, ``expver`` as text along the times."""
    moments = pd.date_range(start, periods=times, freq="1h").values.astype("datetime64[ns]")
    dims = ("valid_time", *(("pressure_level",) if levels else ()), "latitude", "longitude")
    coords: dict[str, Any] = {
        "valid_time": moments,
        "latitude": LATITUDE,
        "longitude": LONGITUDE,
        "number": 0,
        "expver": ("valid_time", ["0001"] * times),
    }
    if levels:
        coords["pressure_level"] = ("pressure_level", np.array(levels), {"units": "hPa"})
    sizes = {"valid_time": times, "pressure_level": len(levels), "latitude": 3, "longitude": 4}
    shape = tuple(sizes[dim] for dim in dims)
    units = {"t2m": "K", "t": "K", "tp": "m", "lsm": "(0 - 1)", "z": "m**2 s**-2", "msl": "Pa", "q": "kg kg**-1"}
    data = {
        name: (dims, _values(shape, 100.0 * (index + 1)).astype(np.float32), {"units": units.get(name, "m s**-1")})
        for index, name in enumerate(names)
    }
    return xr.Dataset(data, coords=coords)


def old_form(names: tuple[str, ...] = ("t2m", "u10"), **options: Any) -> xr.Dataset:
    """``time`` and ``level``, in millibars, and nothing else."""
    dataset = new_form(names, **options).drop_vars(["number", "expver"])
    renames = {"valid_time": "time", "pressure_level": "level"}
    dataset = dataset.rename({old: new for old, new in renames.items() if old in dataset.dims})
    if "level" in dataset.coords:
        dataset["level"] = dataset["level"].astype(np.int32).assign_attrs(units="millibars")
    return dataset


def write(dataset: xr.Dataset, path: Path, *, packed: bool = False, form: Any = "NETCDF4") -> Path:
    """Write a dataset; ``packed`` into 16 bits with a fill value, as the old CDS did."""
    packing = {"dtype": "int16", "scale_factor": 0.002, "add_offset": 150.0, "_FillValue": -32767}
    encoding: Any = {str(name): dict(packing) for name in dataset.data_vars} if packed else {}
    dataset.to_netcdf(path, engine="netcdf4", format=form, encoding=encoding)
    return path
