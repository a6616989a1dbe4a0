"""Small Zarr stores in the forms of public ones: ARCO-ERA5 and WeatherBench 2."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import xarray as xr

from tests.servers import Server

__all__ = ["LEVELS_13", "LEVELS_37", "arco", "serve", "serve_bucket", "weatherbench", "write"]

LEVELS_13 = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
LEVELS_37 = (
    1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 550, 600, 650, 700,
    750, 775, 800, 825, 850, 875, 900, 925, 950, 975, 1000,
)  # fmt: skip


def _values(*shape: int, base: float = 0.0) -> Any:
    return (base + np.random.default_rng(int(base)).random(shape)).astype(np.float32)


def arco(*, times: int = 8, levels: tuple[int, ...] = LEVELS_37, spacing: float = 30.0) -> xr.Dataset:
    """Hourly, long names, attributes of ARCO-ERA5; the last two times are allocated and not filled."""
    latitude, longitude = np.arange(90, -91, -spacing, dtype=np.float32), np.arange(0, 360, spacing, dtype=np.float32)
    rows, columns = len(latitude), len(longitude)
    surface, upper = ("time", "latitude", "longitude"), ("time", "level", "latitude", "longitude")
    data: dict[str, Any] = {
        "2m_temperature": (surface, _values(times, rows, columns, base=280), {"units": "K", "short_name": "t2m"}),
        "total_precipitation": (surface, _values(times, rows, columns) / 1000, {"units": "m", "short_name": "tp"}),
        "sea_surface_temperature": (surface, _values(times, rows, columns, base=290), {"units": "K"}),
        "temperature": (upper, _values(times, len(levels), rows, columns, base=250), {"units": "K"}),
        "geopotential": (upper, _values(times, len(levels), rows, columns, base=5000), {"units": "m**2 s**-2"}),
        "land_sea_mask": (surface, np.repeat(_values(1, rows, columns), times, axis=0), {"units": "(0 - 1)"}),
        "lake_ice_depth": (surface, _values(times, rows, columns), {"units": "m"}),
    }
    coords = {
        "time": pd.date_range("2020-01-01", periods=times, freq="1h").values.astype("datetime64[ns]"),
        "level": np.array(levels, dtype=np.int64),
        "latitude": latitude,
        "longitude": longitude,
    }
    dataset = xr.Dataset(data, coords, {"valid_time_start": "1940-01-01", "valid_time_stop": "2020-01-01T05"})
    for name, array in dataset.data_vars.items():
        if "time" in array.dims:
            dataset[name] = array.where(dataset["time"] < dataset["time"][-2]).assign_attrs(array.attrs)
    return dataset


def weatherbench(*, times: int = 10, shape: tuple[int, int] = (8, 16)) -> xr.Dataset:
    """6-hourly, 13 levels, longitudes before latitudes, which increase; precipitation of 6 and 24 hours."""
    rows, columns = shape
    latitude = np.linspace(-90 + 90 / rows, 90 - 90 / rows, rows)
    surface, upper = ("time", "longitude", "latitude"), ("time", "level", "longitude", "latitude")
    fixed = ("longitude", "latitude")
    data: dict[str, Any] = {
        name: (surface, _values(times, columns, rows, base=base), {"units": units})
        for name, base, units in (
            ("2m_temperature", 280, "K"),
            ("10m_u_component_of_wind", 3, "m s**-1"),
            ("10m_v_component_of_wind", 4, "m s**-1"),
            ("mean_sea_level_pressure", 100000, "Pa"),
        )
    }
    data |= {
        name: (upper, _values(times, 13, columns, rows, base=base), {"units": units})
        for name, base, units in (
            ("temperature", 250, "K"),
            ("u_component_of_wind", 5, "m s**-1"),
            ("v_component_of_wind", 6, "m s**-1"),
            ("specific_humidity", 0, "kg kg**-1"),
            ("geopotential", 5000, "m**2 s**-2"),
        )
    }
    data["specific_humidity"] = (upper, data["specific_humidity"][1] / 100, {"units": "kg kg**-1"})
    for hours in (6, 24):
        rain = _values(times, columns, rows) * hours / 1e4
        data[f"total_precipitation_{hours}hr"] = (surface, rain, {"units": "m", "short_name": f"tp{hours}"})
    data["geopotential_at_surface"] = (fixed, _values(columns, rows, base=100), {"units": "m**2 s**-2"})
    data["land_sea_mask"] = (fixed, _values(columns, rows), {"units": "(0 - 1)"})
    data["soil_type"] = (fixed, np.floor(7 * _values(columns, rows)), {"units": "~"})
    coords = {
        "time": pd.date_range("2020-01-01", periods=times, freq="6h").values.astype("datetime64[ns]"),
        "level": np.array(LEVELS_13),
        "latitude": latitude,
        "longitude": np.arange(columns) * 360 / columns,
    }
    return xr.Dataset(data, coords)


def write(dataset: xr.Dataset, path: Path, *, form: Any = 2, chunk: int = 1, consolidated: bool = True) -> Path:
    """Write a dataset with so many states in a chunk, as Zarr v2 packed by Blosc, or v3."""
    sizes = {str(name): array.shape for name, array in dataset.data_vars.items()}
    timed = [name for name in sizes if "time" in dataset[name].dims]
    encoding = {name: {"chunks": (chunk, *shape[1:]) if name in timed else shape} for name, shape in sizes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(path, zarr_format=form, consolidated=consolidated, encoding=encoding)
    return path


def serve(server: Server, folder: Path, at: str = "/store.zarr") -> str:
    """Put a store on a web server; returns its address."""
    for file in folder.rglob("*"):
        if file.is_file():
            server.put(f"{at}/{file.relative_to(folder)}", file.read_bytes())
    return server.url(at)


def serve_bucket(server: Server, folder: Path, bucket: str = "bucket", at: str = "era5/store.zarr") -> str:
    """Put a store into a bucket as Google's storage hands it out; returns its address."""
    for file in folder.rglob("*"):
        if file.is_file():
            server.put_object(bucket, f"{at}/{file.relative_to(folder)}", file.read_bytes())
    return f"gs://{bucket}/{quote(at)}"
