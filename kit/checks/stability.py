"""Whether a store's validation and test states are of the same distribution as those that it is trained on.

The measure is the population stability index over classes cut at the training split's quantiles: the sum over
classes of (p - q) ln(p / q), with the shares p of the one split and q of the other (Kullback and Leibler's
divergence, both ways). By the usual rule (Lewis 1994; Siddiqi 2006, *Credit Risk Scorecards*) below 0.1 nothing has
changed, from 0.25 on the distribution has.

Dimensions: K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.drift import Verdict, judged
from kit.data.moments import FieldMoments, field_moments
from kit.data.store.reader import Store

CHANGED = 0.25
"""Index from which a distribution counts as another one."""
_LEAST = 1e-4
"""Share that an empty class is given, for which the logarithm would be infinite."""
_REMEDIES: dict[Verdict, str] = {
    "ok": "",
    "warning": "scores there are of another season, region of values or regime than was trained on: choose periods "
    "that hold the same seasons, or know that you test how far the model carries",
    "error": "so far apart are other units or other data: look where the source changes, with `kit data qa`",
}


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


def stability_index(counts_K: npt.NDArray[Any], others_K: npt.NDArray[Any]) -> float:
    """Return the population stability index of two distributions over the same classes; NaN where one is empty."""
    if not (counts_K.sum() and others_K.sum()):
        return math.nan
    p_K = np.maximum(counts_K / counts_K.sum(), _LEAST)
    q_K = np.maximum(others_K / others_K.sum(), _LEAST)
    return float(((p_K - q_K) * np.log(p_K / q_K)).sum())


def split_drift(store: Store, states: int, watch: Callable[[], None] = lambda: None) -> list[SplitDrift]:
    """Compare the validation and the test split with the training split.

    Args:
        store: Store with its splits.
        states: Number of states of each split that are read; one from each of as many equal parts of it.
        watch: Called after each state of each variable.

    Raises:
        StoreError: a chunk is damaged.
    """
    chosen = {split: _spread(store.indices(period), states) for split, period in store.splits.items()}
    train = chosen.pop("train", np.empty(0, np.int64))
    found: list[SplitDrift] = []
    if not chosen or not train.size:
        return found
    for name in (*store.surface, *store.atmospheric):
        keys = store.statistics_keys(name)
        edges = []
        for key in keys:
            # Rain has fewer classes than others, because many of its quantiles are zero.
            quantiles = np.array(list(store.statistics.variables[key].quantiles.values()))
            edges.append(np.unique(quantiles[np.isfinite(quantiles)]))
        base = _read(store, name, train, edges, watch)
        for split, indices in chosen.items():
            other = _read(store, name, indices, edges, watch)
            for key, one, two in zip(keys, base, other, strict=True):
                found.append(_compared(key, split, one, two))
    return found


_Sample = tuple[npt.NDArray[np.int64], FieldMoments]


def _spread(indices: npt.NDArray[np.int64], states: int) -> npt.NDArray[np.int64]:
    """Choose one from anywhere in each of as many parts: equal distances could meet the same hour of every day."""
    if len(indices) <= states:
        return indices
    places = (np.arange(states) + np.random.default_rng(0).random(states)) * (len(indices) / states)
    return indices[places.astype(np.int64)]


def _read(
    store: Store,
    name: str,
    indices: npt.NDArray[np.int64],
    edges: list[npt.NDArray[np.float64]],
    watch: Callable[[], None],
) -> list[_Sample]:
    """Return counts of values by class, [K], and moments, of each level of some states of a variable."""
    found: list[_Sample] = [(np.zeros(len(cuts) + 1, np.int64), FieldMoments()) for cuts in edges]
    for index in indices.tolist():
        state = store.read(name, [index])
        levels = state[0] if state.ndim == 4 else state
        for level, field in enumerate(levels):
            counts, moments = found[level]
            finite = np.isfinite(field)
            values = field if finite.all() else field[finite]
            # A value on an edge belongs to the class below it.
            reached = [np.count_nonzero(values <= cut) for cut in edges[level]]
            counts = counts + np.diff([0, *reached, values.size])
            found[level] = counts, moments.merged(field_moments(values))
        watch()
    return found


def _compared(key: str, split: str, base: _Sample, other: _Sample) -> SplitDrift:
    base_counts, base_moments = base
    counts, moments = other
    index = stability_index(base_counts, counts)
    shift = ratio = math.nan
    verdict: Verdict = "ok"
    # A channel that never varies has no scale to measure a shift in.
    if base_moments.weight > 0 and moments.weight > 0 and base_moments.scale > 0:
        shift = (moments.mean - base_moments.mean) / base_moments.scale
        ratio = moments.scale / base_moments.scale
        verdict = judged(shift, ratio, key, whole=False)
    # Weather has seasons: another distribution is worth a word, and no error.
    if verdict == "ok" and index >= CHANGED:
        verdict = "warning"
    return SplitDrift(key, split, index, shift, ratio, verdict, _REMEDIES[verdict])
