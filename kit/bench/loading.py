"""Reading pairs: beside what users do without a store, beside raw reads of the same bytes, and beside a step.

All that is compared reads what is in the page cache already, in turns; the best of each counts.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from kit.bench.results import BenchRow, rounded
from kit.bench.weather import LEVELS, noise
from kit.data.chunks import ChunkSlice
from kit.data.dataset import Pairs, Selection
from kit.data.loader import Waiting, load_pairs
from kit.data.readers import DEFAULT_READER, Reader, ReadRequest, reader_for
from kit.data.region import select_grid
from kit.data.settings import Codec, Period
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.planning.settings import GridSize

__all__ = ["STEP", "loading_rows", "sample_rows", "waiting_rows"]

_logger = logging.getLogger(__name__)

_STATES = 4
_STEP_HOURS = 6
_SURFACE = {"2t": (280.0, 15.0), "10u": (0.0, 6.0), "10v": (0.0, 6.0), "msl": (101_000.0, 1_200.0)}
_ATMOSPHERIC = {"t": (250.0, 15.0), "u": (8.0, 12.0), "v": (0.0, 10.0), "q": (5e-3, 5e-4), "z": (60_000.0, 3_000.0)}
_DELIVERED = "deflated, as the CDS delivers them"
_FILES: Mapping[str, Mapping[str, Any]] = {
    _DELIVERED: {"zlib": True, "complevel": 1, "shuffle": True, "dtype": "float32"},
    "16-bit, as it delivered them before": {"dtype": "int16", "_FillValue": -32767},
    "as xarray writes them": {"dtype": "float32"},
}
"""NetCDF files, one for each day and variable, by how their values are packed. Those that xarray writes by default
are not packed at all: of them a copy of memory is the most that can be had."""
_FASTER = 5
"""Times that pairs must be read as fast as from files."""
_SHARE = 0.7
"""Of the speed of a raw read that must be reached."""
STEP = 0.5
"""Seconds of the step that is stood in for."""
_READ, _WARM, _STEPS = 12, 6, 10
"""Pairs that are read in one turn; batches until memory is used again, and steps that are measured after them."""
_WAIT = 0.05
"""Of a step's time, that waiting must not exceed."""
_GIB = 2**30


