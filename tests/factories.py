"""Small, seeded stand-ins for real data; every knob is a keyword."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from kit.checks.physics import standard_geopotential, standard_temperature
from kit.data.settings import Period
from kit.data.store.format import CURVILINEAR, GRID
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.models.transforms import PRECIPITATION

__all__ = ["LAMBERT", "as_matrices", "synthetic_dataset", "synthetic_store", "write_synthetic"]

LAMBERT: dict[str, Any] = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": 38.5,
    "latitude_of_projection_origin": 38.5,
    "longitude_of_central_meridian": 262.5,
    "earth_radius": 6371229.0,
}
"""HRRR's projection, as CF writes it."""

# Mean and standard deviation; anything not named here is standard normal.
_SCALES = {
    "2t": (280.0, 15.0),
    "2d": (275.0, 12.0),
    "10u": (0.0, 5.0),
    "10v": (0.0, 5.0),
    "msl": (101000.0, 1000.0),
    "sp": (98500.0, 1000.0),
    "q": (0.004, 0.001),
    "u": (5.0, 10.0),
    "v": (0.0, 8.0),
}


def _profile(name: str, level: float) -> tuple[float, float]:
    """Mean and standard deviation on a level; ``z`` varies so little that layers stay in hydrostatic balance."""
    if name == "t":
        return float(standard_temperature(level)), 10.0
    if name == "z":
        return float(standard_geopotential(level)), 50.0
    return _SCALES.get(name, (0.0, 1.0))


