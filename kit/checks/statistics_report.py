"""``kit data stats``: the statistics of a store, or of a file of them, with verdicts."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kit.checks.check import few
from kit.checks.drift import UPSTREAM, Drift, ReferenceStatistics, compared, drift, published, read_reference, upstream
from kit.checks.settings import StatsSettings
from kit.checks.stability import split_drift
from kit.data.settings import Period
from kit.data.statistics import StoreStatistics
from kit.data.store.build import open_store
from kit.data.store.format import STATIC_PREFIX, STATISTICS_FILE
from kit.data.store.reader import Store
from kit.data.store.update_statistics import measure, restate
from kit.data.variables import lookup
from kit.io.errors import SettingsError, StoreError
from kit.models.transforms import Transform, default_transform, fit, parse_transforms, why_not

_logger = logging.getLogger(__name__)

_EVERY = 10.0
"""Seconds between two words on how far a reading is."""
_SKEWED = 2.0
"""Skewness of an exponential distribution: what is beyond it may be learned more easily when it is transformed."""


def statistics_report(settings: StatsSettings) -> dict[str, Any]:
    """Report statistics, how they differ from a reference, and how a store's splits differ from each other.

    Returns:
        JSON form; see docs/statistics.md. ``passed`` is whether no verdict is an error.

    Raises:
        StoreError: there is no such store or file, it is damaged, or it shares no channel with the reference.
        SettingsError: a transform cannot be had, or a setting would have no effect.
    """
    path = Path(settings.store)
    if path.is_file():
        return _report_on_file(path, settings)
    if settings.write and not path.exists():
        msg = f"write: {settings.store} is built into the kit's cache, which stays as it is; build a store of your own"
        raise SettingsError(msg)
    return _report_on_store(open_store(settings.store), settings)


def _report_on_file(path: Path, settings: StatsSettings) -> dict[str, Any]:
    given = sorted(settings.model_fields_set - {"store", "against"})
    if given:
        msg = f"{', '.join(given)} would have no effect: {path} is a file of statistics, not a store; leave it out"
        raise SettingsError(msg)
    # The keys are those of a store's report; what a file cannot say is None or empty.
    found = read_reference(path).values
    differences = _drift(found, settings.against)
    return {
        "store": str(path),
        "split": None,
        "period": None,
        "states": None,
        "weights": None,
        "recorded": True,
        "variables": {key: {"mean": mean, "std": scale} for key, (mean, scale) in found.items()},
        "advice": [],
        "drift": differences,
        "splits": {"states": 0, "channels": []},
        "written": None,
        "passed": _passed(differences["channels"]),
    }


def _report_on_store(store: Store, settings: StatsSettings) -> dict[str, Any]:
    missing = [key for key in _keys(store) if key not in store.statistics.variables]
    if missing:
        msg = f"{store.path}: {STATISTICS_FILE} lacks {few(missing)}; see `kit data qa`, and build the store again"
        raise StoreError(msg)
    # What is mistaken in the settings is said before a long reading.
    transforms = _transforms(store, settings.transforms)
    split, period = _period(store, settings)
    channels = len((*store.surface, *store.atmospheric))
    found = store.statistics
    weights = settings.weights or found.weights
    recorded = split == "train" and weights == found.weights and not settings.recompute
    if not recorded:
        log = _ReadingLog(f"statistics of {period}", channels * len(store.indices(period)))
        found = measure(store, period, weights, log)
    written = str(restate(store.path, found)) if settings.write else None
    pairs = {key: (one.mean, one.std) for key, one in found.variables.items()}
    differences = _drift(pairs, settings.against)
    splits = []
    if settings.states:
        states = sum(min(settings.states, len(store.indices(period))) for period in store.splits.values())
        log = _ReadingLog("comparing the splits", channels * states)
        splits = [asdict(one) for one in split_drift(store, settings.states, log)]
    return {
        "store": str(store.path),
        "split": split,
        "period": str(found.train),
        "states": found.states,
        "weights": found.weights,
        "recorded": recorded,
        "variables": _with_normalisation(store, found, transforms),
        "advice": _advice(store, transforms),
        "drift": differences,
        "splits": {"states": settings.states, "channels": splits},
        "written": written,
        "passed": _passed([*differences["channels"], *splits]),
    }


def _keys(store: Store) -> list[str]:
    """List the keys of all statistics that a store needs: of each level of each variable."""
    keys: list[str] = []
    for name in (*store.surface, *store.atmospheric):
        keys += store.statistics_keys(name)
    return keys + [STATIC_PREFIX + name for name in store.static]


class _ReadingLog:
    """Log of how far a long reading is, with a line now and then."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done, self._logged = label, total, 0, time.monotonic()

    def __call__(self) -> None:
        """Count a state of a variable."""
        self._done += 1
        if time.monotonic() - self._logged >= _EVERY:
            self._logged = time.monotonic()
            _logger.info("%s: %d of %d fields read", self._label, self._done, self._total)


