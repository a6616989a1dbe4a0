"""Initial states of forecasts: the store that they are in, and the times to start from."""

import bisect
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from kit.checkpoint.folder import Checkpoint
from kit.data.dataset import Pairs
from kit.data.settings import BuildSettings, Period
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.forecasting.predictor import Conditions, pairs_of, store_of
from kit.forecasting.settings import RollOutSettings
from kit.io.errors import StoreError

# A file of initial states has no splits: every state in it may be started from.
_EVER = Period(datetime(1000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


@contextmanager
def initial_store(name: str | None, checkpoint: Checkpoint) -> Iterator[str | None]:
    """Yield the store to start from; a NetCDF file becomes one for as long as the block runs.

    Args:
        name: Folder or registry name of a store, or a NetCDF file; None for the checkpoint's own store.
        checkpoint: Checkpoint that says which variables and levels are read.

    Raises:
        KitError: the file lacks what the model reads.
    """
    if name is None or not Path(name).is_file():
        yield name
        return
    spec, data = checkpoint.spec, checkpoint.description["data"]
    # Output-only variables are never read, so that a file of initial states need not hold them.
    never_read = spec.upstream.physical(spec.output_only)
    with tempfile.TemporaryDirectory(prefix="kit-forecast-") as scratch:
        built = BuildSettings(
            source="netcdf",
            path=Path(name),
            out=Path(scratch) / "store",
            variables=tuple(variable for variable in data["variables"] if variable not in never_read),
            levels=data["levels"],
            train=_EVER,
        )
        yield str(build_store(built).path)


@dataclass(frozen=True)
class InitialStates:
    """States that the forecasts of a checkpoint start from.

    Attributes:
        checkpoint: Checkpoint that says what is read of them.
        store: Store that holds them.
        pairs: Input states, in the order of time.
    """

    checkpoint: Checkpoint
    store: Store
    pairs: Pairs

    @classmethod
    @contextmanager
    def opened(cls, name: str | None, checkpoint: Checkpoint) -> Iterator[Self]:
        """Open a store, or build one of a NetCDF file for as long as the block runs.

        Args:
            name: Folder or registry name of a store, or a NetCDF file; None for the checkpoint's own store.
            checkpoint: Checkpoint that says which variables and levels are read.

        Raises:
            KitError: it lacks what the model reads.
        """
        with initial_store(name, checkpoint) as place:
            store = store_of(checkpoint, place)
            pairs = pairs_of(checkpoint, checkpoint.spec, store, Conditions(), targets=False)
            yield cls(checkpoint, store, pairs)

    def index(self, start: datetime, lag: int = 0) -> int:
        """Return the position among the pairs of an initial time, or of one some steps before it."""
        return self._positions[start - lag * self.pairs.selection.timestep]

    def has(self, start: datetime, lag: int = 0) -> bool:
        """Decide whether there is such an initial state."""
        return start - lag * self.pairs.selection.timestep in self._positions

    @cached_property
    def _positions(self) -> dict[datetime, int]:
        return {moment: index for index, moment in enumerate(self.pairs.times)}


def chosen_starts(settings: RollOutSettings, checkpoint: Checkpoint, pairs: Pairs) -> list[int]:
    """Return positions among the initial states: those asked for, or the first of the test split.

    Raises:
        StoreError: the store has no initial state then; names the nearest.
    """
    possible = [pairs.time(index) for index in range(len(pairs))]
    if settings.start is None:
        return [_default_start(settings, checkpoint, pairs, possible)]
    chosen: set[int] = set()
    for period in settings.start:
        found = [index for index, moment in enumerate(possible) if period.start <= moment <= period.end]
        if not found:
            raise StoreError(_no_start(period, pairs, possible))
        chosen.update(found)
    return sorted(chosen)


def _default_start(
    settings: RollOutSettings, checkpoint: Checkpoint, pairs: Pairs, possible: Sequence[datetime]
) -> int:
    # A store with one possible start was made for it, whatever the test split of the checkpoint is.
    if settings.data.store is not None and len(possible) == 1:
        return 0
    test = Period.parse(checkpoint.description["data"]["test"])
    # Every input state lies in the test split, so that none was trained on.
    earliest = test.start + (pairs.selection.history - 1) * pairs.selection.timestep
    for index, moment in enumerate(possible):
        if earliest <= moment <= test.end:
            return index
    msg = (
        f"{pairs.store.path}: no initial state in the checkpoint's test split {test}; possible are {len(possible)} "
        f"from {possible[0]:%Y-%m-%dT%H:%M} to {possible[-1]:%Y-%m-%dT%H:%M}: choose with --start"
    )
    raise StoreError(msg)


def _no_start(period: Period, pairs: Pairs, possible: Sequence[datetime]) -> str:
    asked = f"in {period}"
    if period.start == period.end:
        asked = f"at {period.start:%Y-%m-%dT%H:%M}"
    place = bisect.bisect(possible, period.start)
    nearest = [f"{moment:%Y-%m-%dT%H:%M}" for moment in possible[max(0, place - 1) : place + 1]]
    hours = pairs.selection.timestep.total_seconds() / 3600
    return (
        f"start: {pairs.store.path} has no initial state {asked}: "
        f"{pairs.selection.history} states {hours:g} h apart, the last at the initial time, are needed. The nearest "
        f"possible {'are' if len(nearest) > 1 else 'is'} {' and '.join(nearest)}"
    )
