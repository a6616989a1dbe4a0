"""In which order pairs are trained on, and how processes that train together share them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kit.errors import SettingsError

__all__ = ["Share", "ShuffledPairs"]


@dataclass(frozen=True)
class Share:
    """Which of the processes that train together this is."""

    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_process(cls) -> Share:
        """As ``torch.distributed`` has it; the only one where no process group has been made."""
        group = torch.distributed
        if not (group.is_available() and group.is_initialized()):
            return cls()
        return cls(group.get_rank(), group.get_world_size())

    def even(self, pairs: int) -> int:
        """How many of so many pairs the processes can share evenly."""
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
        share: Share | None = None,
    ) -> None:
        """Plan the batches.

        Args:
            pairs: pairs in an epoch; the last batch of an epoch may be smaller. What several processes cannot share
                evenly is left out of an epoch, other pairs in each.
            batch_size: pairs in a batch, of all processes together.
            seed: of the order.
            batches: how many in all, counted from the beginning of training.
            start: batches already seen.
            share: which of the processes this is; the only one by default.

        Raises:
            SettingsError: a batch is larger than an epoch, or cannot be shared evenly.
        """
        share = share or Share()
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
                order = self._order(epoch)
            whole = order[place * self._batch_size : (place + 1) * self._batch_size]
            yield whole[self._share.rank :: self._share.ranks]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + epoch)
        indices: list[int] = torch.randperm(self._pairs, generator=generator).tolist()
        return indices[: self._share.even(self._pairs)]
