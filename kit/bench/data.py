"""Suite ``data``: building stores, and reading states beside raw reads of the same bytes, and beside a step.

All that is compared reads what is in the page cache already, in turns; the best of each counts.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
import zarr

from kit.bench.building import GLOBE, length_rows, year_rows
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.bench.weather import LEVELS, noise
from kit.data.chunks import ChunkSlice
from kit.data.dataset import Pairs, Selection
from kit.data.loader import Waiting, load_pairs
from kit.data.readers import DEFAULT_READER, ReadRequest, reader_for
from kit.data.region import select_grid
from kit.data.settings import Codec, Period
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.planning.settings import GridSize

_STATES = 4
_STEP_HOURS = 6
_SURFACE = {"2t": (280.0, 15.0), "10u": (0.0, 6.0), "10v": (0.0, 6.0), "msl": (101_000.0, 1_200.0)}
_ATMOSPHERIC = {"t": (250.0, 15.0), "u": (8.0, 12.0), "v": (0.0, 10.0), "q": (5e-3, 5e-4), "z": (60_000.0, 3_000.0)}
_SHARE = 0.7
"""Of the speed of a raw read that must be reached."""
STEP = 0.5
"""Seconds of the step that is stood in for."""
_WARM, _STEPS = 6, 10
"""Batches until memory is used again, and steps that are measured after them."""
_WAIT = 0.05
"""Of a step's time, that waiting must not exceed."""
_GIB = 2**30


@dataclass(frozen=True)
class Reading:
    """One way of reading.

    Attributes:
        read: Function that reads everything once, and returns the bytes of values that it read.
        seconds: Seconds of each turn.
    """

    read: Callable[[], int]
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Seconds of the fastest turn."""
        return min(self.seconds)

    @staticmethod
    def take_turns(readings: Iterable[Reading], repeats: int) -> None:
        """Time all ways of reading in turns: what else the machine does then meets them alike."""
        for _ in range(repeats):
            for reading in readings:
                started = time.perf_counter()
                reading.read()
                reading.seconds.append(time.perf_counter() - started)


def run(settings: BenchSettings) -> list[BenchRow]:
    """Build, then read; another grid than the suite's own takes the place of the globe at 0.25 degrees."""
    grid, repeats = settings.grid or GLOBE, settings.repeats
    sample = xr.open_zarr(open_store("era5-sample").path).load()
    return [
        *length_rows(),
        *year_rows(grid),
        *raw_rows(made_up(grid), repeats, f"states, {grid}"),
        *raw_rows(sample, repeats, "states, the embedded sample"),
        *waiting_rows(grid),
    ]


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for some gigabytes, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="kit-bench-", dir=parent) as folder:
        yield Path(folder)


def made_up(grid: GridSize, states: int = _STATES, levels: Sequence[int] = LEVELS) -> xr.Dataset:
    """Make up states with the spectrum of weather, in the store's form.

    Args:
        grid: Number of rows and columns around the globe.
        states: Number of states, six hours apart.
        levels: Pressure levels, hPa, increasing.
    """
    patterns = [noise((grid.rows, grid.columns), seed) for seed in range(3)]
    shape = (grid.rows, grid.columns)
    drawn = 0

    def draw(mean: float, scale: float) -> npt.NDArray[np.float32]:
        # Few patterns are drawn, which takes long; shifted and scaled anew, no two fields are alike.
        nonlocal drawn
        values = np.roll(patterns[drawn % len(patterns)], 7 * drawn, axis=1) * (scale * (1 + drawn % 97 / 200))
        drawn += 1
        return np.asarray(mean + values, dtype=np.float32)

    across = ("latitude", "longitude")
    variables: dict[str, Any] = {}
    for name, (mean, scale) in _SURFACE.items():
        fields = [draw(mean, scale) for _ in range(states)]
        variables[name] = (("time", *across), np.stack(fields))
    for name, (mean, scale) in _ATMOSPHERIC.items():
        fields = [draw(mean, scale) for _ in range(states * len(levels))]
        variables[name] = (("time", "level", *across), np.stack(fields).reshape(states, len(levels), *shape))
    variables["static_lsm"] = (across, draw(0.5, 0.1))
    return xr.Dataset(
        variables,
        coords={
            "time": pd.date_range("2020-01-01", periods=states, freq=f"{_STEP_HOURS}h"),
            "level": np.array(levels, dtype=np.float64),
            "latitude": np.linspace(90, -90, grid.rows),
            "longitude": np.arange(grid.columns) * 360 / grid.columns,
        },
    )


def stored(dataset: xr.Dataset, path: Path, codec: Codec) -> Store:
    """Write states to a store, all of them for training."""
    times = dataset["time"].values
    splits = {"train": Period.parse(f"{str(times[0])[:16]}/{str(times[-1])[:16]}")}
    return write_store(dataset, path, splits=splits, attributes={"synthetic": True}, codec=codec)


