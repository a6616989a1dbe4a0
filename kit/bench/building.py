"""Building a store: time beside the usual way, memory by length, and what a year of the globe takes."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from kit.bench.results import BenchRow, rounded
from kit.bench.subprocess_measure import Measurement, measure_in_subprocess
from kit.bench.weather import LEVELS, fields, noise, write_grib
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store, estimate
from kit.io.errors import SettingsError
from kit.planning.settings import GridSize

__all__ = ["GLOBE", "building_rows", "length_rows", "make_store", "write_year", "year_rows"]

_logger = logging.getLogger(__name__)

GLOBE = GridSize(721, 1440)
_STATES = 6
_SHARE = 0.5
"""Of the usual way's time, which the kit must not exceed."""
_LENGTHS = (16, 160, 1600)
_GROWTH = 1.5
"""Of memory from the shortest build to the longest: headers of messages are kept, a third of a kilobyte each, and what
the allocator keeps differs from run to run."""
_MIB = 2**20
_YEAR = 4 * 365
_SURFACE = {
    "2m_temperature": ("K", 280.0, 15.0),
    "10m_u_component_of_wind": ("m s**-1", 0.0, 6.0),
    "10m_v_component_of_wind": ("m s**-1", 0.0, 6.0),
    "mean_sea_level_pressure": ("Pa", 101_000.0, 1_200.0),
}
_ATMOSPHERIC = {
    "geopotential": ("m**2 s**-2", 60_000.0, 3_000.0),
    "temperature": ("K", 250.0, 15.0),
    "u_component_of_wind": ("m s**-1", 8.0, 12.0),
    "v_component_of_wind": ("m s**-1", 0.0, 10.0),
    "specific_humidity": ("kg kg**-1", 5e-3, 5e-4),
}
_STATIC = {"geopotential_at_surface": ("m**2 s**-2", 5_000.0, 900.0), "land_sea_mask": ("1", 0.5, 0.1)}


def make_store(path: Path, out: Path) -> int:
    """Build a store from a file of GRIB; returns its states."""
    return len(build_store(BuildSettings(source="grib", path=str(path), out=out)).times)


def building_rows(grid: GridSize, repeats: int) -> list[BenchRow]:
    """From a file of GRIB to what training reads, in both ways, in turns; the best of each counts."""
    if importlib.util.find_spec("pygrib") is None:
        msg = "suite data compares with pygrib, which is not installed; run `nox -s bench -- data`, which installs it"
        raise SettingsError(msg)
    # Here, because importing it takes pygrib.
    from kit.bench.restacking import restack

    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        file = Path(scratch) / "states.grib"
        size = write_grib(file, (grid.rows, grid.columns), fields(_STATES))
        _logger.info("data: %d states, %.0f MiB of GRIB", _STATES, file.stat().st_size / _MIB)
        ours, theirs = [], []
        for number in range(repeats):
            theirs.append(measure_in_subprocess(restack, file, Path(scratch) / f"pairs-{number}"))
            ours.append(measure_in_subprocess(make_store, file, Path(scratch) / f"store-{number}"))
        mine, other = _best(ours), _best(theirs)
        speed = file.stat().st_size / mine.seconds / _MIB
        disk, pairs = (_bytes_of(Path(scratch) / f"{what}-0") / size for what in ("store", "pairs"))
        more = {
            "beside": "pygrib's .values of all messages, every pair stacked anew and saved",
            "note": f"{speed:.3g} MiB of GRIB a second; on disk {disk:.2f} of raw float32, pairs {pairs:.2f}",
            "disk_ratio": rounded(disk),
            "cpu_seconds": rounded(mine.cpu_seconds),
        }
    name = f"GRIB to store, {grid}, {_STATES} states of 69 fields"
    return [BenchRow(name, mine.seconds, "s", other.seconds, exact=None, must=_SHARE * other.seconds, more=more)]


