"""Readers of many parts of states at once, into tensors: threads of this process, or processes of their own.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from kit.data.chunks import ChunkSlice
from kit.data.reader_processes import ReadTask, SharedBuffer, Workers

_MOST_THREADS = 4
_MOST_FREE = 4
"""Blocks that wait to be used again: as many as are read ahead, being read and in use at once."""
_FLOAT = torch.float32


@dataclass(frozen=True)
class ReadRequest:
    """One tensor to be read.

    Attributes:
        leading: First dimensions of the tensor, [B, T].
        slices: Slices of states, B x T of them, all of one shape.
    """

    leading: tuple[int, ...]
    slices: Sequence[ChunkSlice]

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, T, H, W], or [B, T, C, H, W] for an atmospheric variable."""
        return (*self.leading, *self.slices[0].shape)

    @property
    def bytes(self) -> int:
        """Size of the tensor."""
        return math.prod(self.shape) * _FLOAT.itemsize


class Reader(Protocol):
    """Reads tensors; safe to be used by several threads."""

    def read(self, requests: Sequence[ReadRequest]) -> list[torch.Tensor]:
        """Read tensors, float32 on the host.

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
        """Take so many bytes, as a flat tensor in float32 whose memory comes back with the end of its last view."""
        block = None
        while block is None and self._free:
            try:
                block = self._free.popleft()
            except IndexError:
                # Another thread was faster.
                break
            if not size <= block.size <= 2 * size:
                # Of another use; it is let go.
                block = None
        block = block or self._kind(size)
        bytes_of_block = np.frombuffer(block.memory, np.uint8, size)
        # A tensor's storage holds on to the very array that it was made from.
        weakref.finalize(bytes_of_block, self._free.append, block).atexit = False
        return block, torch.from_numpy(bytes_of_block).view(_FLOAT)


def _offsets(requests: Sequence[ReadRequest]) -> tuple[list[int], int]:
    """Lay tensors out in memory for all; returns the first byte of each, at the beginning of a page, and the size."""
    page = mmap.ALLOCATIONGRANULARITY
    *starts, size = accumulate((-(-request.bytes // page) * page for request in requests), initial=0)
    return starts, size


def _cut(flat: torch.Tensor, requests: Sequence[ReadRequest], starts: Sequence[int]) -> list[torch.Tensor]:
    tensors = []
    for request, start in zip(requests, starts, strict=True):
        first = start // _FLOAT.itemsize
        tensors.append(flat[first : first + math.prod(request.shape)].view(request.shape))
    return tensors


class ThreadReader:
    """Reads in threads: unpacking and the system's reads leave Python's lock alone."""

    def __init__(self, threads: int = 1, *, pin: bool = False) -> None:
        """Begin.

        Args:
            threads: Number of threads that read at once; one reads in the calling thread.
            pin: Whether to read into pinned memory.
        """
        self._pin, self._memory = pin, _Recycled(_Plain)
        self._map: Callable[..., Iterable[None]] = map
        if threads > 1:
            # Threads start with the first read.
            self._map = ThreadPoolExecutor(threads, thread_name_prefix="states").map

    def read(self, requests: Sequence[ReadRequest]) -> list[torch.Tensor]:
        """Read straight into the tensors."""
        if self._pin:
            # PyTorch uses pinned memory again by itself.
            tensors = [torch.empty(request.shape, dtype=_FLOAT, pin_memory=True) for request in requests]
        else:
            starts, size = _offsets(requests)
            tensors = _cut(self._memory.take(size)[1], requests, starts)
        slices: list[ChunkSlice] = []
        states: list[npt.NDArray[np.float32]] = []
        for request, tensor in zip(requests, tensors, strict=True):
            slices += request.slices
            states.extend(tensor.numpy().reshape(-1, *request.slices[0].shape))
        for _ in self._map(ChunkSlice.read, slices, states):
            pass
        return tensors


class ProcessReader:
    """Reads in processes, which share memory with this one."""

    def __init__(self, workers: int, *, pin: bool = False) -> None:
        """Begin; processes start with the first read.

        Args:
            workers: Number of processes.
            pin: Whether to copy what was read to pinned memory.
        """
        self._workers, self._pin = Workers(workers), pin
        self._memory = _Recycled(SharedBuffer)

    def read(self, requests: Sequence[ReadRequest]) -> list[torch.Tensor]:
        """Read in the processes into one block of memory, of which the tensors are parts."""
        starts, size = _offsets(requests)
        block, flat = self._memory.take(size)
        tasks = []
        for request, start in zip(requests, starts, strict=True):
            step = request.bytes // len(request.slices)
            tasks += [ReadTask(one, start + number * step) for number, one in enumerate(request.slices)]
        self._workers.read(tasks, block.path)
        tensors = _cut(flat, requests, starts)
        if self._pin:
            # Memory that processes share cannot be pinned: it takes another copy.
            tensors = [tensor.pin_memory() for tensor in tensors]
        return tensors


DEFAULT_READER: Reader = ThreadReader()
"""Reads in the calling thread."""


def reader_for(workers: int, *, pin: bool = False) -> Reader:
    """Make a reader with so many processes; with none, up to four threads read.

    Args:
        workers: Number of processes, ``data.workers``.
        pin: Whether to hand states over in pinned memory.
    """
    if workers:
        return ProcessReader(workers, pin=pin)
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        # Of a container or a job that has a part of the machine.
        cores = len(os.sched_getaffinity(0))
    return ThreadReader(min(cores, _MOST_THREADS), pin=pin)
