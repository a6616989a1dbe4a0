"""One block of states: computed, packed, written, summed up, recorded. Runs in a thread, or on another machine."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from kit.data.store.format import compressors, period_indices
from kit.data.store.layout import chunk_file, times_of
from kit.data.store.manifest import BlockRecord, ChunkFact, write_file

__all__ = ["WriteTask", "Encode", "Stopped", "block_of", "encoder", "keys_of", "write_block"]


class Stopped(Exception):
    """A block was given up because the build ends."""


@dataclass(frozen=True)
class WriteTask:
    """What it takes to write a block.

    Attributes:
        store: folder of the chunks.
        scratch: where files are written before they are moved.
        record: file of the record.
        codec: how chunks are packed.
        arrays: by name, lazy or not, [T, (C,) H, W]; [1, H, W] of static variables.
        keys: statistics keys by name, one for each level.
        indices: of the states in the store; None for static variables.
        moments: seconds since 1970, [T].
        counted: positions in the block of states that enter the statistics.
        draw: size of each field's sample.
        weights: of points or rows, in the statistics.
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
    """Statistics keys of a variable."""
    name = str(array.name)
    return (name,) if "level" not in array.dims else tuple(channel_key(name, v) for v in array["level"].values)


def block_of(part: BuildState, dataset: xr.Dataset, number: int, *, offset: int = 0) -> WriteTask:
    """Cut a block out of a dataset.

    Args:
        part: the build.
        dataset: all of its states.
        number: of the block.
        offset: states that the store has before those of the dataset.
    """
    static = number == STATIC
    chosen = {str(n): a for n, a in dataset.data_vars.items() if ("time" in a.dims) != static}
    times = times_of(dataset)
    train = period_indices(times, part.plan.splits["train"])
    start, stop = (0, 1) if static else part.plan.edges[number : number + 2]
    counted = range(1) if static else (train[(train >= start) & (train < stop)] - start).tolist()
    states = 1 if static else part.plan.content["counted"]
    return WriteTask(
        store=part.store,
        scratch=part.scratch,
        record=part.record_file(number),
        codec=part.plan.codec,
        arrays={
            name: xr.Variable(("time", *array.dims), array.data[None])
            if static
            else array.variable.isel(time=slice(start, stop))
            for name, array in chosen.items()
        },
        keys={name: keys_of(array) for name, array in chosen.items()},
        indices=None if static else range(start + offset, stop + offset),
        moments=(0,) if static else tuple(times[start:stop].astype(np.int64).tolist()),
        counted=tuple(counted),
        draw=share_of_sample(states),
        weights=point_weights(part.plan.weights, dataset["latitude"].values, dataset["longitude"].values),
    )


def write_block(block: WriteTask, stop: threading.Event | None = None) -> int:
    """Write a block, and the record of it when all of its chunks are there.

    Writing one again writes the same bytes, so that two that do so by mistake do no harm.

    Args:
        block: what is written.
        stop: is set when the build ends before this block does.

    Returns:
        Bytes of its values, float32.

    Raises:
        Stopped: it was told to stop.
        StoreError: the source cannot be read.
        OSError: the disk is full.
    """
    facts: list[ChunkFact] = []
    summaries: list[list[tuple[str, Summary]]] = [[] for _ in block.counted]
    size = 0
    for name, lazy in block.arrays.items():
        if stop is not None and stop.is_set():
            raise Stopped
        # A variable at a time, so that no more than one is held.
        states = np.ascontiguousarray(lazy.compute(scheduler="synchronous").values, dtype=np.float32)
        size += states.nbytes
        facts += _write_chunks(block, name, states)
        for row, position in enumerate(block.counted):
            summaries[row] += _summaries(block, name, states[position], block.moments[position])
    BlockRecord(tuple(facts), tuple(map(tuple, summaries))).save(block.record, block.scratch)
    return size


def _write_chunks(block: WriteTask, name: str, states: npt.NDArray[np.float32]) -> Iterator[ChunkFact]:
    encode = encoder(block.codec)
    static = block.indices is None
    for position, state in enumerate(states):
        index = None if block.indices is None else block.indices[position]
        path = chunk_file(name, state.ndim + (not static), index)
        content = encode(state)
        write_file(block.store / path, content, block.scratch)
        yield ChunkFact(path, len(content), hashlib.sha256(content).hexdigest())


def _summaries(
    block: WriteTask, name: str, state: npt.NDArray[np.float32], moment: int
) -> Iterator[tuple[str, Summary]]:
    keys = block.keys[name]
    layers = state if state.ndim == 3 else state[None]
    for key, layer in zip(keys, layers, strict=True):
        yield key, summarise(key, layer, draw=block.draw, moment=moment, weights=block.weights)


# Chunks as Zarr writes them, without its machinery for each: encoded in one go, in the thread that has the values.

Encode = Callable[[npt.NDArray[np.float32]], bytes]
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@functools.cache
def encoder(codec: Codec) -> Encode:
    """What turns a whole chunk into the bytes that writing it to an array of a store would put into its file.

    Blosc packs a chunk to the same bytes in one thread only, which is how numcodecs calls it outside the main thread:
    call it there.
    """
    steps = [_step(packing.to_dict()) for packing in compressors(codec)]

    def encode(chunk: npt.NDArray[np.float32]) -> bytes:
        content: Any = np.ascontiguousarray(chunk, dtype="<f4").reshape(-1).view(np.uint8)
        for step in steps:
            content = step(content)
        return bytes(content)

    return encode


def _step(packing: Mapping[str, Any]) -> Callable[[Any], Any]:
    options = dict(packing.get("configuration", {}))
    if packing["name"] == "blosc":
        encode: Callable[[Any], Any] = numcodecs.Blosc(**options | {"shuffle": _SHUFFLES[options["shuffle"]]}).encode
        return encode
    assert packing["name"] == "crc32c", packing
    return _checked


def _checked(content: Any) -> bytes:
    data = bytes(content)
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")
