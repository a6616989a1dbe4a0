"""Pairs of input states and the states that follow them, from a store to ``aurora.Batch``.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

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

States = Sequence[Sequence[int]]
"""Indices in a store, of the states of each sample of a batch, [B][T]."""


@dataclass(frozen=True)
class Selection:
    """What is read from a store, under the store's names.

    Attributes:
        inputs: Surface variables of the input states.
        targets: Surface variables of the target states.
        atmospheric: Atmospheric variables of both.
        static: Static variables.
        levels: Pressure levels in hPa.
        history: Number of input states.
        timestep: Time between two states, from the first input state to the last target.
        grid: Part of the grid.
        non_negative: Variables that are transformed as what cannot be below zero; such values are refused.
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
        inputs: Input states, [B, T, H, W] and [B, T, C, H, W]; their time is that of the last one.
        target: State one or more steps ahead, [B, 1, H, W] and [B, 1, C, H, W].
        between: States on the way to the target that are supervised too, in order of time.
    """

    inputs: Batch
    target: Batch
    between: tuple[Batch, ...] = ()

    @property
    def targets(self) -> tuple[Batch, ...]:
        """All states that are supervised, in order of time."""
        return (*self.between, self.target)

    def to(self, device: torch.device) -> Pair:
        """Move everything to a device."""
        between = tuple(moved(batch, device) for batch in self.between)
        return Pair(moved(self.inputs, device), moved(self.target, device), between)


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
            store: Store that is read.
            selection: Variables, levels and part of the grid.
            period: Period in which all states of a pair lie.
            steps: Number of steps from the last input state to the target. The states between must be there, too. 0
                asks for no target: there are input states alone, to be had from ``inputs``.
            targets: Number of the last states on the way that are read, the target among them.

        Raises:
            StoreError: the period holds no pair; says what it holds.
        """
        self.store, self.selection, self.period, self.steps = store, selection, period, steps
        self._targets = slice(-targets, None)
        same = selection.levels == store.levels
        self._levels = None if same else [store.levels.index(level) for level in selection.levels]
        grid = selection.grid
        # Models take coordinates in single precision; shared by all batches.
        self.latitude = torch.from_numpy(grid.latitude(store).astype(np.float32))
        self.longitude = longitudes(grid.longitude(store))
        # Every batch has the same static variables, as upstream wants them: [H, W], without a batch dimension.
        self._static = {name: torch.from_numpy(grid.read_static(store, name)) for name in selection.static}
        seconds = store.times.astype("datetime64[s]").astype(np.int64).tolist()
        self._where = dict(zip(seconds, range(len(seconds)), strict=True))
        self._indices = self._find()

    def _find(self) -> list[tuple[int, ...]]:
        """List the indices in the store of each pair: the input states, then the state at every step."""
        where, step = self._where, int(self.selection.timestep.total_seconds())
        start, end = int(self.period.start.timestamp()), int(self.period.end.timestamp())
        span = step * (self.selection.history + self.steps - 1)
        found = []
        for last in where:
            # The states on the way must be there, too: a roll-out is compared with each of them.
            needed = range(last - span, last + 1, step)
            if needed[0] >= start and last <= end and where.keys() >= set(needed):
                found.append(tuple(where[moment] for moment in needed))
        if found:
            return found
        earliest, latest = _aware(self.store.times[0]), _aware(self.store.times[-1])
        after = {0: "", 1: " and a target"}.get(self.steps, f" and the {self.steps} that follow (rollout.steps)")
        msg = (
            f"{self.store.path}: no pair in {self.period}: {self.selection.history} input states{after}, "
            f"{step / 3600:g} h apart, are needed; {len(self.store.indices(self.period))} of the store's {len(where)} "
            f"times are in that period, which run from {earliest:%Y-%m-%dT%H:%M} to {latest:%Y-%m-%dT%H:%M}. Choose "
            "longer periods with data.train, data.valid and data.test, or build a store of more states"
        )
        raise StoreError(msg)

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
            indices: Indices of the pairs.
            reader: Reader that reads all of their states at once.

        Raises:
            StoreError: a chunk is damaged, or a value is below zero that cannot be.
            WorkerError: a process that read is gone.
        """
        wanted: list[tuple[States, Sequence[str]]] = [(self._inputs(indices), self.selection.inputs)]
        # Indices of the input states, then of the state at every step, of which the last are supervised: [B, S].
        places_BS = np.array([self._indices[index] for index in indices])
        supervised_SB1 = places_BS.T[self._targets, :, None].tolist()
        wanted += [(states, self.selection.targets) for states in supervised_SB1]
        inputs, *between, target = self._read(wanted, reader)
        return Pair(inputs, target, tuple(between))

    def inputs(self, indices: Sequence[int], reader: Reader = DEFAULT_READER) -> Batch:
        """Read the input states of pairs alone."""
        return self._read([(self._inputs(indices), self.selection.inputs)], reader)[0]

    def _inputs(self, indices: Sequence[int]) -> States:
        return [self._indices[index][: self.selection.history] for index in indices]

    def following(self, index: int, steps: int) -> tuple[int, ...]:
        """List the store's indices of the states after a pair's input states, one for each step, for ``target``.

        Args:
            index: Index of the pair.
            steps: Largest number of steps; fewer where a state is missing or lies beyond the period.
        """
        first = int(self.time(index).timestamp())
        end, step = int(self.period.end.timestamp()), int(self.selection.timestep.total_seconds())
        places = []
        for moment in range(first + step, min(first + steps * step, end) + 1, step):
            if moment not in self._where:
                break
            places.append(self._where[moment])
        return tuple(places)

    def target(self, places: Sequence[int], reader: Reader = DEFAULT_READER) -> Batch:
        """Read states by their indices in the store, as targets."""
        return self._read([([(place,) for place in places], self.selection.targets)], reader)[0]

    def time(self, index: int) -> datetime:
        """Return the time of the last input state of a pair, UTC."""
        return _aware(self.store.times[self._indices[index][self.selection.history - 1]])

    def newest(self, name: str, indices: Sequence[int]) -> torch.Tensor:
        """Read a surface variable at the last input time of pairs, [B, H, W]; it need not be an input itself."""
        states = [each[-1:] for each in self._inputs(indices)]
        (values,) = self._tensors([(states, name)], DEFAULT_READER)
        return values[:, 0]

    @property
    def times(self) -> list[datetime]:
        """Time of the last input state of every pair, UTC."""
        return list(map(self.time, range(len(self))))

    def _read(self, batches: Sequence[tuple[States, Sequence[str]]], reader: Reader) -> list[Batch]:
        """Read batches of states with their surface variables, all at once."""
        atmospheric = self.selection.atmospheric
        named: list[tuple[States, str]] = []
        for states, surface in batches:
            named.extend((states, name) for name in (*surface, *atmospheric))
        # All at once: threads and processes share the work of a whole pair.
        tensors = iter(self._tensors(named, reader))
        found = []
        for states, surface in batches:
            metadata = Metadata(
                lat=self.latitude,
                lon=self.longitude,
                time=tuple(_aware(self.store.times[each[-1]]) for each in states),
                atmos_levels=self.selection.levels,
            )
            # In the order in which they were asked for.
            surf = {name: next(tensors) for name in surface}
            atmos = {name: next(tensors) for name in atmospheric}
            found.append(Batch(surf_vars=surf, static_vars=self._static, atmos_vars=atmos, metadata=metadata))
        return found

    def _tensors(self, named: Sequence[tuple[States, str]], reader: Reader) -> list[torch.Tensor]:
        """Read variables of states: [B, T, H, W], or [B, T, C, H, W] in the atmosphere."""
        grid, requests = self.selection.grid, []
        for states, name in named:
            slices = [grid.chunk_slice(self.store, name, place, self._levels) for place in chain(*states)]
            requests.append(ReadRequest((len(states), len(states[0])), slices))
        tensors = reader.read(requests)
        for (states, name), values in zip(named, tensors, strict=True):
            if name in self.selection.non_negative:
                check_non_negative(self.store, name, [*chain(*states)], values.flatten(0, 1).numpy())
        return tensors


def _aware(time: np.datetime64) -> datetime:
    """Give a time its zone, UTC: upstream calls ``timestamp()``, which takes a naive time for local."""
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

    surface = {name: torch.cat([batch.surf_vars[name] for batch in batches]) for name in first.surf_vars}
    atmospheric = {name: torch.cat([batch.atmos_vars[name] for batch in batches]) for name in first.atmos_vars}
    # Grid, levels, static variables and roll-out step are those of the first.
    times = tuple(chain.from_iterable(batch.metadata.time for batch in batches))
    metadata = dataclasses.replace(first.metadata, time=times)
    return Batch(surface, first.static_vars, atmospheric, metadata)
