"""Pairs read ahead of their use, and the time that is spent waiting for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Generic, TypeVar

from kit.data.pairs import Pair, Pairs
from kit.data.reading import Reader, reader_for

__all__ = ["Loader", "Upcoming", "Waiting", "load_pairs", "read_ahead"]

Read = TypeVar("Read")


def read_ahead(batches: Iterable[Read], depth: int = 2) -> Iterator[Read]:
    """Read the next batches in a thread while the present one is used; same batches, same order.

    Args:
        batches: what is read.
        depth: batches that may wait, each held in memory.
    """
    stream = iter(batches)
    with ThreadPoolExecutor(1, thread_name_prefix="pairs") as reader:
        waiting = deque(reader.submit(next, stream, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, stream, None))
            yield batch


class Loader(Iterable[Pair]):
    """Batches of pairs, read ahead, as often as it is gone through."""

    def __init__(
        self, pairs: Pairs, order: Iterable[Sequence[int]], reader: Reader, beside: Callable[[datetime], None] | None
    ) -> None:
        self._pairs, self._order, self._reader, self._beside = pairs, order, reader, beside

    def __iter__(self) -> Iterator[Pair]:
        return read_ahead(map(self._read, self._order))

    def _read(self, indices: Sequence[int]) -> Pair:
        pair = self._pairs.batch(indices, self._reader)
        if self._beside is not None:
            for time in pair.inputs.metadata.time:
                self._beside(time)
        return pair


def load_pairs(
    pairs: Pairs,
    reader: Reader | None = None,
    *,
    order: Iterable[Sequence[int]] | None = None,
    batch_size: int = 1,
    beside: Callable[[datetime], None] | None = None,
) -> Loader:
    """Read pairs ahead of their use.

    Args:
        pairs: what to read.
        reader: reads; by default a few threads of this process.
        order: the indices of each batch; in order of time without.
        batch_size: pairs in a batch, where there is no order.
        beside: reads what else belongs to an input time, in the same thread.
    """
    if order is None:
        count = len(pairs)
        order = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    return Loader(pairs, order, reader or reader_for(0), beside)


class Upcoming(Generic[Read]):
    """So many of the next items of an iterator, each taken when it is asked for."""

    def __init__(self, stream: Iterator[Read], count: int) -> None:
        self._stream, self._count = stream, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Read]:
        return islice(self._stream, self._count)


class Waiting(Generic[Read]):
    """An iterator that knows how long its user waited for it.

    Attributes:
        seconds: spent waiting so far.
    """

    def __init__(self, batches: Iterable[Read]) -> None:
        self._stream = iter(batches)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Read]:
        return self

    def __next__(self) -> Read:
        started = time.perf_counter()
        try:
            return next(self._stream)
        finally:
            self.seconds += time.perf_counter() - started