def synthetic_dataset(
    *,
    surface: Sequence[str] = ("2t", "10u", "10v", "msl"),
    atmospheric: Sequence[str] = ("t", "u", "v", "q", "z"),
    static: Sequence[str] = ("lsm", "slt", "z"),
    levels: Sequence[float] = (100, 500, 850),
    times: int = 12,
    step_hours: int = 6,
    start: str = "2020-01-01",
    height: int = 16,
    width: int = 32,
    box: tuple[float, float, float, float] | None = None,
    curvilinear: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """A dataset in the store's form: waves that travel east, with a little noise; of rain, what is above zero.

    Args:
        surface: surface variables.
        atmospheric: variables on levels.
        static: static variables without prefix.
        levels: hPa, increasing.
        times: number of states.
        step_hours: hours between states.
        start: first time, UTC.
        height: rows; row centres from pole to pole unless ``box`` is given.
        width: columns.
        box: north, west, south, east in degrees, edges included.
        curvilinear: on a Lambert grid over North America, 3200 km wide, with coordinates ``(y, x)``.
        seed: of everything random.
    """
    random = np.random.default_rng(seed)
    latitude, longitude = _grid(height, width, box)
    coords: dict[str, Any] = {
        "time": pd.date_range(start, periods=times, freq=f"{step_hours}h").values.astype("datetime64[ns]"),
        "latitude": latitude,
        "longitude": longitude,
    }
    if curvilinear:
        coords |= {name: (("y", "x"), values) for name, values in zip(GRID, _lambert(height, width), strict=True)}
    grid = CURVILINEAR if curvilinear else GRID
    data: dict[str, Any] = {}
    for name in surface:
        values = _waves(random, name, times, (), height, width)
        attributes = {}
        if name in PRECIPITATION:
            values, attributes = np.maximum(1e-3 * values, 0), {"accumulation_hours": step_hours}
        data[name] = (("time", *grid), values, attributes)
    for name in atmospheric:
        coords["level"] = np.asarray(levels, dtype=np.float64)
        values = _waves(random, name, times, tuple(levels), height, width)
        data[name] = (("time", "level", *grid), values)
    land = _shape(random, 1, 0, height, width)[0]
    for name in (f"static_{name}" for name in static):
        data[name] = (grid, _static(random, name, land))
    return xr.Dataset(data, coords=coords)


def as_matrices(dataset: xr.Dataset) -> xr.Dataset:
    """The same data on the same grid points, with coordinates ``(y, x)``."""
    latitude, longitude = np.meshgrid(dataset["latitude"].values, dataset["longitude"].values, indexing="ij")
    bare = dataset.drop_vars(GRID).rename_dims(latitude="y", longitude="x")
    return bare.assign_coords(latitude=(CURVILINEAR, latitude), longitude=(CURVILINEAR, longitude))


def _grid(
    height: int, width: int, box: tuple[float, float, float, float] | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if box is None:
        return 90 - (np.arange(height) + 0.5) * 180 / height, np.arange(width) * 360 / width
    north, west, south, east = box
    return np.linspace(north, south, height), np.linspace(west, east, width)


def _lambert(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coordinates of a Lambert grid on the sphere with one standard parallel (Snyder 1987, 15-1 to 15-5)."""
    radius, middle, meridian = (
        LAMBERT[key] for key in ("earth_radius", "standard_parallel", "longitude_of_central_meridian")
    )
    spacing = 3.2e6 / width
    cone = np.sin(np.deg2rad(middle))
    scale = radius * np.cos(np.deg2rad(middle)) * np.tan(np.pi / 4 + np.deg2rad(middle) / 2) ** cone / cone
    x = spacing * (np.arange(width) - (width - 1) / 2)[None]
    south = (
        scale / np.tan(np.pi / 4 + np.deg2rad(middle) / 2) ** cone
        - spacing * ((height - 1) / 2 - np.arange(height))[:, None]
    )
    latitude = np.rad2deg(2 * np.arctan((scale / np.hypot(x, south)) ** (1 / cone))) - 90
    return latitude, meridian + np.rad2deg(np.arctan2(x, south)) / cone


def _waves(
    random: np.random.Generator, name: str, times: int, levels: tuple[float, ...], height: int, width: int
) -> npt.NDArray[np.float32]:
    values = _shape(random, times, len(levels), height, width)
    profile = [_profile(name, level) for level in levels] or [_SCALES.get(name, (0.0, 1.0))]
    mean, scale = (np.array(part).reshape(-1, 1, 1) for part in zip(*profile, strict=True))
    return (mean + scale * values if levels else mean[0] + scale[0] * values).astype(np.float32)


def _shape(random: np.random.Generator, times: int, levels: int, height: int, width: int) -> npt.NDArray[np.float64]:
    """Waves of size 1, [T, H, W] or [T, C, H, W]."""
    deep = (levels,) if levels else ()
    phase = random.uniform(0, 2 * np.pi, (1, *deep, 1, 1))
    time = np.arange(times).reshape(times, *(1 for _ in deep), 1, 1)
    rows = np.sin(np.linspace(0, np.pi, height))[:, None]
    waves = rows * np.sin(2 * np.pi * np.arange(width) * 2 / width - 0.3 * time + phase)
    return waves + 0.1 * random.standard_normal((times, *deep, height, width))


def _static(random: np.random.Generator, name: str, land_HW: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """A static field: ground, mask and soil of the same land."""
    known = {"static_lsm": land_HW > 0, "static_slt": 2.0 * (land_HW > 0), "static_z": 20000 * np.maximum(land_HW, 0)}
    values = known[name] if name in known else _shape(random, 1, 0, *land_HW.shape)[0]
    return np.asarray(values, dtype=np.float32)


def synthetic_store(path: Path, *, splits: dict[str, str] | None = None, **options: Any) -> Store:
    """A store at ``path`` made of ``synthetic_dataset(**options)``.

    Args:
        path: folder to be made.
        splits: ``START/END`` by name; by default about 60, 20 and 20 % of the states.
        options: of ``synthetic_dataset``.
    """
    return write_synthetic(synthetic_dataset(**options), path, splits=splits)


def write_synthetic(dataset: xr.Dataset, path: Path, *, splits: dict[str, str] | None = None) -> Store:
    """A store at ``path`` made of a dataset, as ``synthetic_store`` makes it."""
    if splits is None:
        times = dataset["time"].values.astype("datetime64[m]").astype(str)
        first, second = max(1, len(times) * 3 // 5), max(2, len(times) * 4 // 5)
        edges = {"train": (0, first - 1), "valid": (first, second - 1), "test": (second, len(times) - 1)}
        splits = {name: f"{times[a]}/{times[b]}" for name, (a, b) in edges.items()}
    attributes = {"source": "synthetic", "source_files": [], "licence": "none", "history": [], "synthetic": True}
    if dataset["latitude"].ndim == 2:
        attributes["projection"] = LAMBERT
    periods = {name: Period.parse(text) for name, text in splits.items()}
    return write_store(dataset, path, splits=periods, attributes=attributes)
