"""Pairs: input states and what follows them, from a store to ``aurora.Batch``.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
import torch
from aurora import Batch, Metadata
from torch.utils.data import DataLoader, Dataset, Sampler

from kit.data.grid import Grid
from kit.data.longitudes import longitudes
from kit.data.negative import refuse_negative
from kit.data.settings import Period
from kit.data.store import Store
from kit.data.workers import Loader, start_worker
from kit.errors import SettingsError, StoreError

__all__ = ["Grid", "Pair", "Pairs", "Selection", "ShuffledPairs", "collate", "concatenate", "load_pairs", "read_ahead"]

Read = TypeVar("Read")


@dataclass(frozen=True)
class Selection:
    """What is read from a store, under the store's names.

    Attributes:
        inputs: surface variables of the input states.
        targets: surface variables of the target states.
        atmospheric: atmospheric variables of both.
        static: static variables.
        levels: pressure levels in hPa.
        history: input states.
        timestep: between two states, from the first input state to the last target.
        grid: which part of the grid.
        non_negative: variables that are transformed as what cannot be below zero; such values are refused.
    """

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    atmospheric: tuple[str, ...]
    static: tuple[str, ...]
    levels: tuple[int | float, ...]
    history: int
    timestep: timedelta
    grid: Grid
    non_negative: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Pair:
    """Input states and the state to be predicted from them, physical variables in float32.

    Attributes:
        inputs: [B, T, H, W] and [B, T, C, H, W]; its time is that of the last input state.
        target: [B, 1, H, W] and [B, 1, C, H, W]; its time is that of the target, one or more steps ahead.
        between: where steps on the way to the target are graded, the states there, in order of time.
    """

    inputs: Batch
    target: Batch
    between: tuple[Batch, ...] = ()

    @property
    def targets(self) -> tuple[Batch, ...]:
        """All that is graded, in order of time."""
        return (*self.between, self.target)

    def to(self, device: torch.device) -> Pair:
        """Move everything to a device."""
        return self._map(lambda batch: batch.to(device))

    def pin_memory(self) -> Pair:
        """Copy everything to pinned memory, so that a copy to a GPU need not wait."""
        return self._map(lambda batch: batch._fmap(torch.Tensor.pin_memory))

    def _map(self, change: Callable[[Batch], Batch]) -> Pair:
        return Pair(change(self.inputs), change(self.target), tuple(change(batch) for batch in self.between))


class Pairs(Dataset[Pair]):
    """The pairs of a period, in order of time; every state of a pair, and on its way, lies within the period."""

    def __init__(self, store: Store, selection: Selection, period: Period, *, steps: int = 1, targets: int = 1) -> None:
        """Find the pairs.

        Args:
            store: where they are read from.
            selection: what is read.
            period: where they lie.
            steps: from the last input state to the target. The states between must be there, too. 0 asks for no
                target: there are input states alone, to be had from ``inputs``.
            targets: how many of the last states on the way are read, the target among them.

        Raises:
            StoreError: the period holds no pair; says what it holds.
        """
        self.store = store
        self.selection = selection
        self.period = period
        self.steps = steps
        self._targets = slice(-targets, None)
        self._levels = [store.levels.index(level) for level in selection.levels]
        grid = selection.grid
        self.latitude = torch.from_numpy(grid.latitude(store).astype(np.float32))
        self.longitude = longitudes(grid.longitude(store))
        self._static = {name: torch.from_numpy(grid.read_static(store, name)) for name in selection.static}
        seconds = store.times.astype("datetime64[s]").astype(np.int64)
        self._where = {int(second): index for index, second in enumerate(seconds)}
        self._indices = self._find()
        if not self._indices:
            raise StoreError(self._nothing_found())

    def _find(self) -> list[tuple[int, ...]]:
        """Indices into the store's times: the input states, then the state at every step."""
        where = self._where
        step = int(self.selection.timestep.total_seconds())
        start, end = (int(moment.timestamp()) for moment in (self.period.start, self.period.end))
        offsets = [step * k for k in range(1 - self.selection.history - self.steps, 1)]
        found = []
        for target in where:
            needed = [target + offset for offset in offsets]
            if needed[0] >= start and target <= end and all(moment in where for moment in needed):
                found.append(tuple(where[moment] for moment in needed))
        return found

    def _nothing_found(self) -> str:
        inside = [_aware(time) for time in self.store.times]
        count = sum(self.period.start <= time <= self.period.end for time in inside)
        hours = self.selection.timestep.total_seconds() / 3600
        after = {0: "", 1: " and a target"}.get(self.steps, f" and the {self.steps} that follow (rollout.steps)")
        return (
            f"{self.store.path}: no pair in {self.period}: {self.selection.history} input states{after}, "
            f"{hours:g} h apart, are needed; {count} of the store's {len(inside)} times are in that period, "
            f"which run from {inside[0]:%Y-%m-%dT%H:%M} to {inside[-1]:%Y-%m-%dT%H:%M}"
        )

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Pair:
        states = self._indices[index]
        inputs = self.inputs(index)
        *between, target = (self._batch([state], self.selection.targets) for state in states[self._targets])
        return Pair(inputs, target, tuple(between))

    def inputs(self, index: int) -> Batch:
        """The input states of a pair alone."""
        return self._batch(self._indices[index][: self.selection.history], self.selection.inputs)

    def following(self, index: int, steps: int) -> tuple[int, ...]:
        """Places in the store of the states after a pair's input states, one for each step, for ``target``.

        Args:
            index: of the pair.
            steps: at most so many; fewer where a state is missing or lies beyond the period.
        """
        first = int(self.time(index).timestamp())
        end, step = int(self.period.end.timestamp()), int(self.selection.timestep.total_seconds())
        moments = takewhile(self._where.__contains__, range(first + step, min(first + steps * step, end) + 1, step))
        return tuple(self._where[moment] for moment in moments)

    def target(self, place: int) -> Batch:
        """The state at a place in the store, as a target."""
        return self._batch([place], self.selection.targets)

    def time(self, index: int) -> datetime:
        """Time of the last input state of a pair, UTC."""
        return _aware(self.store.times[self._indices[index][self.selection.history - 1]])

    def newest(self, name: str, indices: Sequence[int]) -> torch.Tensor:
        """States of a surface variable at the last input time of pairs, [B, H, W]; it need not be an input itself."""
        return self._read(name, [self._indices[index][self.selection.history - 1] for index in indices])[0]

    @property
    def times(self) -> list[datetime]:
        """Time of the last input state of every pair, UTC."""
        return [self.time(index) for index in range(len(self))]

    def _batch(self, times: Sequence[int], surface: Sequence[str]) -> Batch:
        return Batch(
            surf_vars={name: self._read(name, times) for name in surface},
            static_vars=self._static,
            atmos_vars={name: self._read(name, times, levels=self._levels) for name in self.selection.atmospheric},
            metadata=Metadata(
                lat=self.latitude,
                lon=self.longitude,
                time=(_aware(self.store.times[times[-1]]),),
                atmos_levels=self.selection.levels,
            ),
        )

    def _read(self, name: str, times: Sequence[int], levels: Sequence[int] | None = None) -> torch.Tensor:
        values = self.selection.grid.read(self.store, name, times, levels)
        if name in self.selection.non_negative:
            refuse_negative(self.store, name, times, values)
        return torch.from_numpy(values)[None]


