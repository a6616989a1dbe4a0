"""Reads many parts of states at once, into tensors: by threads of this process, or by processes of their own.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from kit.data.chunks import ChunkSlice
from kit.data.reader_processes import ReadTask, SharedBuffer, Workers

__all__ = ["DEFAULT_READER", "ProcessReader", "Reader", "ThreadReader", "ReadRequest", "reader_for"]

_MOST_THREADS = 4
_MOST_FREE = 4
"""Blocks that wait to be used again: as many as are read ahead, being read and in use at once."""
_FLOAT = torch.float32


@dataclass(frozen=True)
class ReadRequest:
    """One tensor to be read.

    Attributes:
        leading: its first dimensions, [B, T].
        parts: of states, B x T of them, all of one shape.
    """

    leading: tuple[int, ...]
    parts: Sequence[ChunkSlice]

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, T, H, W], or [B, T, C, H, W] for an atmospheric variable."""
        return (*self.leading, *self.parts[0].shape)

    @property
    def bytes(self) -> int:
        """Of the tensor."""
        return math.prod(self.shape) * _FLOAT.itemsize


class Reader(Protocol):
    """Reads tensors; safe to be used by several threads."""

    def read(self, wanted: Sequence[ReadRequest]) -> list[torch.Tensor]:
        """Read all that is wanted, float32 on the host.

        Raises:
            StoreError: a chunk is gone or damaged.
            WorkerError: a process that read is gone.
        """


class _Plain:
    """Memory of this process alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        # NumPy would ask for huge pages, which take seconds to find where the page cache has split memory up.
        self.memory = mmap.mmap(-1, size)


Kind = TypeVar("Kind", _Plain, SharedBuffer)


class _Recycled(Generic[Kind]):
    """Memory that is used again when no tensor uses it any more.

    To be given fresh pages, which the system fills with zeros, takes longer than to unpack states into them: for a pair
    at 0.25 degrees 0.38 s of a processor, beside 0.2.
    """

    def __init__(self, kind: type[Kind]) -> None:
        self._kind: Callable[[int], Kind] = kind
        self._free: deque[Kind] = deque(maxlen=_MOST_FREE)

    def take(self, size: int) -> tuple[Kind, torch.Tensor]:
        """So many bytes, as a flat tensor in float32 whose memory comes back with the end of its last view."""
        block = self._fitting(size) or self._kind(size)
        bytes_of_block = np.frombuffer(block.memory, np.uint8, size)
        # A tensor's storage holds on to the very array that it was made from.
        weakref.finalize(bytes_of_block, self._free.append, block).atexit = False
        return block, torch.from_numpy(bytes_of_block).view(_FLOAT)

    def _fitting(self, size: int) -> Kind | None:
        """A free block of about this size; others are let go."""
        while self._free:
            try:
                block = self._free.popleft()
            except IndexError:
                break
            if size <= block.size <= 2 * size:
                return block
        return None


def _places(wanted: Sequence[ReadRequest]) -> tuple[list[int], int]:
    """First byte of each tensor in memory for all, each at the beginning of a page; and the bytes of all."""
    page = mmap.ALLOCATIONGRANULARITY
    *starts, size = accumulate((-(-one.bytes // page) * page for one in wanted), initial=0)
    return starts, size


def _cut(flat: torch.Tensor, wanted: Sequence[ReadRequest], starts: Sequence[int]) -> list[torch.Tensor]:
    places = [start // _FLOAT.itemsize for start in starts]
    return [
        flat[place : place + math.prod(one.shape)].view(one.shape) for one, place in zip(wanted, places, strict=True)
    ]


class ThreadReader:
    """Reads in threads: unpacking leaves Python's lock alone."""

    def __init__(self, threads: int = 1, *, pin: bool = False) -> None:
        """Begin.

        Args:
            threads: that read at once; one reads in the calling thread.
            pin: read into pinned memory.
        """
        self._threads, self._pin = threads, pin
        self._memory = _Recycled(_Plain)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="states")

    def read(self, wanted: Sequence[ReadRequest]) -> list[torch.Tensor]:
        """Read straight into the tensors."""
        if self._pin:
            # PyTorch uses pinned memory again by itself.
            tensors = [torch.empty(one.shape, dtype=_FLOAT, pin_memory=True) for one in wanted]
        else:
            starts, size = _places(wanted)
            tensors = _cut(self._memory.take(size)[1], wanted, starts)
        parts = [part for one in wanted for part in one.parts]
        states = [
            state
            for one, tensor in zip(wanted, tensors, strict=True)
            for state in tensor.numpy().reshape(-1, *one.parts[0].shape)
        ]
        run = map if self._threads == 1 else self._pool.map
        for _ in run(ChunkSlice.read, parts, states):
            pass
        return tensors


class ProcessReader:
    """Reads in processes, which share memory with this one."""

    def __init__(self, workers: int, *, pin: bool = False) -> None:
        """Begin; processes start with the first read.

        Args:
            workers: processes.
            pin: copy what was read to pinned memory.
        """
        self._workers, self._pin = Workers(workers), pin
        self._memory = _Recycled(SharedBuffer)

    def read(self, wanted: Sequence[ReadRequest]) -> list[torch.Tensor]:
        """Have the processes read into one block of memory, of which the tensors are parts."""
        starts, size = _places(wanted)
        block, flat = self._memory.take(size)
        each = [one.bytes // len(one.parts) for one in wanted]
        orders = [
            ReadTask(part, start + number * step)
            for one, start, step in zip(wanted, starts, each, strict=True)
            for number, part in enumerate(one.parts)
        ]
        self._workers.read(orders, block.path)
        tensors = _cut(flat, wanted, starts)
        return [tensor.pin_memory() for tensor in tensors] if self._pin else tensors


DEFAULT_READER: Reader = ThreadReader()
"""Reads in the calling thread."""


def reader_for(workers: int, *, pin: bool = False) -> Reader:
    """What reads with so many processes; with none, up to four threads do.

    Args:
        workers: ``data.workers``.
        pin: hand states over in pinned memory.
    """
    if workers:
        return ProcessReader(workers, pin=pin)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadReader(min(cores, _MOST_THREADS), pin=pin)
