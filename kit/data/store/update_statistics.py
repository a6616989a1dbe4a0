"""Statistics of any period of a store, computed from its values: one state of one variable in memory at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

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
from kit.data.store.build_state import folder_of
from kit.data.store.format import INTEGRITY, STATIC_PREFIX, STATISTICS_FILE, pending_statistics
from kit.data.store.manifest import document_bytes
from kit.data.store.reader import Store
from kit.io.atomic import write_atomically
from kit.io.errors import StoreError

__all__ = ["keys_of", "measure", "restate"]


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


# Other statistics for a store that is there, with the hash of them that its metadata hold.


def restate(out: Path, statistics: StoreStatistics) -> Path:
    """Replace a store's statistics.

    As at the end of an append, the new ones lie beside the present ones until the metadata name them, so that a process
    that is killed leaves a store with one or the other.

    Args:
        out: the store.
        statistics: of its training states.

    Returns:
        Where they are.

    Raises:
        StoreError: states are being appended to the store.
        OSError: the disk is full or the folder cannot be written; the store has the old statistics or the new.
    """
    if (appending := folder_of(out, "append.part")).exists():
        msg = f"{out}: states are being appended to it ({appending}); finish that first, with the command that began it"
        raise StoreError(msg)
    file, text = out / STATISTICS_FILE, statistics.text()
    document = json.loads((out / "zarr.json").read_text(encoding="utf-8"))
    attributes = document["attributes"]
    if INTEGRITY not in attributes:
        write_atomically(file, text)
        return file
    attributes[INTEGRITY] = {**attributes[INTEGRITY], "statistics": hashlib.sha256(text.encode()).hexdigest()}
    pending = pending_statistics(out, attributes)
    write_atomically(pending, text)
    write_atomically(out / "zarr.json", document_bytes(document).decode())
    write_atomically(file, text)
    pending.unlink()
    return file