def _aware(time: np.datetime64) -> datetime:
    """UTC with its zone: upstream calls ``timestamp()``, which takes a naive time for local."""
    seconds = int(time.astype("datetime64[s]").astype(np.int64))
    return datetime.fromtimestamp(seconds, tz=UTC)


def collate(pairs: Sequence[Pair]) -> Pair:
    """Concatenate pairs along the batch dimension; statics are shared."""
    between = zip(*(pair.between for pair in pairs), strict=True)
    return Pair(
        concatenate([pair.inputs for pair in pairs]),
        concatenate([pair.target for pair in pairs]),
        tuple(concatenate(batches) for batches in between),
    )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Put batches of the same variables, grid and roll-out step together along the batch dimension."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def cat(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    metadata = Metadata(
        lat=first.metadata.lat,
        lon=first.metadata.lon,
        time=tuple(time for batch in batches for time in batch.metadata.time),
        atmos_levels=first.metadata.atmos_levels,
        rollout_step=first.metadata.rollout_step,
    )
    surface, atmospheric = cat([b.surf_vars for b in batches]), cat([b.atmos_vars for b in batches])
    return Batch(surface, first.static_vars, atmospheric, metadata)


class ShuffledPairs(Sampler[list[int]]):
    """Batches of indices, epoch after epoch, each epoch in an order of its own; begins at any position.

    The order depends on the seed and the epoch alone, so that a resumed run goes on with the very batches that an
    uninterrupted one would have seen.
    """

    def __init__(self, pairs: int, *, batch_size: int, seed: int, batches: int, start: int = 0) -> None:
        """Plan the batches.

        Args:
            pairs: pairs in an epoch; the last batch of an epoch may be smaller.
            batch_size: pairs in a batch.
            seed: of the order.
            batches: how many in all, counted from the beginning of training.
            start: batches already seen.

        Raises:
            SettingsError: a batch is larger than an epoch.
        """
        if batch_size > pairs:
            msg = f"data.batch_size is {batch_size}, but the training period holds only {pairs} pairs; make it smaller"
            raise SettingsError(msg)
        self._pairs, self._batch_size, self._seed = pairs, batch_size, seed
        self._start, self._stop = start, batches

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the pairs."""
        return -(-self._pairs // self._batch_size)

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[list[int]]:
        order: list[int] = []
        for batch in range(self._start, self._stop):
            epoch, place = divmod(batch, self.batches_per_epoch)
            if place == 0 or not order:
                order = self._order(epoch)
            yield order[place * self._batch_size : (place + 1) * self._batch_size]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + epoch)
        indices: list[int] = torch.randperm(self._pairs, generator=generator).tolist()
        return indices


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


def load_pairs(
    pairs: Pairs,
    *,
    workers: int,
    batch_sampler: Sampler[list[int]] | None = None,
    batch_size: int = 1,
    pin: bool = False,
) -> DataLoader[Pair]:
    """Read pairs ahead of their use.

    Args:
        pairs: what to read.
        workers: processes that read; 0 reads in the calling thread.
        batch_sampler: which pairs in which order; in order of time without one.
        batch_size: pairs in a batch, where there is no sampler.
        pin: hand batches over in pinned memory.
    """
    order: dict[str, Any] = {"batch_size": batch_size} if batch_sampler is None else {"batch_sampler": batch_sampler}
    return Loader(
        pairs,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        # Its own: the loader seeds its workers from this, and must not draw from what training draws from.
        generator=torch.Generator().manual_seed(0),
        persistent_workers=False,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=start_worker if workers else None,
        **order,
    )
