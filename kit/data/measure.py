"""Statistics of any period of a store, computed from its values: one state of one variable in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kit.data.settings import Period
from kit.data.statistics import (
    FieldAccumulator,
    StoreStatistics,
    VariableStatistics,
    Weighting,
    channel_key,
    point_weights,
)
from kit.data.store import Store
from kit.data.store_format import STATIC_PREFIX
from kit.errors import StoreError

__all__ = ["keys_of", "measure"]


def keys_of(store: Store, name: str) -> list[str]:
    """Names of a surface or atmospheric variable's statistics, level by level."""
    return [name] if name in store.surface else [channel_key(name, level) for level in store.levels]


def measure(
    store: Store, period: Period, weighting: Weighting = "none", watch: Callable[[], None] = lambda: None
) -> StoreStatistics:
    """Compute statistics of the states in a period; over the training period, those that building wrote.

    Args:
        store: that is read.
        period: its states count, ends included.
        weighting: of the points.
        watch: called after each state of each variable.

    Raises:
        StoreError: no state falls into the period, or a chunk is damaged.
    """
    indices = store.indices(period)
    if not indices.size:
        msg = f"{store.path}: no state in {period}; its {len(store.times)} states run from {store.period}"
        raise StoreError(msg)
    weights = point_weights(weighting, store.latitude, store.longitude)
    moments = store.times.astype(np.int64)
    found: dict[str, VariableStatistics] = {}
    for name in (*store.surface, *store.atmospheric):
        parts = {key: FieldAccumulator(key, len(indices), weights) for key in keys_of(store, name)}
        for index in indices.tolist():
            state = store.read(name, [index])
            for part, field in zip(parts.values(), state[0] if state.ndim == 4 else state, strict=True):
                part.add(field, int(moments[index]))
            watch()
        found |= {key: part.result() for key, part in parts.items()}
    for name in store.static:
        part = FieldAccumulator(STATIC_PREFIX + name, 1, weights)
        part.add(store.read_static(name))
        found[STATIC_PREFIX + name] = part.result()
    return StoreStatistics(train=period, states=len(indices), weights=weighting, variables=found)