def _best(taken: Sequence[Measurement]) -> Measurement:
    return min(taken, key=lambda one: one.seconds)


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def length_rows(lengths: Sequence[int] = _LENGTHS, grid: tuple[int, int] = (181, 360)) -> list[BenchRow]:
    """Peak memory of builds of 1, 10 and 100 times the states, above what the imports take."""
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        for states in lengths:
            file, out = Path(scratch) / f"{states}.grib", Path(scratch) / f"{states}"
            size = write_grib(file, grid, fields(states, levels=(500, 700, 850)))
            taken = measure_in_subprocess(make_store, file, out)
            file.unlink()
            first = rows[0].value if rows else None
            more = {"note": f"{size / _MIB:.0f} MiB of values, {taken.seconds:.3g} s"}
            if first is not None:
                more["beside"] = f"that of {lengths[0]} states"
            peak = taken.grown_bytes / _MIB
            must = None if first is None else _GROWTH * first
            rows.append(BenchRow(f"memory of a build of {states} states", peak, "MiB", first, must=must, more=more))
    return rows


def year_rows(grid: GridSize) -> list[BenchRow]:
    """What a year of states every six hours will take, as ``kit data build --dry-run`` foresees it."""
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        source = Path(scratch) / "year.zarr"
        write_year(source, (grid.rows, grid.columns))
        found = estimate(BuildSettings(source="zarr", path=str(source), out=Path(scratch) / "store"))
    assert found.gb_disk is not None
    name = f"a year at {grid}, 6-hourly, 69 fields"
    how = f"foreseen from {found.slice_states} states, read, packed and written in {found.slice_seconds:.3g} s"
    size = {"beside": "raw float32", "note": f"{1e3 * found.gb_raw / found.states:.3g} MB a state raw"}
    return [
        BenchRow(f"{name}: the store", found.gb_disk, "GB", found.gb_raw, more=size),
        BenchRow(f"{name}: to build it", found.hours, "h", more={"note": f"{how}; {found.workers} threads"}),
    ]


def write_year(folder: Path, shape: tuple[int, int], states: int = _YEAR) -> None:
    """Write a Zarr store in the form of public archives of ERA5 whose states are all one, linked: it takes no room."""
    root = zarr.create_group(folder, zarr_format=3)
    rows, columns = shape
    axes: dict[str, tuple[Any, dict[str, Any]]] = {
        "time": (6 * np.arange(states), {"units": "hours since 2020-01-01", "calendar": "proleptic_gregorian"}),
        "level": (np.array(LEVELS), {"units": "hPa"}),
        "latitude": (np.linspace(90, -90, rows), {"units": "degrees_north"}),
        "longitude": (np.arange(columns) * 360 / columns, {"units": "degrees_east"}),
    }
    for name, (values, attributes) in axes.items():
        root.create_array(name, data=values, dimension_names=(name,), attributes=attributes)
    for kind, leading in ((_SURFACE, ("time",)), (_ATMOSPHERIC, ("time", "level")), (_STATIC, ())):
        for seed, (name, (units, mean, scale)) in enumerate(kind.items()):
            sizes = tuple(len(axes[axis][0]) for axis in leading)
            array = root.create_array(
                name,
                shape=(*sizes, *shape),
                chunks=(*(1 if axis == "time" else size for axis, size in zip(leading, sizes, strict=True)), *shape),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=(*leading, "latitude", "longitude"),
                attributes={"units": units},
            )
            layers = [noise(shape, 100 * seed + level) for level in range(sizes[1] if "level" in leading else 1)]
            state = mean + scale * np.stack(layers)
            array[0 if leading else ...] = state if "level" in leading else state[0]
            if leading:
                _link(folder / name / "c", states)


def _link(chunks: Path, states: int) -> None:
    files = [file.relative_to(chunks / "0") for file in (chunks / "0").rglob("*") if file.is_file()]
    for state in range(1, states):
        for file in files:
            target = chunks / str(state) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(chunks / "0" / file, target)