def _passed(channels: list[dict[str, Any]]) -> bool:
    return not any(channel["verdict"] == "error" for channel in channels)


def _period(store: Store, settings: StatsSettings) -> tuple[str | None, Period]:
    """Return the split whose statistics are shown, if it is one, and its period."""
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
    """Return the transform of each variable that has one: what was asked for, else what a new variable is given.

    Raises:
        SettingsError: the store lacks the variable, or it may be below zero.
    """
    asked = parse_transforms(written)
    held = (*store.surface, *store.atmospheric)
    for name, transform in asked.items():
        why = f"{store.path} has no such variable; it has {', '.join(held)}"
        if name in held:
            why = why_not(name, "surface" if name in store.surface else "atmospheric", transform) or ""
        if why:
            msg = f"transforms.{name}: {transform} cannot be had: {why}. Leave it out"
            raise SettingsError(msg)
    defaults = dict(zip(held, map(default_transform, held), strict=True))
    return {name: default for name, default in defaults.items() if default is not None} | asked


def _with_normalisation(
    store: Store, found: StoreStatistics, transforms: Mapping[str, Transform]
) -> dict[str, dict[str, Any]]:
    """Return statistics by key, with the transform, and what training normalises by."""
    rows: dict[str, dict[str, Any]] = {}
    for key in _keys(store):
        # Training takes upstream's statistics where it publishes any, and the training split's own elsewhere.
        trained = store.statistics.variables[key]
        known = published().get(key.removeprefix(STATIC_PREFIX))
        location, scale = known or (trained.mean, trained.std)
        normalised_by = "store" if known is None else UPSTREAM
        rows[key] = found.variables[key].model_dump(mode="json")
        rows[key] |= {"normalised_by": normalised_by, "location": location, "scale": scale}
    for name, transform in transforms.items():
        for key, one in zip(store.statistics_keys(name), fit(store, name, transform), strict=True):
            # The location is 0; see ``kit.models.transforms``.
            rows[key] |= {
                "transform": str(transform),
                "normalised_by": "store",
                "location": 0.0,
                "scale": one.scale,
                "transformed_mean": one.mean,
                "transformed_skewness": one.skewness,
            }
    return rows


def _advice(store: Store, transforms: Mapping[str, Transform]) -> list[str]:
    """Name variables that a transform may help: never negative, new to upstream's weights, and with a long tail."""
    advice = []
    for name in (*store.surface, *store.atmospheric):
        known = lookup(name, "surface" if name in store.surface else "atmospheric")
        keys = store.statistics_keys(name)
        # What upstream publishes is normalised by that, untransformed, as its weights were trained.
        if name in transforms or known is None or not known.non_negative or not keys or keys[0] in published():
            continue
        worst = max((store.statistics.variables[key] for key in keys), key=lambda one: abs(one.skewness))
        if worst.skewness > _SKEWED:
            advice.append(
                f"{name}: its skewness is {worst.skewness:.1f} and {worst.zero_fraction:.0%} of it is zero; as a new "
                f"variable it may be learned more easily with model.transforms. See what one comes to with "
                f"--transforms {name}=sqrt or {name}=log1p:EPS, EPS in {known.units} being the least that matters"
            )
    return advice


def _drift(values: Mapping[str, tuple[float, float]], against: str) -> dict[str, Any]:
    """Compare every channel that both have with the reference; static fields, which are of the place, are left out."""
    if against == UPSTREAM:
        reference = upstream()
    else:
        path = Path(against)
        reference = read_reference(path if path.exists() else open_store(against).path)
    compared_keys, channels = [], []
    for key, (mean, scale) in values.items():
        if key.startswith(STATIC_PREFIX):
            continue
        compared_keys.append(key)
        found = compared(key, mean, scale, reference.values.get(key), whole=reference.whole)
        if found is not None:
            channels.append(asdict(_blamed(found, reference)))
    if not channels and reference.name != UPSTREAM:
        msg = (
            f"nothing to compare: {reference.name} has statistics of {', '.join(list(reference.values)[:8])}, and none "
            f"of {', '.join(compared_keys[:8])}; give another --against"
        )
        raise StoreError(msg)
    return {"against": reference.name, "channels": channels}


def _blamed(found: Drift, reference: ReferenceStatistics) -> Drift:
    """Blame the reference where its own statistics are an error against upstream's."""
    own = drift(found.key, found.reference_mean, found.reference_scale)
    if reference.whole or own is None or own.verdict != "error":
        return found
    effect = f"the reference is at fault: it has {own.described('upstream')}; {own.effect}"
    return replace(found, verdict="error", effect=effect, remedy=own.remedy)
