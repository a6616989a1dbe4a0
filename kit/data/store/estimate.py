"""Estimate of what a build will take, from one block that is read, packed and written to a folder that is removed."""

import concurrent.futures as cf
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from kit.data.settings import Codec
from kit.data.sources.base import Announcement
from kit.data.statistics import share_of_sample
from kit.data.store.blocks import WriteTask, keys_of, write_block
from kit.data.store.build_plan import block_edges
from kit.data.store.format import check_dataset, times_of
from kit.data.store.manifest import BlockRecord

_GB = 1e9


@dataclass(frozen=True)
class BuildEstimate:
    """Size, requests and time of a build; what only the data tell is None where they are not here yet.

    Attributes:
        states: Number of states in the store.
        gb_raw: Size of their values in float32, 1e9 bytes.
        gb_disk: Size of the store, 1e9 bytes.
        ratio: Ratio of the two, on the slice that was read.
        blocks: Number of blocks that are written one by one.
        requests: Number of requests that the source will make of servers; None where it does not say.
        gb_download: Size of what these bring, 1e9 bytes; None where it does not say.
        hours: Time at the speed of the slice, by so many threads as ``workers`` says.
        workers: Number of threads.
        slice_states: Number of states that were read.
        slice_seconds: Time that it took to read, pack and write them, in one thread.
        gb_free: Room on the disk of the store, 1e9 bytes.
        fits: Whether the store fits there.
    """

    states: int
    gb_raw: float
    gb_disk: float | None
    ratio: float | None
    blocks: int | None
    requests: int | None
    gb_download: float | None
    hours: float | None
    workers: int
    slice_states: int
    slice_seconds: float
    gb_free: float
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON knows it."""
        return asdict(self)


def measure(
    dataset: xr.Dataset,
    out: Path,
    *,
    codec: Codec,
    workers: int | None = None,
    requests: int | None = None,
    download_bytes: int | None = None,
) -> BuildEstimate:
    """Read one block in the middle of a dataset, and estimate what all of it will take.

    Hours are those of one thread divided by the threads: as many as the processors have work for, and more than that
    where a source keeps them waiting.

    Args:
        dataset: Dataset in the store's form.
        out: Folder of the store to be.
        codec: Packing of the chunks.
        workers: Number of threads of the build; as many as there are processors by default.
        requests: Number of requests that the source will make.
        download_bytes: Bytes that these bring.

    Raises:
        StoreError: the dataset is not of the store's form, or the source cannot be read.
        OSError: the temporary folder has no room for a block.
    """
    check_dataset(dataset, out)
    dynamic = {str(name): array for name, array in dataset.data_vars.items() if "time" in array.dims}
    raw = 4 * sum(array.size for array in dataset.data_vars.values())
    # The very blocks of the build, written the very same way.
    edges = block_edges(list(dynamic.values()))
    middle = (len(edges) - 2) // 2
    start, stop = edges[middle : middle + 2]
    times = times_of(dataset)
    with tempfile.TemporaryDirectory(prefix="kit-build-") as folder:
        task = WriteTask(
            store=Path(folder, "store"),
            scratch=Path(folder, "scratch"),
            record=Path(folder, "record.npz"),
            codec=codec,
            arrays={name: array.variable.isel(time=slice(start, stop)) for name, array in dynamic.items()},
            keys=dict(zip(dynamic, map(keys_of, dynamic.values()), strict=True)),
            indices=range(start, stop),
            moments=tuple(times[start:stop].astype("int64").tolist()),
            counted=tuple(range(stop - start)),
            draw=share_of_sample(len(times)),
            weights=None,
        )
        task.store.mkdir()
        task.scratch.mkdir()
        began = time.perf_counter()
        # Where chunks are packed the same way as in a build: outside the main thread.
        with cf.ThreadPoolExecutor(1) as pool:
            size = pool.submit(write_block, task).result()
        seconds = time.perf_counter() - began
        ratio = sum(chunk.size for chunk in BlockRecord.load(task.record).chunks) / size
    threads, free = workers or len(os.sched_getaffinity(0)), _free_bytes(out)
    return BuildEstimate(
        states=len(times),
        gb_raw=raw / _GB,
        gb_disk=ratio * raw / _GB,
        ratio=ratio,
        blocks=len(edges) - 1,
        requests=requests,
        gb_download=None if download_bytes is None else download_bytes / _GB,
        hours=seconds * len(times) / (stop - start) / threads / 3600,
        workers=threads,
        slice_states=stop - start,
        slice_seconds=seconds,
        gb_free=free / _GB,
        fits=ratio * raw < free,
    )


def unmeasured(announced: Announcement, out: Path, *, workers: int | None = None) -> BuildEstimate:
    """Estimate a build from a source that has fetched nothing yet, so that no slice of it can be read.

    Args:
        announced: Announcement of what the source will fetch.
        out: Folder of the store to be.
        workers: Number of threads of the build; as many as there are processors by default.
    """
    free = _free_bytes(out)
    return BuildEstimate(
        states=announced.states,
        gb_raw=announced.value_bytes / _GB,
        gb_disk=None,
        ratio=None,
        blocks=None,
        requests=announced.requests,
        gb_download=announced.download_bytes / _GB,
        hours=None,
        workers=workers or len(os.sched_getaffinity(0)),
        slice_states=0,
        slice_seconds=0.0,
        gb_free=free / _GB,
        # Of packed chunks nothing is known: they may take as much as the values.
        fits=announced.value_bytes < free,
    )


def _free_bytes(out: Path) -> int:
    """Measure the room on the disk of the nearest folder that is there already."""
    nearest = next(folder for folder in out.absolute().parents if folder.is_dir())
    return shutil.disk_usage(nearest).free
