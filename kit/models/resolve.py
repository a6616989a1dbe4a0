"""From settings, a store and weights to the model that is trained and the data that it reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace

from kit.data.dataset import Selection
from kit.data.region import select_grid
from kit.data.settings import DataSettings
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.models.encoding import encoded, with_head_statistics
from kit.models.extend import extended, refuse_beyond
from kit.models.settings import ModelSettings
from kit.models.spec import ModelSpec, RolloutLora
from kit.models.statistics import Statistics, level_key
from kit.models.transforms import parse_transforms, transformed_statistics
from kit.models.variants import INSOLATION, Variant, variant_named
from kit.models.weights.load import Weights

__all__ = ["resolve_spec", "select"]


def resolve_spec(model: ModelSettings, data: DataSettings, store: Store, weights: Weights | None) -> ModelSpec:
    """Decide which model is built.

    With weights, its variables are those that the weights were trained with. Random weights take the variables of
    the data, except for variants whose derived channels fix them.

    Raises:
        SettingsError: settings that contradict each other, the variant or the weights.
        StoreError: the store lacks a statistic that is needed.
    """
    variant = variant_named(model.variant)
    base = weights.spec if weights is not None else None
    if base is None:
        base = _fresh(variant, data, store, free=weights is None)
    base = _with_new(base, model, store, weights)
    if data.history < base.history:
        msg = f"data.history is {data.history}, the weights read {base.history} states; set data.history {base.history}"
        raise SettingsError(msg)
    spec = replace(
        base,
        levels=_levels(data, store, variant),
        history=data.history,
        timestep=model.timestep or base.timestep,
        rollout_lora=_rollout_lora(model, variant, weights),
    )
    trained = None if weights is None else weights.spec
    spec = encoded(spec, model.transforms, model.heads, trained, fresh=weights is None)
    source = model.statistics or ("store" if weights is None else "upstream")
    return replace(spec, statistics=_Resolver(spec, store, source, keep=model.statistics is None).statistics())


def _fresh(variant: Variant, data: DataSettings, store: Store, *, free: bool) -> ModelSpec:
    """The model of a variant's own variables, or of the data's where nothing ties it to the variant's."""
    derived = variant.is_wave or variant.is_v1p5 or variant.is_air_pollution
    surface, atmospheric, static = variant.surface, variant.atmospheric, variant.static
    if free and not derived:
        chosen = data.variables if data.variables is not None else store.surface + store.atmospheric
        surface = tuple(name for name in chosen if name in store.surface)
        atmospheric = tuple(name for name in chosen if name in store.atmospheric)
        static = data.statics if data.statics is not None else store.static
    return ModelSpec(
        variant=variant.name,
        surface=surface,
        static=static,
        atmospheric=atmospheric,
        levels=(),
        history=data.history if free else variant.default("max_history_size"),
        timestep=variant.timestep,
        statistics=Statistics({}),
    )


def _with_new(base: ModelSpec, model: ModelSettings, store: Store, weights: Weights | None) -> ModelSpec:
    """The model of the weights, with what the settings add to it."""
    base = replace(base, added=())
    if weights is None and model.new_variables:
        msg = "model.new_variables has no effect on random weights, which have all variables of the data; leave it out"
        raise SettingsError(msg)
    if model.stabilise_level_agg is not None:
        base = replace(base, arguments={**base.arguments, "stabilise_level_agg": model.stabilise_level_agg})
    return extended(base, model.new_variables, model.output_only, store)


def _levels(data: DataSettings, store: Store, variant: Variant) -> tuple[int | float, ...]:
    if data.levels is not None:
        _known("data.levels", data.levels, store.levels, f"{store.path} holds")
    levels = store.levels if data.levels is None else tuple(lev for lev in store.levels if lev in data.levels)
    refuse_beyond(variant, levels, data.history)
    return levels


def _rollout_lora(model: ModelSettings, variant: Variant, weights: Weights | None) -> RolloutLora | None:
    """What becomes of upstream's roll-out LoRA, in the weights that have one."""
    own = None if weights is None else weights.spec
    if weights is None or own is not None or not variant.has_rollout_lora:
        if model.rollout_lora is not None:
            whose = f"variant {variant.name!r}" if not variant.has_rollout_lora else "the weights"
            settled = "decided when they were trained" if own is not None else f"{whose} has no roll-out LoRA"
            msg = f"model.rollout_lora has no effect: {settled}; leave it out"
            raise SettingsError(msg)
        return None if own is None else own.rollout_lora
    if variant.rollout_lora_from_second:
        if model.rollout_lora == "merge":
            msg = (
                f"model.rollout_lora merge: the LoRA of variant {variant.name!r} acts from the second roll-out step; "
                "merged it would change the first; use keep"
            )
            raise SettingsError(msg)
        return "kept"
    return "kept" if model.rollout_lora == "keep" else "merged"


