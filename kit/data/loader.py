"""Loader of pairs: read ahead of their use, in the order of training, with the time that is spent waiting for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Generic, TypeVar

import torch

from kit.data.dataset import Pair, Pairs
from kit.data.readers import Reader, reader_for
from kit.io.errors import SettingsError

Read = TypeVar("Read")


def read_ahead(batches: Iterable[Read], depth: int = 2) -> Iterator[Read]:
    """Read the next batches in a thread while the present one is used; same batches, same order.

    Args:
        batches: Batches to read.
        depth: Number of batches that may wait, each held in memory.
    """
    stream = iter(batches)
    # One thread, so that the source is never asked by two at once and the order stays.
    with ThreadPoolExecutor(1, thread_name_prefix="pairs") as reader:
        waiting = deque(reader.submit(next, stream, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, stream, None))
            yield batch


class Loader(Iterable[Pair]):
    """Batches of pairs, read ahead, as often as it is gone through."""

    def __init__(
        self, pairs: Pairs, order: Iterable[Sequence[int]], reader: Reader, prefetch: Callable[[datetime], None] | None
    ) -> None:
        self._pairs, self._order, self._reader, self._prefetch = pairs, order, reader, prefetch

    def __iter__(self) -> Iterator[Pair]:
        return read_ahead(self._read())

    def _read(self) -> Iterator[Pair]:
        for indices in self._order:
            pair = self._pairs.batch(indices, self._reader)
            if self._prefetch is not None:
                for time in pair.inputs.metadata.time:
                    self._prefetch(time)
            yield pair


def load_pairs(
    pairs: Pairs,
    reader: Reader | None = None,
    *,
    order: Iterable[Sequence[int]] | None = None,
    batch_size: int = 1,
    prefetch: Callable[[datetime], None] | None = None,
) -> Loader:
    """Read pairs ahead of their use.

    Args:
        pairs: Pairs to read.
        reader: Reader; by default a few threads of this process.
        order: Indices of each batch; in order of time without.
        batch_size: Number of pairs in a batch, where there is no order.
        prefetch: Function that reads what else belongs to an input time, in the same thread.
    """
    if order is None:
        count = len(pairs)
        order = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    return Loader(pairs, order, reader or reader_for(0), prefetch)


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
        seconds: Time spent waiting so far.
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


# In which order pairs are trained on, and how processes that train together share them.


@dataclass(frozen=True)
class ProcessShare:
    """Rank of this process among those that train together."""

    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_process(cls) -> ProcessShare:
        """Ask ``torch.distributed``; this is the only process where no process group has been made."""
        group = torch.distributed
        if not (group.is_available() and group.is_initialized()):
            return cls()
        return cls(group.get_rank(), group.get_world_size())

    def even(self, pairs: int) -> int:
        """Round a number of pairs down to one that the processes can share evenly."""
        return pairs - pairs % self.ranks


class ShuffledPairs:
    """Batches of indices, epoch after epoch, each epoch in an order of its own; begins at any position.

    The order depends on the seed and the epoch alone, so that a resumed run goes on with the very batches that an
    uninterrupted one would have seen. Processes that train together take every batch apart: each has as many pairs of
    it as the others, and together they have those that one process alone would have had.
    """

    def __init__(
        self,
        pairs: int,
        *,
        batch_size: int,
        seed: int,
        batches: int,
        start: int = 0,
        share: ProcessShare | None = None,
    ) -> None:
        """Plan the batches.

        Args:
            pairs: Number of pairs in an epoch; the last batch of an epoch may be smaller. What several processes cannot
                share evenly is left out of an epoch, other pairs in each.
            batch_size: Number of pairs in a batch, of all processes together.
            seed: Seed of the order.
            batches: Total number of batches, counted from the beginning of training.
            start: Number of batches already used.
            share: Rank of this process; the only one by default.

        Raises:
            SettingsError: a batch is larger than an epoch, or cannot be shared evenly.
        """
        share = share or ProcessShare()
        if batch_size > pairs:
            msg = f"data.batch_size is {batch_size}, but the training period holds only {pairs} pairs; make it smaller"
            raise SettingsError(msg)
        if batch_size % share.ranks:
            msg = (
                f"data.batch_size is {batch_size}, which {share.ranks} processes cannot share evenly: it counts the "
                f"pairs of all of them; choose a multiple of {share.ranks}"
            )
            raise SettingsError(msg)
        self._pairs, self._batch_size, self._seed = pairs, batch_size, seed
        self._start, self._stop, self._share = start, batches, share

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the pairs."""
        return -(-self._share.even(self._pairs) // self._batch_size)

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[int]]:
        order: list[int] = []
        for batch in range(self._start, self._stop):
            epoch, place = divmod(batch, self.batches_per_epoch)
            if place == 0 or not order:
                # Of the seed and the epoch alone, so that a run may begin anywhere.
                generator = torch.Generator().manual_seed(1_000_003 * self._seed + epoch)
                order = torch.randperm(self._pairs, generator=generator).tolist()[: self._share.even(self._pairs)]
            whole = order[place * self._batch_size : (place + 1) * self._batch_size]
            yield whole[self._share.rank :: self._share.ranks]
