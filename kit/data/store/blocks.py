"""Blocks of states: each is computed, packed, written, summed up and recorded in a thread, or on another machine."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.settings import Codec
from kit.data.statistics import Summary, channel_key, point_weights, share_of_sample, summarise
from kit.data.store.build_state import STATIC, BuildState
from kit.data.store.format import chunk_file, compressors, period_indices, times_of
from kit.data.store.manifest import BlockRecord, ChunkFact, write_file
from kit.io.hashes import sha256_of_bytes


class Stopped(Exception):
    """A block was given up because the build ends."""


@dataclass(frozen=True)
class WriteTask:
    """What it takes to write a block.

    Attributes:
        store: Folder of the chunks.
        scratch: Folder in which files are written before they are moved.
        record: Path of the record.
        codec: Packing of the chunks.
        arrays: Values by name, lazy or not, [T, (C,) H, W]; [1, H, W] of static variables.
        keys: Statistics keys by name, one for each level.
        indices: Indices of the states in the store; None for static variables.
        moments: Times, seconds since 1970, [T].
        counted: Indices in the block of states that enter the statistics.
        draw: Number of values in each field's sample.
        weights: Weights of points or rows, in the statistics.
    """

    store: Path
    scratch: Path
    record: Path
    codec: Codec
    arrays: Mapping[str, xr.Variable]
    keys: Mapping[str, tuple[str, ...]]
    indices: Sequence[int] | None
    moments: tuple[int, ...]
    counted: tuple[int, ...]
    draw: int
    weights: npt.NDArray[np.float64] | None


def keys_of(array: xr.DataArray) -> tuple[str, ...]:
    """Return the statistics keys of a variable."""
    name = str(array.name)
    if "level" not in array.dims:
        return (name,)
    return tuple(channel_key(name, level) for level in array["level"].values)


def cut_block(build: BuildState, dataset: xr.Dataset, number: int, *, offset: int = 0) -> WriteTask:
    """Cut a block out of a dataset.

    Args:
        build: Build to which the block belongs.
        dataset: All states of the build.
        number: Number of the block.
        offset: Number of states that the store has before those of the dataset.
    """
    static = number == STATIC
    chosen = {str(name): array for name, array in dataset.data_vars.items() if ("time" in array.dims) != static}
    indices = None
    if static:
        # As one state, whose values are all that the statistics are made of.
        arrays = {name: xr.Variable(("time", *array.dims), array.data[None]) for name, array in chosen.items()}
        moments, counted, states = [0], [0], 1
    else:
        start, stop = build.plan.edges[number : number + 2]
        indices = range(start + offset, stop + offset)
        arrays = {name: array.variable.isel(time=slice(start, stop)) for name, array in chosen.items()}
        times = times_of(dataset)
        # They seed the samples of quantiles, which then do not depend on how states are cut into blocks.
        moments = times[start:stop].astype(np.int64).tolist()
        train = period_indices(times, build.plan.splits["train"])
        counted = (train[(train >= start) & (train < stop)] - start).tolist()
        states = build.plan.content["counted"]
    return WriteTask(
        store=build.store,
        scratch=build.scratch,
        record=build.record_file(number),
        codec=build.plan.codec,
        arrays=arrays,
        keys=dict(zip(chosen, map(keys_of, chosen.values()), strict=True)),
        indices=indices,
        moments=tuple(moments),
        counted=tuple(counted),
        draw=share_of_sample(states),
        weights=point_weights(build.plan.weights, dataset["latitude"].values, dataset["longitude"].values),
    )


def write_block(task: WriteTask, stop: threading.Event | None = None) -> int:
    """Write a block, and the record of it when all of its chunks are there.

    Writing one again writes the same bytes, so that two that do so by mistake do no harm.

    Args:
        task: Block to write.
        stop: Event that is set when the build ends before this block does.

    Returns:
        Bytes of its values, float32.

    Raises:
        Stopped: it was told to stop.
        StoreError: the source cannot be read.
        OSError: the disk is full.
    """
    facts: list[ChunkFact] = []
    summaries: list[list[tuple[str, Summary]]] = [[] for _ in task.counted]
    size, encode = 0, encoder(task.codec)
    for name, lazy in task.arrays.items():
        if stop is not None and stop.is_set():
            raise Stopped
        # A variable at a time, so that no more than one is held.
        # In this thread alone: blocks run beside each other, and dask's threads on one would hold all its variables.
        states = np.ascontiguousarray(lazy.compute(scheduler="synchronous").values, dtype=np.float32)
        size += states.nbytes
        for position, state in enumerate(states):
            if task.indices is None:
                path = chunk_file(name, state.ndim, None)
            else:
                path = chunk_file(name, state.ndim + 1, task.indices[position])
            content = encode(state)
            write_file(task.store / path, content, task.scratch)
            facts.append(ChunkFact(path, len(content), sha256_of_bytes(content)))
        for row, position in enumerate(task.counted):
            # One field for each key: a level, or all of a surface variable.
            layers = states[position].reshape(-1, *states.shape[-2:])
            for key, layer in zip(task.keys[name], layers, strict=True):
                summary = summarise(key, layer, draw=task.draw, moment=task.moments[position], weights=task.weights)
                summaries[row].append((key, summary))
    BlockRecord(tuple(facts), tuple(map(tuple, summaries))).save(task.record, task.scratch)
    return size


# Chunks as Zarr writes them, without its machinery for each: encoded in one go, in the thread that has the values.

Encode = Callable[[npt.NDArray[np.float32]], bytes]
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@functools.cache
def encoder(codec: Codec) -> Encode:
    """Return the function that turns a whole chunk into the bytes that Zarr would write for it.

    Blosc packs a chunk to the same bytes in one thread only, which is how numcodecs calls it outside the main thread:
    call it there.
    """
    # The codecs of Zarr's arrays, as numcodecs and the CRC32C library carry them out.
    blosc = None
    for packing in compressors(codec):
        found = packing.to_dict()
        if found["name"] == "blosc":
            options: dict[str, Any] = dict(found["configuration"])  # type: ignore[arg-type]
            blosc = numcodecs.Blosc(**options | {"shuffle": _SHUFFLES[options["shuffle"]]})
        else:
            assert found["name"] == "crc32c", found

    def encode(chunk: npt.NDArray[np.float32]) -> bytes:
        content: Any = np.ascontiguousarray(chunk, dtype="<f4").reshape(-1).view(np.uint8)
        if blosc is not None:
            content = blosc.encode(content)
        data = bytes(content)
        # All codecs of a store end with the checksum.
        return data + int(google_crc32c.value(data)).to_bytes(4, "little")

    return encode