class _Resolver:
    """Finds location and scale of every channel of a spec."""

    def __init__(self, spec: ModelSpec, store: Store, source: str, *, keep: bool) -> None:
        self._spec = spec
        self._store = store
        self._source = source
        # What the weights were trained with stays, unless the settings say otherwise.
        self._kept = dict(spec.statistics.values) if keep else {}
        self._transforms = parse_transforms(spec.transforms)

    def statistics(self) -> Statistics:
        """Statistics of every channel that upstream normalises."""
        surface = [name for name in self._spec.surface if name not in self._spec.derived]
        values = {
            name: self._transformed(name, None)
            if name in self._transforms
            else self._channel(name, self._spec.upstream.physical_name(name))
            for name in surface
        }
        values |= {name: self._channel(name, f"static_{name}") for name in self._spec.static}
        for name in self._spec.atmospheric:
            for level in self._spec.levels:
                key = level_key(name, level)
                values[key] = self._transformed(name, level) if name in self._transforms else self._channel(key, key)
        return with_head_statistics(self._spec, {**self._kept, **values})

    def _transformed(self, name: str, level: float | None) -> tuple[float, float]:
        """Location and scale of a variable that we transform: never upstream's, which are of other values."""
        key = name if level is None else level_key(name, level)
        if key in self._kept:
            return self._kept[key]
        if name not in (*self._store.surface, *self._store.atmospheric):
            raise StoreError(self._lacking(name, "it is transformed"))
        return transformed_statistics(self._store, name, level, self._transforms[name])

    def _channel(self, key: str, stored: str) -> tuple[float, float]:
        """Location and scale of one channel; derived ones have upstream's alone."""
        if key in self._kept:
            return self._kept[key]
        published = Statistics.published(key)
        derived = key == INSOLATION or key != stored.removeprefix("static_") or key in ("10u_wave", "10v_wave")
        if published is not None and (self._source == "upstream" or derived):
            return published
        found = self._store.statistics.variables.get(stored)
        if found is None:
            why = "upstream publishes none" if published is None else "those of the store are asked for"
            raise StoreError(self._lacking(stored, why))
        return found.mean, found.std

    def _lacking(self, stored: str, why: str) -> str:
        return (
            f"{self._store.path}: no statistics of {stored!r}: {why}, and the store lacks it; it has "
            f"{', '.join((*self._store.surface, *self._store.atmospheric))}. Build the store with it"
        )


def select(spec: ModelSpec, data: DataSettings, store: Store, patch: int) -> Selection:
    """Decide what is read from a store for a model.

    By default everything that the model reads and predicts must be there; ``data.variables`` and ``data.statics``
    name a part on purpose.

    Raises:
        SettingsError: a name that the model or the store does not know.
        StoreError: the store lacks a variable; the region selects too little.
    """
    variant = spec.upstream
    stored = tuple(name for name in spec.surface if name not in spec.derived)
    readable = tuple(name for name in stored if name not in spec.output_only)
    inputs, targets = variant.physical(readable), variant.physical(stored)
    atmospheric, static = spec.atmospheric, spec.static
    if data.variables is not None:
        _known(
            "data.variables",
            data.variables,
            (*targets, *atmospheric),
            f"variant {spec.variant!r} with these weights has",
        )
        inputs, targets, atmospheric = (
            tuple(name for name in names if name in data.variables) for names in (inputs, targets, atmospheric)
        )
    if data.statics is not None:
        _known("data.statics", data.statics, static, f"variant {spec.variant!r} with these weights has")
        static = tuple(name for name in static if name in data.statics)
    _held(store, "surface variables", targets, store.surface)
    _held(store, "atmospheric variables", atmospheric, store.atmospheric)
    _held(store, "static variables", static, store.static)
    if not (inputs and atmospheric and static and spec.levels):
        msg = (
            f"Aurora needs at least one surface, one atmospheric and one static variable and one level; selected are "
            f"{list(inputs)}, {list(atmospheric)}, {list(static)} and {list(spec.levels)}. {store.path} holds "
            f"{list(store.surface)}, {list(store.atmospheric)}, {list(store.static)} and {list(store.levels)}; what is "
            "not there is added by building it again, from files that hold it too"
        )
        raise SettingsError(msg)
    return Selection(
        inputs,
        targets,
        atmospheric,
        static,
        spec.levels,
        spec.history,
        spec.timestep,
        select_grid(store, data.region, patch, data.halo),
        non_negative=frozenset(spec.transforms),
    )


def _known(setting: str, asked: Iterable[str | float], known: Iterable[str | float], whose: str) -> None:
    names = [str(name) for name in known]
    for name in asked:
        if name not in known:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            msg = f"{setting}: {name!r} is unknown; {whose} {', '.join(names)}{hint}"
            raise SettingsError(msg)


def _held(store: Store, what: str, needed: tuple[str, ...], held: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in held]
    if missing:
        msg = (
            f"{store.path}: the model needs {what} {', '.join(missing)}, which the store lacks; it holds "
            f"{', '.join(held) or 'none'}. Build the store with them, or name those to train on with data.variables "
            "and data.statics"
        )
        raise StoreError(msg)
