"""Reads many parts of states at once, into tensors: by threads of this process, or by processes of their own.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch

from kit.data.chunks import Part
from kit.data.workers import Block, Order, Workers

__all__ = ["HERE", "ProcessReader", "Reader", "ThreadReader", "Wanted", "reader_for"]

_MOST_THREADS = 4
_FLOAT = torch.float32


@dataclass(frozen=True)
class Wanted:
    """One tensor to be read.

    Attributes:
        leading: its first dimensions, [B, T].
        parts: of states, B x T of them, all of one shape.
    """

    leading: tuple[int, ...]
    parts: Sequence[Part]

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

    def read(self, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
        """Read all that is wanted, float32 on the host.

        Raises:
            StoreError: a chunk is gone or damaged.
            WorkerError: a process that read is gone.
        """


class ThreadReader:
    """Reads in threads: unpacking leaves Python's lock alone."""

    def __init__(self, threads: int = 1, *, pin: bool = False) -> None:
        """Begin.

        Args:
            threads: that read at once; one reads in the calling thread.
            pin: read into pinned memory.
        """
        self._threads, self._pin = threads, pin

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="states")

    def read(self, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
        """Read straight into the tensors."""
        tensors = [torch.empty(one.shape, dtype=_FLOAT, pin_memory=self._pin) for one in wanted]
        parts = [part for one in wanted for part in one.parts]
        states = [
            state for one, tensor in zip(wanted, tensors, strict=True) for state in tensor.view(-1, *one.parts[0].shape)
        ]
        run = map if self._threads == 1 else self._pool.map
        for _ in run(Part.read, parts, (state.numpy() for state in states)):
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

    def read(self, wanted: Sequence[Wanted]) -> list[torch.Tensor]:
        """Have the processes read into one block of memory, of which the tensors are parts."""
        page = mmap.ALLOCATIONGRANULARITY
        *starts, size = accumulate((-(-one.bytes // page) * page for one in wanted), initial=0)
        block = Block(size)
        try:
            each = [one.bytes // len(one.parts) for one in wanted]
            orders = [
                Order(part, start + number * step)
                for one, start, step in zip(wanted, starts, each, strict=True)
                for number, part in enumerate(one.parts)
            ]
            self._workers.read(orders, block.path)
        finally:
            block.close()
        flat = torch.frombuffer(block.memory, dtype=_FLOAT)
        places = [start // _FLOAT.itemsize for start in starts]
        tensors = [
            flat[place : place + math.prod(one.shape)].view(one.shape)
            for one, place in zip(wanted, places, strict=True)
        ]
        return [tensor.pin_memory() for tensor in tensors] if self._pin else tensors


HERE: Reader = ThreadReader()
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