@dataclass(frozen=True)
class _Compared:
    """One way of reading.

    Attributes:
        read: reads everything once; returns the bytes of values that it read.
        seconds: of each turn.
    """

    read: Callable[[], int]
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Seconds of the fastest turn."""
        return min(self.seconds)


def loading_rows(grid: GridSize, repeats: int, scratch: Path | None = None) -> list[BenchRow]:
    """Pairs from a store beside pairs from NetCDF files, and states beside raw reads of the same bytes.

    Args:
        grid: of made-up states of 69 fields.
        repeats: turns.
        scratch: an empty folder for some gigabytes; a temporary one by default.
    """
    with _folder(scratch) as folder:
        dataset = made_up(grid)
        stores = {codec: _stored(dataset, folder / codec, codec) for codec in ("fast", "none")}
        rows = _beside_files(dataset, stores["fast"], folder, repeats, f"{grid}, {_STATES} states of 69 fields")
        return [*rows, *_beside_raw(stores, repeats, f"states, {grid}")]


def sample_rows(repeats: int, scratch: Path | None = None) -> list[BenchRow]:
    """The same on the embedded sample."""
    with _folder(scratch) as folder:
        store = open_store("era5-sample")
        dataset = xr.open_zarr(store.path).load()
        stores = {codec: _stored(dataset, folder / codec, codec) for codec in ("fast", "none")}
        rows = _beside_files(dataset, stores["fast"], folder, repeats, "the embedded sample")
        return [*rows, *_beside_raw(stores, repeats, "states, the embedded sample")]


def waiting_rows(grid: GridSize, scratch: Path | None = None, workers: Sequence[int] = (0, 1, 2)) -> list[BenchRow]:
    """What part of a step of half a second is spent waiting for data, by ``data.workers``.

    A pause stands for the step: like a GPU it leaves the processor to whoever reads.
    """
    rows = []
    with _folder(scratch) as folder:
        dataset = made_up(grid)
        pairs = _pairs(_stored(dataset, folder / "fast", "fast"))
        for count in workers:
            first, fraction = _waited(pairs, reader_for(count))
            more = {"note": f"{first:.2g} s for the first batch, processes started"}
            name = f"data wait on a step of {STEP:g} s, {grid}, data.workers {count}"
            rows.append(BenchRow(name, fraction, "of the time", must=_WAIT, more=more))
    return rows


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kit-bench-", dir=scratch) as folder:
        yield Path(folder)


def made_up(grid: GridSize, states: int = _STATES, levels: Sequence[int] = LEVELS) -> xr.Dataset:
    """States with the spectrum of weather, in the store's form.

    Args:
        grid: rows and columns around the globe.
        states: how many, six hours apart.
        levels: hPa, increasing.
    """
    patterns = [noise((grid.rows, grid.columns), seed) for seed in range(3)]
    numbers = iter(range(10**6))

    def field(mean: float, scale: float) -> npt.NDArray[np.float32]:
        number = next(numbers)
        values = np.roll(patterns[number % len(patterns)], 7 * number, axis=1) * (scale * (1 + number % 97 / 200))
        return np.asarray(mean + values, dtype=np.float32)

    surface = {name: [field(*of) for _ in range(states)] for name, of in _SURFACE.items()}
    atmospheric = {name: [[field(*of) for _ in levels] for _ in range(states)] for name, of in _ATMOSPHERIC.items()}
    across = ("latitude", "longitude")
    return xr.Dataset(
        {name: (("time", *across), np.stack(values)) for name, values in surface.items()}
        | {name: (("time", "level", *across), np.array(values)) for name, values in atmospheric.items()}
        | {"static_lsm": (across, field(0.5, 0.1))},
        coords={
            "time": pd.date_range("2020-01-01", periods=states, freq=f"{_STEP_HOURS}h"),
            "level": np.array(levels, dtype=np.float64),
            "latitude": np.linspace(90, -90, grid.rows),
            "longitude": np.arange(grid.columns) * 360 / grid.columns,
        },
    )


def _stored(dataset: xr.Dataset, path: Path, codec: Codec) -> Store:
    first, last = (str(time)[:16] for time in dataset["time"].values[[0, -1]])
    splits = {"train": Period.parse(f"{first}/{last}")}
    return write_store(dataset, path, splits=splits, attributes={"synthetic": True}, codec=codec)


def _pairs(store: Store) -> Pairs:
    hours = np.diff(store.times[:2]).astype("timedelta64[h]").astype(int)[0]
    selection = Selection(
        inputs=store.surface,
        targets=store.surface,
        atmospheric=store.atmospheric,
        static=store.static,
        levels=store.levels,
        history=2,
        timestep=timedelta(hours=int(hours)),
        grid=select_grid(store, None, 1),
    )
    return Pairs(store, selection, store.period)


def _beside_files(dataset: xr.Dataset, store: Store, folder: Path, repeats: int, told: str) -> list[BenchRow]:
    """Pairs from a store and from files, one pair after another."""
    pairs, reader = _pairs(store), reader_for(0)
    # Long enough that memory is used again, as in training; the first batches are given fresh pages.
    order = [[number % len(pairs)] for number in range(_READ)]
    rows = []
    for packed, encoding in _FILES.items():
        files = folder / "netcdf"
        paths = _written(dataset, files, encoding)
        with xr.open_mfdataset(paths, combine="by_coords", engine="netcdf4") as opened:
            ways = {
                "kit": _Compared(lambda: sum(_bytes(pair) for pair in load_pairs(pairs, reader, order=order))),
                "files": _Compared(lambda opened=opened: _sliced(opened, pairs)),  # type: ignore[misc]
            }
            _take_turns(ways.values(), repeats)
        for path in paths:
            path.unlink()
        best, other = ways["kit"].best / len(order), ways["files"].best / len(pairs)
        more = {
            "beside": f"xarray.open_mfdataset of files {packed}, sliced",
            "note": f"{other / best:.3g} times as fast",
        }
        must = other / _FASTER if packed == _DELIVERED else None
        rows.append(BenchRow(f"a pair, {told}", best, "s", other, must=must, more=more))
    return rows


def _written(dataset: xr.Dataset, folder: Path, encoding: Mapping[str, Any]) -> list[Path]:
    """One file for each day and variable."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, array in dataset.data_vars.items():
        if "time" not in array.dims:
            continue
        low, high = float(array.min()), float(array.max())
        # As the CDS did it: the range of a variable in the steps of a 16-bit number.
        scaled = {"scale_factor": (high - low) / 65530, "add_offset": (high + low) / 2}
        how = {**encoding, **(scaled if encoding["dtype"] == "int16" else {})}
        for day, states in array.groupby("time.date"):
            paths.append(folder / f"{name}-{day}.nc")
            states.to_dataset(name=str(name)).to_netcdf(paths[-1], encoding={str(name): how})
    return paths


