"""Statistics of any period of a store, computed from its values: one state of one variable in memory at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kit.data.settings import Period
from kit.data.statistics import (
    FieldAccumulator,
    StoreStatistics,
    VariableStatistics,
    Weighting,
    point_weights,
)
from kit.data.store.build_state import folder_of
from kit.data.store.format import INTEGRITY, STATIC_PREFIX, STATISTICS_FILE, pending_statistics
from kit.data.store.manifest import document_bytes
from kit.data.store.reader import Store
from kit.io.atomic import write_atomically
from kit.io.documents import read_json
from kit.io.errors import StoreError
from kit.io.hashes import sha256_of_text


def measure(
    store: Store, period: Period, weighting: Weighting = "none", watch: Callable[[], None] = lambda: None
) -> StoreStatistics:
    """Compute statistics of the states in a period; over the training period, those that building wrote.

    Args:
        store: Store to read.
        period: Period of the states that count, ends included.
        weighting: Weights of the points.
        watch: Function called after each state of each variable.

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
        keys = store.statistics_keys(name)
        accumulators = [FieldAccumulator(key, len(indices), weights) for key in keys]
        for index in indices.tolist():
            # Levels one after another; a surface variable has one field.
            fields = store.read(name, [index]).reshape(-1, *store.shape)
            for accumulator, field in zip(accumulators, fields, strict=True):
                accumulator.add(field, int(moments[index]))
            watch()
        found |= zip(keys, [accumulator.result() for accumulator in accumulators], strict=True)
    for name in store.static:
        key = STATIC_PREFIX + name
        accumulator = FieldAccumulator(key, 1, weights)
        accumulator.add(store.read_static(name))
        found[key] = accumulator.result()
    return StoreStatistics(train=period, states=len(indices), weights=weighting, variables=found)


# Other statistics for a store that is there, with the hash of them that its metadata hold.


def restate(out: Path, statistics: StoreStatistics) -> Path:
    """Replace a store's statistics.

    As at the end of an append, the new ones lie beside the present ones until the metadata name them, so that a process
    that is killed leaves a store with one or the other.

    Args:
        out: Folder of the store.
        statistics: Statistics of its training states.

    Returns:
        Path of their file.

    Raises:
        StoreError: states are being appended to the store.
        OSError: the disk is full or the folder cannot be written; the store has the old statistics or the new.
    """
    if (appending := folder_of(out, "append.part")).exists():
        msg = f"{out}: states are being appended to it ({appending}); finish that first, with the command that began it"
        raise StoreError(msg)
    file, text = out / STATISTICS_FILE, statistics.text()
    document = read_json(out / "zarr.json")
    attributes = document["attributes"]
    if INTEGRITY not in attributes:
        # Of an earlier version: nothing holds a hash of the statistics.
        write_atomically(file, text)
        return file
    attributes[INTEGRITY] = {**attributes[INTEGRITY], "statistics": sha256_of_text(text)}
    # Readers look for the statistics that the metadata name beside ``stats.json`` first.
    pending = pending_statistics(out, attributes)
    write_atomically(pending, text)
    write_atomically(out / "zarr.json", document_bytes(document))
    write_atomically(file, text)
    pending.unlink()
    return file
