"""Which items of a replay buffer are drawn, and when they are replaced: decided before any of it happens.

No decision depends on a prediction, so that the whole course follows from the seed: states can be read ahead of their
use, and a resumed run finds its place by counting.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kit.data.loader import ShuffledPairs

__all__ = ["Draw", "draws"]


@dataclass
class _Item:
    """What a slot of the buffer holds.

    Attributes:
        pair: whose input states it began with.
        depth: steps that the model has made of them.
    """

    pair: int
    depth: int = 0


@dataclass(frozen=True)
class Draw:
    """A batch of items of one age, one entry for each item.

    Attributes:
        slots: where they are in the buffer.
        pairs: whose input states they began with.
        depth: steps that the model has made of them.
        goes_on: whether the prediction goes back into the buffer; else a fresh item takes its place.
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
        reach: for each pair, the steps for which there are targets.
        size: of the buffer.
        refresh: optimiser steps between two fresh items that take the place of any other.
        batch_size: items in a batch, at most.
        accumulate: batches in an optimiser step; all of them must fit into the buffer.
        seed: of everything that is drawn.
    """
    order = _endless(len(reach), seed)
    # A seed of its own: those of the orders count from the same product.
    chance = torch.Generator().manual_seed(1_000_003 * seed + 1_000_002)
    items = [_Item(next(order)) for _ in range(size)]
    step = 0
    while True:
        if step and step % refresh == 0:
            items[int(torch.randint(size, (), generator=chance))] = _Item(next(order))
        waiting: list[int] = torch.randperm(size, generator=chance).tolist()
        drawn: list[int] = []
        for _ in range(accumulate):
            slots = _of_one_age(items, waiting, batch_size)
            waiting = [slot for slot in waiting if slot not in slots]
            drawn += slots
            yield _draw(items, slots, reach)
        for slot in drawn:
            items[slot].depth += 1
            if items[slot].depth == reach[items[slot].pair]:
                items[slot] = _Item(next(order))
        step += 1


def _endless(pairs: int, seed: int) -> Iterator[int]:
    """Pairs in the order of training, epoch after epoch."""
    for (pair,) in ShuffledPairs(pairs, batch_size=1, seed=seed, batches=sys.maxsize):
        yield pair


def _of_one_age(items: Sequence[_Item], waiting: Sequence[int], count: int) -> list[int]:
    depth = items[waiting[0]].depth
    return [slot for slot in waiting if items[slot].depth == depth][:count]


def _draw(items: Sequence[_Item], slots: Sequence[int], reach: Sequence[int]) -> Draw:
    chosen = [items[slot] for slot in slots]
    return Draw(
        slots=tuple(slots),
        pairs=tuple(item.pair for item in chosen),
        depth=chosen[0].depth,
        goes_on=tuple(item.depth + 1 < reach[item.pair] for item in chosen),
    )
