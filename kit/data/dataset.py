"""Pairs: input states and what follows them, from a store to ``aurora.Batch``.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, takewhile

import numpy as np
import torch
from aurora import Batch, Metadata

from kit.data.grid import Grid
from kit.data.longitudes import longitudes
from kit.data.readers import DEFAULT_READER, Reader, ReadRequest
from kit.data.settings import Period
from kit.data.sources.fields import check_non_negative
from kit.data.store.reader import Store
from kit.io.errors import StoreError

__all__ = ["Grid", "Pair", "Pairs", "Selection", "collate", "concatenate", "moved"]

States = Sequence[Sequence[int]]
"""Places in a store, of the states of each sample of a batch, [B][T]."""


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
        inputs, target, *between = (moved(batch, device) for batch in (self.inputs, self.target, *self.between))
        return Pair(inputs, target, tuple(between))


def moved(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device; to a GPU without waiting for what that still computes.

    PyTorch keeps pinned memory until it has been copied, and copies other memory before it goes on.
    """
    return batch._fmap(lambda value: value.to(device, non_blocking=device.type == "cuda"))


class Pairs:
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
        whole = selection.levels == store.levels
        self._levels = None if whole else [store.levels.index(level) for level in selection.levels]
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

    def pin_memory(self) -> None:
        """Copy what all batches share, static variables and coordinates, to pinned memory."""
        self._static = {name: value.pin_memory() for name, value in self._static.items()}
        self.latitude, self.longitude = self.latitude.pin_memory(), self.longitude.pin_memory()

    def __getitem__(self, index: int) -> Pair:
        return self.batch([index])

    def batch(self, indices: Sequence[int], reader: Reader = DEFAULT_READER) -> Pair:
        """Read several pairs, one behind the other along the batch dimension.

        Args:
            indices: of the pairs.
            reader: reads all of their states at once.

        Raises:
            StoreError: a chunk is damaged, or a value is below zero that cannot be.
            WorkerError: a process that read is gone.
        """
        states = [self._indices[index] for index in indices]
        graded = range(len(states[0]))[self._targets]
        inputs: list[tuple[States, Sequence[str]]] = [(self._inputs(indices), self.selection.inputs)]
        targets = [([(each[place],) for each in states], self.selection.targets) for place in graded]
        first, *between, target = self._read([*inputs, *targets], reader)
        return Pair(first, target, tuple(between))

    def inputs(self, indices: Sequence[int], reader: Reader = DEFAULT_READER) -> Batch:
        """The input states of pairs alone."""
        return self._read([(self._inputs(indices), self.selection.inputs)], reader)[0]

    def _inputs(self, indices: Sequence[int]) -> States:
        return [self._indices[index][: self.selection.history] for index in indices]

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

    def target(self, places: Sequence[int], reader: Reader = DEFAULT_READER) -> Batch:
        """The states at places in the store, as targets."""
        return self._read([([(place,) for place in places], self.selection.targets)], reader)[0]

    def time(self, index: int) -> datetime:
        """Time of the last input state of a pair, UTC."""
        return _aware(self.store.times[self._indices[index][self.selection.history - 1]])

    def newest(self, name: str, indices: Sequence[int]) -> torch.Tensor:
        """States of a surface variable at the last input time of pairs, [B, H, W]; it need not be an input itself."""
        states = [each[-1:] for each in self._inputs(indices)]
        (values,) = self._tensors([(states, name)], DEFAULT_READER)
        return values[:, 0]

    @property
    def times(self) -> list[datetime]:
        """Time of the last input state of every pair, UTC."""
        return [self.time(index) for index in range(len(self))]

    def _read(self, batches: Sequence[tuple[States, Sequence[str]]], reader: Reader) -> list[Batch]:
        """Read batches of states with their surface variables, all at once."""
        atmospheric = self.selection.atmospheric
        named = [(states, name) for states, surface in batches for name in (*surface, *atmospheric)]
        tensors = iter(self._tensors(named, reader))
        found = []
        for states, surface in batches:
            metadata = Metadata(
                lat=self.latitude,
                lon=self.longitude,
                time=tuple(_aware(self.store.times[each[-1]]) for each in states),
                atmos_levels=self.selection.levels,
            )
            surf, atmos = ({name: next(tensors) for name in names} for names in (surface, atmospheric))
            found.append(Batch(surf_vars=surf, static_vars=self._static, atmos_vars=atmos, metadata=metadata))
        return found

    def _tensors(self, named: Sequence[tuple[States, str]], reader: Reader) -> list[torch.Tensor]:
        """Read variables of states: [B, T, H, W], or [B, T, C, H, W] in the atmosphere."""
        tensors = reader.read([self._wanted(states, name) for states, name in named])
        for (states, name), values in zip(named, tensors, strict=True):
            if name in self.selection.non_negative:
                check_non_negative(self.store, name, [*chain(*states)], values.flatten(0, 1).numpy())
        return tensors

    def _wanted(self, states: States, name: str) -> ReadRequest:
        grid, levels = self.selection.grid, self._levels
        parts = [grid.part(self.store, name, place, levels) for each in states for place in each]
        return ReadRequest((len(states), len(states[0])), parts)


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
