"""``kit data stats``: the statistics of a store, or of a file of them, with verdicts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kit.checks.check import few
from kit.checks.drift import UPSTREAM, Drift, Reference, compared, drift, read_reference, upstream
from kit.checks.expected import published
from kit.checks.settings import StatsSettings
from kit.checks.stability import split_drift
from kit.data.settings import Period
from kit.data.statistics import StoreStatistics, VariableStatistics, Weighting
from kit.data.store.build import open_store
from kit.data.store.format import STATIC_PREFIX, STATISTICS_FILE
from kit.data.store.reader import Store
from kit.data.store.update_statistics import keys_of, measure, restate
from kit.data.variables import lookup
from kit.io.errors import SettingsError, StoreError
from kit.models.transforms import Transform, default_transform, fit, parse_transforms, why_not

__all__ = ["stats"]

_logger = logging.getLogger(__name__)

_EVERY = 10.0
"""Seconds between two words on how far a reading is."""
_SKEWED = 2.0
"""Skewness of an exponential distribution: what is beyond it may be learned more easily when it is transformed."""


def stats(settings: StatsSettings) -> dict[str, Any]:
    """Show statistics and hold them against a reference, and a store's splits against each other.

    Returns:
        JSON form; see docs/statistics.md. ``passed`` is whether no verdict is an error.

    Raises:
        StoreError: there is no such store or file, it is damaged, or it shares no channel with the reference.
        SettingsError: a transform cannot be had, or a setting would have no effect.
    """
    path = Path(settings.store)
    if path.is_file():
        return _of_file(path, settings)
    if settings.write and not path.exists():
        msg = f"write: {settings.store} is built into the kit's cache, which stays as it is; build a store of your own"
        raise SettingsError(msg)
    return _of_store(open_store(settings.store), settings)


def _of_file(path: Path, settings: StatsSettings) -> dict[str, Any]:
    given = sorted(settings.model_fields_set - {"store", "against"})
    if given:
        msg = f"{', '.join(given)} would have no effect: {path} is a file of statistics, not a store; leave it out"
        raise SettingsError(msg)
    found = read_reference(path).values
    told = _drift(found, settings.against)
    return {
        "store": str(path),
        "split": None,
        "period": None,
        "states": None,
        "weights": None,
        "recorded": True,
        "variables": {key: {"mean": mean, "std": scale} for key, (mean, scale) in found.items()},
        "advice": [],
        "drift": told,
        "splits": {"states": 0, "channels": []},
        "written": None,
        "passed": _passed(told["channels"]),
    }


def _of_store(store: Store, settings: StatsSettings) -> dict[str, Any]:
    _refuse_incomplete(store)
    transforms = _transforms(store, settings.transforms)
    split, period = _period(store, settings)
    weights = settings.weights or store.statistics.weights
    recorded = split == "train" and weights == store.statistics.weights and not settings.recompute
    found = store.statistics if recorded else _measured(store, period, weights)
    written = restate(store.path, found) if settings.write else None
    told = _drift({key: (one.mean, one.std) for key, one in found.variables.items()}, settings.against)
    splits = _splits(store, settings.states) if settings.states else []
    return {
        "store": str(store.path),
        "split": split,
        "period": str(found.train),
        "states": found.states,
        "weights": found.weights,
        "recorded": recorded,
        "variables": _with_normalisation(store, found, transforms),
        "advice": _advice(store, transforms),
        "drift": told,
        "splits": {"states": settings.states, "channels": splits},
        "written": None if written is None else str(written),
        "passed": _passed([*told["channels"], *splits]),
    }


def _refuse_incomplete(store: Store) -> None:
    keys = [key for name in (*store.surface, *store.atmospheric) for key in keys_of(store, name)]
    missing = [
        key
        for key in (*keys, *(STATIC_PREFIX + name for name in store.static))
        if key not in store.statistics.variables
    ]
    if missing:
        msg = f"{store.path}: {STATISTICS_FILE} lacks {few(missing)}; see `kit data qa`, and build the store again"
        raise StoreError(msg)


def _measured(store: Store, period: Period, weights: Weighting) -> StoreStatistics:
    fields = len(store.indices(period)) * len((*store.surface, *store.atmospheric))
    return measure(store, period, weights, _Teller(f"statistics of {period}", fields))


def _splits(store: Store, states: int) -> list[dict[str, Any]]:
    held = sum(min(states, len(store.indices(period))) for period in store.splits.values())
    fields = held * len((*store.surface, *store.atmospheric))
    return [one.as_dict() for one in split_drift(store, states, _Teller("comparing the splits", fields))]


class _Teller:
    """Says now and then how far a long reading is."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done, self._told = what, total, 0, time.monotonic()

    def __call__(self) -> None:
        """Count a state of a variable."""
        self._done += 1
        if time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            _logger.info("%s: %d of %d fields read", self._what, self._done, self._total)


def _passed(channels: list[dict[str, Any]]) -> bool:
    return not any(channel["verdict"] == "error" for channel in channels)


