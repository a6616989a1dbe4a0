"""What tasks that read pairs from a store have in common: their batches, and nothing to keep for resuming."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from kit.data.dataset import Pair, Pairs
from kit.data.loader import ProcessShare, ShuffledPairs, load_pairs
from kit.data.readers import Reader


@dataclass(frozen=True)
class TaskData:
    """Pairs of a run, and how they are read.

    Attributes:
        train: Training pairs.
        valid: Validation pairs.
        reader: Reader of both.
        batch_size: Pairs in a batch.
        batches: Training batches of the whole run.
        seed: Seed of the order of training pairs.
    """

    train: Pairs
    valid: Pairs
    reader: Reader
    batch_size: int
    batches: int
    seed: int


class PairsTask:
    """Reads pairs in an order that follows from seed and position.

    Args:
        data: Pairs of the run; None where steps are taken on batches from elsewhere, as in plans.
    """

    notes: tuple[str, ...] = ()
    beside: tuple[torch.nn.Module, ...] = ()

    def __init__(self, data: TaskData | None = None) -> None:
        self._data = data

    @property
    def data(self) -> TaskData:
        """Pairs of the run."""
        assert self._data is not None, "this task was built without data"
        return self._data

    def batches(self, start: int) -> Iterable[Pair]:
        """Return shuffled training batches from a position on."""
        data = self.data
        order = ShuffledPairs(
            len(data.train),
            batch_size=data.batch_size,
            seed=data.seed,
            batches=data.batches,
            start=start,
            share=ProcessShare.of_process(),
        )
        return load_pairs(data.train, data.reader, order=order, prefetch=self._prefetch())

    def valid_batches(self) -> Iterable[Pair]:
        """Return all validation batches, in order of time."""
        data = self.data
        return load_pairs(data.valid, data.reader, batch_size=data.batch_size, prefetch=self._prefetch())

    def _prefetch(self) -> Callable[[datetime], None] | None:
        """Return a function that reads ahead, for an input time, what no store holds; None where there is nothing."""
        return None

    def open(self, folder: Path) -> None:
        """Do nothing: pairs are read from the store."""

    def close(self) -> None:
        """Do nothing."""

    def save(self, checkpoint: Path) -> None:
        """Do nothing: the order of pairs follows from seed and position."""

    def load(self, checkpoint: Path) -> None:
        """Do nothing."""