def _sliced(opened: xr.Dataset, pairs: Pairs) -> int:
    read = 0
    for index in range(len(pairs)):
        for part in (slice(index, index + 2), slice(index + 2, index + 3)):
            states = opened.isel(time=part).load()
            read += sum(4 * array.size for array in states.data_vars.values())
    return read


def _bytes(pair: Any) -> int:
    batches = (pair.inputs, *pair.targets)
    return sum(4 * v.numel() for batch in batches for v in (*batch.surf_vars.values(), *batch.atmos_vars.values()))


def _beside_raw(stores: Mapping[str, Store], repeats: int, told: str) -> list[BenchRow]:
    """All states, one after another, by one thread: by the kit, by Zarr, and by NumPy from the very same files."""
    packed, plain = stores["fast"], stores["none"]
    files = [part.chunks.file(part.index) for state in _states(plain) for part in state]
    ways = {
        "kit, fast": _Compared(lambda: _by_kit(packed)),
        "Zarr, fast": _Compared(lambda: _by_zarr(packed)),
        "kit, none": _Compared(lambda: _by_kit(plain)),
        "Zarr, none": _Compared(lambda: _by_zarr(plain)),
        "numpy.memmap": _Compared(lambda: sum(np.array(np.memmap(file, "<u1", "r")).nbytes for file in files)),
        "numpy.fromfile": _Compared(lambda: sum(np.fromfile(file, "<u1").nbytes for file in files)),
    }
    size = ways["kit, none"].read()
    _take_turns(ways.values(), repeats)
    rows = []
    for codec in ("fast", "none"):
        ours = ways[f"kit, {codec}"].best
        for other in (f"Zarr, {codec}", "numpy.memmap", "numpy.fromfile"):
            theirs = ways[other].best
            # What is packed takes less of a disk and more of a processor than a plain file.
            held = other.startswith("Zarr") or (codec == "none" and other == "numpy.memmap")
            must = theirs / _SHARE if held else None
            note = f"{size / ours / _GIB:.3g} GiB/s, {theirs / ours:.0%} of its speed"
            more = {"beside": other.partition(",")[0], "note": note, "share": rounded(theirs / ours)}
            rows.append(BenchRow(f"{told}, codec {codec}", ours, "s", theirs, must=must, more=more))
    return rows


def _states(store: Store) -> Iterator[list[ChunkSlice]]:
    for index in range(len(store.times)):
        yield [store.part(name, index) for name in (*store.surface, *store.atmospheric)]


def _by_kit(store: Store) -> int:
    """One state after another, into tensors that are made for it."""
    wanted = ([ReadRequest((1, 1), [part]) for part in state] for state in _states(store))
    return sum(4 * tensor.numel() for state in wanted for tensor in DEFAULT_READER.read(state))


def _by_zarr(store: Store) -> int:
    arrays = [zarr.open_array(store.path / name, mode="r") for name in (*store.surface, *store.atmospheric)]
    return sum(np.asarray(array[index]).nbytes for index in range(len(store.times)) for array in arrays)


def _take_turns(ways: Iterable[_Compared], repeats: int) -> None:
    for _ in range(repeats):
        for way in ways:
            started = time.perf_counter()
            way.read()
            way.seconds.append(time.perf_counter() - started)


def _waited(pairs: Pairs, reader: Reader) -> tuple[float, float]:
    """Seconds for the first batch, and what part of later steps was spent waiting."""
    order = [[number % len(pairs)] for number in range(_WARM + _STEPS)]
    batches = Waiting(load_pairs(pairs, reader, order=order))
    next(batches)
    first = batches.seconds
    for _ in range(_WARM - 1):
        time.sleep(STEP)
        next(batches)
    before, started = batches.seconds, time.perf_counter()
    for _ in range(_STEPS):
        time.sleep(STEP)
        next(batches, None)
    return first, (batches.seconds - before) / (time.perf_counter() - started)
