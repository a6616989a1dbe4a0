"""Statistics of transformed variables: those of ``log1p(tp / eps)`` do not follow from those of ``tp``.

They are made of the store's training states, one state in memory at a time, with the points weighted as in the store's
own statistics, and kept in the kit's cache under the fingerprint of the store.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit import registry
from kit.data.negative import refuse_negative
from kit.data.statistics import FieldAccumulator, point_weights
from kit.data.store import Store
from kit.errors import StoreError
from kit.models.transforms import Transform

__all__ = ["Fit", "fit", "transformed_statistics"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """One level of a transformed variable over the training states."""

    mean: float
    scale: float
    """Standard deviation."""
    skewness: float


def transformed_statistics(store: Store, name: str, level: float | None, transform: Transform) -> tuple[float, float]:
    """Location and scale of a transformed variable over the training split.

    The location is 0, not the mean: no rain is then exactly 0 in training space, where most of its values are, the
    encoder's padding, and a new head's first guess; and a prediction below it means no rain. The scale is the
    standard deviation.

    Args:
        store: with the variable.
        name: of the variable.
        level: in hPa; None at the surface.
        transform: of its values.

    Returns:
        0 and the standard deviation; 0 and 1 for a store without states, as a plan imagines one.

    Raises:
        StoreError: a value is below zero, or there is no finite one.
    """
    if not len(store.times):
        return 0.0, 1.0
    return 0.0, fit(store, name, transform)[0 if level is None else store.levels.index(level)].scale


def fit(store: Store, name: str, transform: Transform) -> tuple[Fit, ...]:
    """Statistics of each level of a transformed variable, or of the one at the surface, over the training split alone.

    Raises:
        StoreError: a value is below zero, or there is no finite one.
    """
    cached = _cached(store, name, transform)
    if cached.is_file():
        return tuple(Fit(*numbers) for numbers in json.loads(cached.read_text(encoding="utf-8")))
    found = _fitted(store, name, transform)
    cached.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, even if two runs begin together.
    part = cached.with_name(f"{cached.name}.{id(found)}")
    part.write_text(json.dumps([[one.mean, one.scale, one.skewness] for one in found]), encoding="utf-8")
    part.replace(cached)
    return found


def _cached(store: Store, name: str, transform: Transform) -> Path:
    key = hashlib.sha256(f"{store.fingerprint()} {name} {transform} moments".encode()).hexdigest()
    return registry.cache_dir() / "statistics" / f"{key}.json"


def _fitted(store: Store, name: str, transform: Transform) -> tuple[Fit, ...]:
    _logger.info("statistics of %s, transformed by %s, from the training states of %s", name, transform, store.path)
    indices = store.indices(store.statistics.train)
    levels = 1 if name in store.surface else len(store.levels)
    weights = point_weights(store.statistics.weights, store.latitude, store.longitude)
    # Only moments are asked for; what it samples for quantiles is small.
    parts = [FieldAccumulator(f"{name} {transform} {level}", len(indices), weights) for level in range(levels)]
    for index in indices:
        state = store.read(name, [int(index)])
        refuse_negative(store, name, [int(index)], state)
        values = transform.forward(state.astype(np.float64)).reshape(levels, *state.shape[-2:])
        for part, field in zip(parts, values, strict=True):
            part.add(field)
    found = [part.result() for part in parts]
    if not all(np.isfinite(one.std) for one in found):
        msg = f"{store.path}: {name} has no finite value among its training states; leave it out, or mend the source"
        raise StoreError(msg)
    return tuple(Fit(one.mean, one.std, one.skewness) for one in found)
