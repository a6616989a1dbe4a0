"""Draws of a replay buffer: which items are drawn, and when they are replaced, decided before any of it happens.

No decision depends on a prediction, so that the whole course follows from the seed: states can be read ahead of their
use, and a resumed run finds its place by counting.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kit.data.loader import ShuffledPairs


@dataclass
class _Item:
    """Item in a slot of the buffer.

    Attributes:
        pair: Index of the pair whose input states it began with.
        depth: Steps that the model has made of them.
    """

    pair: int
    depth: int = 0


@dataclass(frozen=True)
class Draw:
    """A batch of items of one age, one entry for each item.

    Attributes:
        slots: Slots of the buffer that hold them.
        pairs: Indices of the pairs whose input states they began with.
        depth: Steps that the model has made of them.
        goes_on: Whether the prediction goes back into the buffer; else a fresh item takes its place.
    """

    slots: tuple[int, ...]
    pairs: tuple[int, ...]
    depth: int
    goes_on: tuple[bool, ...]


def draws(
    reach: Sequence[int], *, size: int, refresh: int, batch_size: int, accumulate: int = 1, seed: int = 0
) -> Iterator[Draw]:
    """Draw batches for ever.

    An optimiser step draws ``accumulate`` batches without putting anything back between them. The first item of a
    batch is any; the others are of the same age, because upstream's metadata have one roll-out step for a batch, and
    fewer than asked for where there are no more.

    Args:
        reach: Number of steps for which there are targets, for each pair.
        size: Items in the buffer.
        refresh: Optimiser steps between two fresh items that take the place of any other.
        batch_size: Items in a batch, at most.
        accumulate: Batches in an optimiser step; all of them must fit into the buffer.
        seed: Seed of everything that is drawn.
    """
    # Fresh items come in the order of training, epoch after epoch.
    shuffled = ShuffledPairs(len(reach), batch_size=1, seed=seed, batches=sys.maxsize)
    order = itertools.chain.from_iterable(shuffled)
    # A seed of its own: those of the orders count from the same product.
    chance = torch.Generator().manual_seed(1_000_003 * seed + 1_000_002)
    items = [_Item(next(order)) for _ in range(size)]
    for step in itertools.count():
        if step and step % refresh == 0:
            # Drawn from all, so that no age is preferred.
            items[int(torch.randint(size, (), generator=chance))] = _Item(next(order))
        waiting: list[int] = torch.randperm(size, generator=chance).tolist()
        drawn: list[int] = []
        for _ in range(accumulate):
            # The first is any, so that every item is drawn equally often; the others share its age.
            depth = items[waiting[0]].depth
            slots = [slot for slot in waiting if items[slot].depth == depth][:batch_size]
            waiting = [slot for slot in waiting if slot not in slots]
            drawn += slots
            pairs = tuple(items[slot].pair for slot in slots)
            yield Draw(tuple(slots), pairs, depth, goes_on=tuple(depth + 1 < reach[pair] for pair in pairs))
        # Once the step is over: none of its batches may draw what another of them puts back.
        for slot in drawn:
            items[slot].depth += 1
            if items[slot].depth == reach[items[slot].pair]:
                items[slot] = _Item(next(order))
