"""What a build will take, from one block of it that is read, packed and written to a folder that is removed."""

from __future__ import annotations

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

__all__ = ["BuildEstimate", "measure", "unmeasured"]

_GB = 1e9


@dataclass(frozen=True)
class BuildEstimate:
    """What a build will take; what only the data tell is None where they are not here yet.

    Attributes:
        states: in the store.
        gb_raw: of their values in float32, 1e9 bytes.
        gb_disk: of the store.
        ratio: of the two, on the slice that was read.
        blocks: that are written one by one.
        requests: that the source will make of servers; None where it does not say.
        gb_download: that these bring; None where it does not say.
        hours: at the speed of the slice, by so many threads as are told.
        workers: threads.
        slice_states: states that were read.
        slice_seconds: that it took to read, pack and write them, in one thread.
        gb_free: on the disk of the store.
        fits: whether the store does.
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
        """For machines."""
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
    """Read one block in the middle of a dataset, and say what all of it will take.

    Hours are those of one thread divided by the threads: as many as the processors have work for, and more than that
    where a source keeps them waiting.

    Args:
        dataset: in the store's form.
        out: where the store will be.
        codec: how chunks are packed.
        workers: threads of the build; as many as there are processors by default.
        requests: that the source will make.
        download_bytes: that these bring.

    Raises:
        StoreError: the dataset is not of the store's form, or the source cannot be read.
        OSError: the temporary folder has no room for a block.
    """
    check_dataset(dataset, out)
    dynamic = dataset[[name for name, array in dataset.data_vars.items() if "time" in array.dims]]
    raw = 4 * sum(array.size for array in dataset.data_vars.values())
    edges = block_edges(list(dynamic.data_vars.values()))
    middle = (len(edges) - 2) // 2
    start, stop = edges[middle], edges[middle + 1]
    taken, size, packed = _timed(dynamic, start, stop, codec)
    threads = workers or len(os.sched_getaffinity(0))
    ratio = packed / size
    states = dynamic.sizes["time"]
    free = shutil.disk_usage(_existing(out)).free
    return BuildEstimate(
        states=states,
        gb_raw=raw / _GB,
        gb_disk=ratio * raw / _GB,
        ratio=ratio,
        blocks=len(edges) - 1,
        requests=requests,
        gb_download=None if download_bytes is None else download_bytes / _GB,
        hours=taken * states / (stop - start) / threads / 3600,
        workers=threads,
        slice_states=stop - start,
        slice_seconds=taken,
        gb_free=free / _GB,
        fits=ratio * raw < free,
    )


def unmeasured(announced: Announcement, out: Path, *, workers: int | None = None) -> BuildEstimate:
    """What a build will take of a source that has fetched nothing yet, so that no slice of it can be read.

    Args:
        announced: what it will fetch.
        out: where the store will be.
        workers: threads of the build; as many as there are processors by default.
    """
    free = shutil.disk_usage(_existing(out)).free
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
        fits=announced.value_bytes < free,
    )


def _timed(dynamic: xr.Dataset, start: int, stop: int, codec: Codec) -> tuple[float, int, int]:
    """Seconds, bytes of values and bytes on the disk of a block."""
    names = [str(name) for name in dynamic.data_vars]
    with tempfile.TemporaryDirectory(prefix="kit-build-") as folder:
        store, scratch, record = (Path(folder) / name for name in ("store", "scratch", "record.npz"))
        store.mkdir()
        scratch.mkdir()
        block = WriteTask(
            store=store,
            scratch=scratch,
            record=record,
            codec=codec,
            arrays={name: dynamic[name].variable.isel(time=slice(start, stop)) for name in names},
            keys={name: keys_of(dynamic[name]) for name in names},
            indices=range(start, stop),
            moments=tuple(times_of(dynamic)[start:stop].astype("int64").tolist()),
            counted=tuple(range(stop - start)),
            draw=share_of_sample(dynamic.sizes["time"]),
            weights=None,
        )
        began = time.perf_counter()
        # Where chunks are packed the same way as in a build: outside the main thread.
        with cf.ThreadPoolExecutor(1) as pool:
            size = pool.submit(write_block, block).result()
        seconds = time.perf_counter() - began
        return seconds, size, sum(chunk.size for chunk in BlockRecord.load(record).chunks)


def _existing(out: Path) -> Path:
    """The nearest folder that is there already."""
    return next(folder for folder in out.absolute().parents if folder.is_dir())
