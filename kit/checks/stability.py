"""Whether a store's validation and test states are of the same distribution as those that it is trained on.

The measure is the population stability index over classes cut at the training split's quantiles: the sum over
classes of (p - q) ln(p / q), with the shares p of the one split and q of the other (Kullback and Leibler's
divergence, both ways). By the usual rule (Lewis 1994; Siddiqi 2006, *Credit Risk Scorecards*) below 0.1 nothing has
changed, from 0.25 on the distribution has.

Dimensions: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.drift import Verdict, judged, skewed
from kit.data.moments import FieldMoments, field_moments
from kit.data.store.reader import Store
from kit.data.store.update_statistics import keys_of

__all__ = ["CHANGED", "SplitDrift", "split_drift", "stability_index"]

CHANGED = 0.25
"""Index from which a distribution counts as another one."""
_LEAST = 1e-4
"""Share that an empty class is given, for which the logarithm would be infinite."""


@dataclass(frozen=True)
class SplitDrift:
    """How one channel in another split differs from the training split, by some states of each."""

    key: str
    split: str
    psi: float
    """Population stability index; NaN where there is nothing to compare."""
    shift: float
    """Of the mean, in the training states' scales."""
    ratio: float
    """Of the scales."""
    verdict: Verdict
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def stability_index(counts_K: npt.NDArray[Any], others_K: npt.NDArray[Any]) -> float:
    """Population stability index of two distributions over the same classes; NaN where one of them is empty."""
    if not (counts_K.sum() and others_K.sum()):
        return math.nan
    p_K, q_K = (np.maximum(counts / counts.sum(), _LEAST) for counts in (counts_K, others_K))
    return float(((p_K - q_K) * np.log(p_K / q_K)).sum())


def split_drift(store: Store, states: int, watch: Callable[[], None] = lambda: None) -> list[SplitDrift]:
    """Compare the validation and the test split with the training split.

    Args:
        store: with its splits.
        states: of each split that are read; one from each of as many equal parts of it.
        watch: called after each state of each variable.

    Raises:
        StoreError: a chunk is damaged.
    """
    chosen = {name: _spread(store.indices(period), states) for name, period in store.splits.items()}
    train = chosen.pop("train", np.empty(0, np.int64))
    found: list[SplitDrift] = []
    for name in (*store.surface, *store.atmospheric) if chosen and train.size else ():
        keys = keys_of(store, name)
        edges = [_edges(store, key) for key in keys]
        base = _glance(store, name, train, edges, watch)
        for split, indices in chosen.items():
            other = _glance(store, name, indices, edges, watch)
            found += [_judged(key, split, *pair) for key, *pair in zip(keys, base, other, strict=True)]
    return found


_Glance = tuple[npt.NDArray[np.int64], FieldMoments]


def _spread(indices: npt.NDArray[np.int64], states: int) -> npt.NDArray[np.int64]:
    """One from anywhere in each of as many parts: equal distances could meet the same hour of every day."""
    if len(indices) <= states:
        return indices
    places = (np.arange(states) + np.random.default_rng(0).random(states)) * (len(indices) / states)
    return indices[places.astype(np.int64)]


def _edges(store: Store, key: str) -> npt.NDArray[np.float64]:
    """Where classes are cut: quantiles that are apart; rain has fewer, because many of its quantiles are zero."""
    quantiles = np.array(list(store.statistics.variables[key].quantiles.values()))
    return np.unique(quantiles[np.isfinite(quantiles)])


def _glance(
    store: Store,
    name: str,
    indices: npt.NDArray[np.int64],
    edges: list[npt.NDArray[np.float64]],
    watch: Callable[[], None],
) -> list[_Glance]:
    """Counts of values by class, [K], and moments, of each level."""
    found: list[_Glance] = [(np.zeros(len(cuts) + 1, np.int64), FieldMoments()) for cuts in edges]
    for index in indices.tolist():
        state = store.read(name, [index])
        for level, field in enumerate(state[0] if state.ndim == 4 else state):
            counts, moments = found[level]
            finite = np.isfinite(field)
            values = field[finite] if not finite.all() else field
            reached = [np.count_nonzero(values <= cut) for cut in edges[level]]
            counts = counts + np.diff([0, *reached, values.size])
            found[level] = counts, moments.merged(field_moments(values))
        watch()
    return found


def _judged(key: str, split: str, base: _Glance, other: _Glance) -> SplitDrift:
    index = stability_index(base[0], other[0])
    scale = base[1].scale
    known = base[1].weight > 0 and other[1].weight > 0 and scale > 0
    shift = (other[1].mean - base[1].mean) / scale if known else math.nan
    ratio = other[1].scale / scale if known else math.nan
    verdict = judged(shift, ratio, whole=False) if known else "ok"
    if verdict == "error" and skewed(key):
        verdict = "warning"
    if verdict == "ok" and index >= CHANGED:
        verdict = "warning"
    remedy = {
        "ok": "",
        "warning": "scores there are of another season, region of values or regime than was trained on: choose periods "
        "that hold the same seasons, or know that you test how far the model carries",
        "error": "so far apart are other units or other data: look where the source changes, with `kit data qa`",
    }[verdict]
    return SplitDrift(key, split, index, shift, ratio, verdict, remedy)