def pairs_of(store: Store) -> Pairs:
    """Select everything of a store, two states for one target."""
    selection = Selection(
        inputs=store.surface,
        targets=store.surface,
        atmospheric=store.atmospheric,
        static=store.static,
        levels=store.levels,
        history=2,
        timestep=timedelta(hours=int((store.times[1] - store.times[0]) / np.timedelta64(1, "h"))),
        grid=select_grid(store, None, 1),
    )
    return Pairs(store, selection, store.period)


def raw_rows(dataset: xr.Dataset, repeats: int, name: str, scratch: Path | None = None) -> list[BenchRow]:
    """Read all states one after another in one thread: by the kit, by Zarr, and by NumPy from the very same files.

    Args:
        dataset: States to write and read.
        repeats: Number of turns.
        name: Start of the rows' names.
        scratch: Empty folder for some gigabytes; a temporary one by default.
    """
    with scratch_folder(scratch) as folder:
        packed, plain = stored(dataset, folder / "fast", "fast"), stored(dataset, folder / "none", "none")
        # Chunks that are not packed are the values' own bytes, which NumPy can read as they lie.
        files = [part.chunks.file(part.index) for state in _states(plain) for part in state]
        readings = {
            "kit, fast": Reading(lambda: _read_by_kit(packed)),
            "Zarr, fast": Reading(lambda: _read_by_zarr(packed)),
            "kit, none": Reading(lambda: _read_by_kit(plain)),
            "Zarr, none": Reading(lambda: _read_by_zarr(plain)),
            "numpy.memmap": Reading(lambda: sum(np.array(np.memmap(file, "<u1", "r")).nbytes for file in files)),
            "numpy.fromfile": Reading(lambda: sum(np.fromfile(file, "<u1").nbytes for file in files)),
        }
        # Bytes of values, which all ways of reading share.
        size = readings["kit, none"].read()
        Reading.take_turns(readings.values(), repeats)
    rows = []
    for codec in ("fast", "none"):
        ours = readings[f"kit, {codec}"].best
        for other in (f"Zarr, {codec}", "numpy.memmap", "numpy.fromfile"):
            theirs, must = readings[other].best, None
            # What is packed takes less of a disk and more of a processor than a plain file.
            if other.startswith("Zarr") or (codec == "none" and other == "numpy.memmap"):
                must = theirs / _SHARE
            note = f"{size / ours / _GIB:.3g} GiB/s, {theirs / ours:.0%} of its speed"
            more = {"beside": other.partition(",")[0], "note": note, "share": rounded(theirs / ours)}
            rows.append(BenchRow(f"{name}, codec {codec}", ours, "s", theirs, must=must, more=more))
    return rows


def _states(store: Store) -> Iterator[list[ChunkSlice]]:
    for index in range(len(store.times)):
        yield [store.chunk_slice(name, index) for name in (*store.surface, *store.atmospheric)]


def _read_by_kit(store: Store) -> int:
    """Read one state after another, into tensors that are made for it."""
    size = 0
    for state in _states(store):
        tensors = DEFAULT_READER.read([ReadRequest((1, 1), [part]) for part in state])
        size += sum(4 * tensor.numel() for tensor in tensors)
    return size


def _read_by_zarr(store: Store) -> int:
    arrays = [zarr.open_array(store.path / name, mode="r") for name in (*store.surface, *store.atmospheric)]
    return sum(np.asarray(array[index]).nbytes for index in range(len(store.times)) for array in arrays)


def waiting_rows(grid: GridSize, scratch: Path | None = None, workers: Sequence[int] = (0, 1, 2)) -> list[BenchRow]:
    """Measure the part of a step of half a second that is spent waiting for data, by ``data.workers``.

    A pause stands for the step: like a GPU it leaves the processor to whoever reads.
    """
    rows = []
    # Never set, so that waiting for it is a pause.
    pause = threading.Event()
    with scratch_folder(scratch) as folder:
        pairs = pairs_of(stored(made_up(grid), folder / "fast", "fast"))
        order = [[number % len(pairs)] for number in range(_WARM + _STEPS)]
        for count in workers:
            batches = Waiting(load_pairs(pairs, reader_for(count), order=order))
            # Starting processes and filling fresh memory is counted apart: it happens once.
            next(batches)
            first = batches.seconds
            for _ in range(_WARM - 1):
                pause.wait(STEP)
                next(batches)
            before, started = batches.seconds, time.perf_counter()
            for _ in range(_STEPS):
                pause.wait(STEP)
                next(batches, None)
            fraction = (batches.seconds - before) / (time.perf_counter() - started)
            more = {"note": f"{first:.2g} s for the first batch, processes started"}
            name = f"data wait on a step of {STEP:g} s, {grid}, data.workers {count}"
            rows.append(BenchRow(name, fraction, "of the time", must=_WAIT, more=more))
    return rows