def _period(store: Store, settings: StatsSettings) -> tuple[str | None, Period]:
    """Which split, if it is one, and which times."""
    if settings.times is not None:
        return None, settings.times
    split = settings.split or "train"
    if split == "train":
        # What the statistics say that they are of.
        return split, store.statistics.train
    if split not in store.splits:
        held = ", ".join(store.splits)
        msg = f"{store.path}: the store has no split {split!r}; it has {held}; give one of these, or --times START/END"
        raise StoreError(msg)
    return split, store.splits[split]


def _transforms(store: Store, written: Mapping[str, str]) -> dict[str, Transform]:
    """The transform of each variable that has one: what was asked for, else what a new variable is given.

    Raises:
        SettingsError: the store lacks the variable, or it may be below zero.
    """
    asked = parse_transforms(written)
    held = (*store.surface, *store.atmospheric)
    for name in asked:
        why = why_not(name, "surface" if name in store.surface else "atmospheric")
        if name not in held:
            why = f"{store.path} has no such variable; it has {', '.join(held)}"
        if why is not None:
            msg = f"transforms.{name}: {asked[name]} cannot be had: {why}. Leave it out"
            raise SettingsError(msg)
    defaults = {name: default for name in held if (default := default_transform(name)) is not None}
    return {**defaults, **asked}


def _with_normalisation(
    store: Store, found: StoreStatistics, transforms: Mapping[str, Transform]
) -> dict[str, dict[str, Any]]:
    """Statistics by key, with the transform, and what training normalises by."""
    fitted: dict[str, dict[str, Any]] = {}
    for name, transform in transforms.items():
        for key, one in zip(keys_of(store, name), fit(store, name, transform), strict=True):
            # The location is 0; see ``kit.models.transforms``.
            fitted[key] = {
                "transform": str(transform),
                "normalised_by": "store",
                "location": 0.0,
                "scale": one.scale,
                "transformed_mean": one.mean,
                "transformed_skewness": one.skewness,
            }
    keys = [key for name in (*store.surface, *store.atmospheric) for key in keys_of(store, name)]
    return {
        key: found.variables[key].model_dump(mode="json")
        | (fitted.get(key) or _normalisation(key, store.statistics.variables[key]))
        for key in (*keys, *(STATIC_PREFIX + name for name in store.static))
    }


def _normalisation(key: str, trained: VariableStatistics) -> dict[str, Any]:
    """What training normalises a variable by that is not transformed: upstream's statistics where it publishes any."""
    known = published().get(key.removeprefix(STATIC_PREFIX))
    location, scale = known or (trained.mean, trained.std)
    return {"normalised_by": "store" if known is None else UPSTREAM, "location": location, "scale": scale}


def _advice(store: Store, transforms: Mapping[str, Transform]) -> list[str]:
    """Variables that a transform may help: never negative, new to upstream's weights, and with a long tail."""
    told = []
    for name in (*store.surface, *store.atmospheric):
        known = lookup(name, "surface" if name in store.surface else "atmospheric")
        keys = keys_of(store, name)
        if name in transforms or known is None or not known.non_negative or not keys or keys[0] in published():
            continue
        worst = max((store.statistics.variables[key] for key in keys), key=lambda one: abs(one.skewness))
        if worst.skewness > _SKEWED:
            told.append(
                f"{name}: its skewness is {worst.skewness:.1f} and {worst.zero_fraction:.0%} of it is zero; as a new "
                f"variable it may be learned more easily with model.transforms. See what one comes to with "
                f"--transforms {name}=sqrt or {name}=log1p:EPS, EPS in {known.units} being the least that matters"
            )
    return told


def _drift(values: Mapping[str, tuple[float, float]], against: str) -> dict[str, Any]:
    """Hold every channel that both have against the reference; static fields, which are of the place, are left out."""
    reference = _reference(against)
    pairs = [(key, *pair) for key, pair in values.items() if not key.startswith(STATIC_PREFIX)]
    found = [_against(key, mean, scale, reference) for key, mean, scale in pairs]
    channels = [one.as_dict() for one in found if one is not None]
    if not channels and reference.name != UPSTREAM:
        msg = (
            f"nothing to compare: {reference.name} has statistics of {', '.join(list(reference.values)[:8])}, and none "
            f"of {', '.join(key for key, *_ in pairs[:8])}; give another --against"
        )
        raise StoreError(msg)
    return {"against": reference.name, "channels": channels}


def _reference(against: str) -> Reference:
    if against == UPSTREAM:
        return upstream()
    path = Path(against)
    return read_reference(path if path.exists() else open_store(against).path)


def _against(key: str, mean: float, scale: float, reference: Reference) -> Drift | None:
    found = compared(key, mean, scale, reference.values.get(key), whole=reference.whole)
    if found is None or reference.whole:
        return found
    own = drift(key, found.reference_mean, found.reference_scale)
    if own is None or own.verdict != "error":
        return found
    effect = f"the reference is at fault: it has {own.told('upstream')}; {own.effect}"
    return replace(found, verdict="error", effect=effect, remedy=own.remedy)
