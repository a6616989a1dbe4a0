"""Building a store, measured in a process of its own: memory by length; time and room for a year of the globe."""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import zarr

from kit.bench.results import BenchRow
from kit.bench.weather import LEVELS, fields, noise, write_grib
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store, estimate
from kit.planning.settings import GridSize

P = ParamSpec("P")
_STATUS = Path("/proc/self/status")
GLOBE = GridSize(721, 1440)
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
    """Build a store from a file of GRIB; returns the number of its states."""
    return len(build_store(BuildSettings(source="grib", path=str(path), out=out)).times)


def length_rows(lengths: Sequence[int] = _LENGTHS, grid: tuple[int, int] = (181, 360)) -> list[BenchRow]:
    """Measure the peak memory of builds of 1, 10 and 100 times the states, above what the imports take."""
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        for states in lengths:
            file, out = Path(scratch) / f"{states}.grib", Path(scratch) / f"{states}"
            size = write_grib(file, grid, fields(states, levels=(500, 700, 850)))
            taken = measure_in_subprocess(make_store, file, out)
            # The longest is some gigabytes.
            file.unlink()
            more = {"note": f"{size / _MIB:.0f} MiB of values, {taken.seconds:.3g} s"}
            row = BenchRow(f"memory of a build of {states} states", taken.grown_bytes / _MIB, "MiB", more=more)
            if rows and rows[0].value is not None:
                more["beside"] = f"that of {lengths[0]} states"
                row = replace(row, baseline=rows[0].value, must=_GROWTH * rows[0].value)
            rows.append(row)
    return rows


def year_rows(grid: GridSize) -> list[BenchRow]:
    """Estimate what a year of states every six hours takes, as ``kit data build --dry-run`` foresees it."""
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
    levels = len(LEVELS)
    kinds: tuple[tuple[Any, tuple[str, ...], tuple[int, ...], tuple[int, ...]], ...] = (
        (_SURFACE, ("time",), (states,), (1,)),
        (_ATMOSPHERIC, ("time", "level"), (states, levels), (1, levels)),
        (_STATIC, (), (), ()),
    )
    for kind, leading, sizes, chunks in kinds:
        for seed, (name, (units, mean, scale)) in enumerate(kind.items()):
            array = root.create_array(
                name,
                shape=(*sizes, *shape),
                chunks=(*chunks, *shape),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=(*leading, "latitude", "longitude"),
                attributes={"units": units},
            )
            layers = [noise(shape, 100 * seed + level) for level in range(math.prod(chunks))]
            state = mean + scale * np.stack(layers).reshape(*chunks, *shape)
            if not leading:
                array[...] = state
                continue
            array[:1] = state
            # The other states are links to the first one's files.
            first = folder / name / "c" / "0"
            for file in [file for file in first.rglob("*") if file.is_file()]:
                for number in range(1, states):
                    target = folder / name / "c" / str(number) / file.relative_to(first)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, target)


@dataclass(frozen=True)
class Measurement:
    """Time and memory of a call, imports before it not counted.

    Attributes:
        seconds: Seconds on the clock.
        cpu_seconds: Seconds of the processor, all threads together.
        grown_bytes: Bytes of resident memory at its peak, above what the process had before.
        result: What the function returned.
    """

    seconds: float
    cpu_seconds: float
    grown_bytes: int
    result: Any


def measure_in_subprocess(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Measurement:
    """Call a function of a module in a fresh process, and measure the call.

    Args:
        function: Function that is importable by name; its module's imports are not counted.
        args: Its arguments, picklable, as are ``kwargs`` and what it returns.
        kwargs: Its arguments by name.
    """
    # A forked process would begin with its parent's memory, and with threads that are not there.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measured, function, args, kwargs).result()


def _measured(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Measurement:
    before = _resident("VmRSS")
    # Linux: sets the peak back to what is resident now. getrusage's peak would be the parent's, too.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    started, worked = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    return Measurement(seconds, cpu_seconds, _resident("VmHWM") - before, result)


def _resident(what: str) -> int:
    """Read a size of this process in bytes, by the name that the system's table has for it."""
    table = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    return 1024 * int(table[what].split()[0])
