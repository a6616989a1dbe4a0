"""Resolution of settings, a store and weights into the model that is trained and the data that it reads."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from kit.config.suggestions import near_names
from kit.data.dataset import Selection
from kit.data.grid import Grid
from kit.data.region import select_grid
from kit.data.settings import DataSettings
from kit.data.store.format import STATIC_PREFIX
from kit.data.store.reader import Store
from kit.io.errors import SettingsError, StoreError
from kit.models.encoding import choose_encodings, with_head_statistics
from kit.models.extend import add_variables, check_extension
from kit.models.settings import ModelSettings
from kit.models.spec import ModelSpec, RolloutLora
from kit.models.statistics import Statistics, level_key
from kit.models.transforms import parse_transforms, transformed_statistics, with_non_negative
from kit.models.variants import INSOLATION, Variant, drop_names, keep_names, variant_named
from kit.models.weights.load import Weights


def resolve_spec(model: ModelSettings, data: DataSettings, store: Store, weights: Weights | None) -> ModelSpec:
    """Decide which model is built.

    With weights, its variables are those that the weights were trained with. Random weights take the variables of
    the data, except for variants whose derived channels fix them.

    Raises:
        SettingsError: settings that contradict each other, the variant or the weights.
        StoreError: the store lacks a statistic that is needed.
    """
    variant = variant_named(model.variant)
    trained = None if weights is None else weights.spec
    base = replace(trained or _own_model(variant, data, store, random=weights is None), added=())
    if weights is None and model.new_variables:
        msg = "model.new_variables has no effect on random weights, which have all variables of the data; leave it out"
        raise SettingsError(msg)
    if model.stabilise_level_agg is not None:
        base = replace(base, arguments={**base.arguments, "stabilise_level_agg": model.stabilise_level_agg})
    if model.stochastic:
        base = replace(base, arguments={**base.arguments, "stochastic": True})
    base = add_variables(base, model.new_variables, model.output_only, store)
    if data.history < base.history:
        msg = f"data.history is {data.history}, the weights read {base.history} states; set data.history {base.history}"
        raise SettingsError(msg)
    levels = store.levels
    if data.levels is not None:
        _check_known("data.levels", data.levels, store.levels, f"{store.path} holds")
        levels = keep_names(store.levels, data.levels)
    check_extension(variant, levels, data.history)
    spec = replace(
        base,
        levels=levels,
        history=data.history,
        timestep=model.timestep or base.timestep,
        rollout_lora=_rollout_lora(model, variant, weights, trained),
    )
    spec = choose_encodings(spec, model.transforms, model.heads, trained, fresh=weights is None)
    # Weights expect the statistics that they were trained with; random ones have seen none.
    source = model.statistics
    if source is None and weights is None:
        source = "store"
    return replace(spec, statistics=_statistics(spec, store, source or "upstream", keep=model.statistics is None))


def _own_model(variant: Variant, data: DataSettings, store: Store, *, random: bool) -> ModelSpec:
    """The model of a variant's own variables, or of the data's where random weights leave them free."""
    surface, atmospheric, static = variant.surface, variant.atmospheric, variant.static
    # Weights read as many states as they were trained with, random ones as many as the data have.
    history = data.history if random else variant.default("max_history_size")
    # Derived channels tie these variants to their own variables.
    if random and not (variant.is_wave or variant.is_v1p5 or variant.is_air_pollution):
        chosen = store.surface + store.atmospheric if data.variables is None else data.variables
        static = store.static if data.statics is None else data.statics
        surface, atmospheric = keep_names(chosen, store.surface), keep_names(chosen, store.atmospheric)
    return ModelSpec(
        variant=variant.name,
        surface=surface,
        static=static,
        atmospheric=atmospheric,
        levels=(),
        history=history,
        timestep=variant.timestep,
        statistics=Statistics({}),
    )


def _rollout_lora(
    model: ModelSettings, variant: Variant, weights: Weights | None, trained: ModelSpec | None
) -> RolloutLora | None:
    """What becomes of upstream's roll-out LoRA, in the weights that have one."""
    # Only upstream's own weights leave a choice.
    if weights is None or trained is not None or not variant.has_rollout_lora:
        if model.rollout_lora is not None:
            settled = "the weights has no roll-out LoRA"
            if trained is not None:
                settled = "decided when they were trained"
            elif not variant.has_rollout_lora:
                settled = f"variant {variant.name!r} has no roll-out LoRA"
            msg = f"model.rollout_lora has no effect: {settled}; leave it out"
            raise SettingsError(msg)
        return None if trained is None else trained.rollout_lora
    # Merging changes predictions from roll-out step 40 on alone, where upstream drops a LoRA that acts at every step.
    if variant.rollout_lora_from_second:
        if model.rollout_lora == "merge":
            msg = (
                f"model.rollout_lora merge: the LoRA of variant {variant.name!r} acts from the second roll-out step; "
                "merged it would change the first; use keep"
            )
            raise SettingsError(msg)
        return "kept"
    return "kept" if model.rollout_lora == "keep" else "merged"


def _statistics(spec: ModelSpec, store: Store, source: str, *, keep: bool) -> Statistics:
    """Find location and scale of every channel that upstream normalises, those of heads among them."""
    # What the weights were trained with stays, unless the settings say otherwise.
    kept = dict(spec.statistics.values) if keep else {}
    transforms = parse_transforms(spec.transforms)

    def resolve(key: str, stored: str, name: str = "", level: float | None = None) -> tuple[float, float]:
        if key in kept:
            return kept[key]
        if name in transforms:
            # Never upstream's, which are of other values.
            if name not in (*store.surface, *store.atmospheric):
                raise StoreError(_lacking(store, name, "it is transformed"))
            return transformed_statistics(store, name, level, transforms[name])
        published = Statistics.published(key)
        # No store holds derived channels: they have upstream's statistics alone.
        derived = key == INSOLATION or key != stored.removeprefix("static_") or key in ("10u_wave", "10v_wave")
        if published is not None and (source == "upstream" or derived):
            return published
        found = store.statistics.variables.get(stored)
        if found is not None:
            return found.mean, found.std
        why, remedy = "upstream publishes none", ""
        if published is not None:
            why, remedy = "those of the store are asked for", ", or take upstream's with model.statistics upstream"
        raise StoreError(_lacking(store, stored, why) + remedy)

    own = drop_names(spec.surface, spec.derived)
    values = kept | {name: resolve(name, spec.upstream.physical_name(name), name) for name in own}
    values |= {name: resolve(name, f"static_{name}") for name in spec.static}
    for name, level in product(spec.atmospheric, spec.levels):
        key = level_key(name, level)
        values[key] = resolve(key, key, name, level)
    return with_head_statistics(spec, values)


def _lacking(store: Store, stored: str, why: str) -> str:
    return (
        f"{store.path}: no statistics of {stored!r}: {why}, and the store lacks it; it has "
        f"{', '.join((*store.surface, *store.atmospheric))}. Build the store with it"
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
    stored = drop_names(spec.surface, spec.derived)
    inputs, targets = variant.physical(drop_names(stored, spec.output_only)), variant.physical(stored)
    atmospheric, static = spec.atmospheric, spec.static
    whose = f"variant {spec.variant!r} with these weights has"
    # A part of the variables is trained on only where somebody asks for it by name.
    if data.variables is not None:
        _check_known("data.variables", data.variables, (*targets, *atmospheric), whose)
        inputs, targets = keep_names(inputs, data.variables), keep_names(targets, data.variables)
        atmospheric = keep_names(atmospheric, data.variables)
    if data.statics is not None:
        _check_known("data.statics", data.statics, static, whose)
        static = keep_names(static, data.statics)
    _check_held(store, "surface variables", targets, store.surface)
    _check_held(store, "atmospheric variables", atmospheric, store.atmospheric)
    _check_held(store, "static variables", static, store.static)
    _check_levels(store, spec.levels)
    if not (inputs and atmospheric and static and spec.levels):
        msg = (
            f"Aurora needs at least one surface, one atmospheric and one static variable and one level; selected are "
            f"{list(inputs)}, {list(atmospheric)}, {list(static)} and {list(spec.levels)}. {store.path} holds "
            f"{list(store.surface)}, {list(store.atmospheric)}, {list(store.static)} and {list(store.levels)}; what is "
            "not there is added by building it again, from files that hold it too"
        )
        raise SettingsError(msg)
    grid = select_grid(store, data.region, patch, data.halo)
    _check_patches(spec, grid, store, patch)
    return Selection(
        inputs,
        targets,
        atmospheric,
        static,
        spec.levels,
        spec.history,
        spec.timestep,
        grid,
        non_negative=with_non_negative(spec.transforms),
    )


def _check_patches(spec: ModelSpec, grid: Grid, store: Store, patch: int) -> None:
    """Refuse a grid that the backbone cannot halve as often as it has stages.

    Raises:
        StoreError: names the size, and what is needed.
    """
    stages = len(spec.argument("encoder_depths"))
    # Each stage but the last halves rows and columns of patches, rounded up, and wants more than one of either
    # (``PatchMerging3D`` in ``aurora/model/swin3d.py``).
    least = 2 ** (stages - 2) + 1 if stages > 1 else 1
    rows = len(grid.latitude(store)) // patch
    columns = grid.longitude(store).shape[-1] // patch
    if min(rows, columns) < least:
        msg = (
            f"{store.path}: the region has {rows} x {columns} patches of {patch} x {patch} points, and the model's "
            f"{stages} stages need {least} each way; choose a larger --data.region or --data.halo"
        )
        raise StoreError(msg)


def _check_known(setting: str, asked: Iterable[str | float], known: Collection[str | float], whose: str) -> None:
    names = list(map(str, known))
    for name in drop_names(asked, known):
        msg = f"{setting}: {name!r} is unknown; {whose} {', '.join(names)}"
        close = near_names(str(name), names, count=1)
        if close:
            msg += f"; did you mean {close[0]}?"
        raise SettingsError(msg)


def _check_held(store: Store, what: str, needed: tuple[str, ...], held: tuple[str, ...]) -> None:
    missing = drop_names(needed, held)
    if missing:
        msg = (
            f"{store.path}: the model needs {what} {', '.join(missing)}, which the store lacks; it holds "
            f"{', '.join(held) or 'none'}. Build the store with them, or name those to train on with data.variables "
            "and data.statics"
        )
        raise StoreError(msg)


def _check_levels(store: Store, needed: Sequence[float]) -> None:
    missing = [f"{level:g}" for level in needed if level not in store.levels]
    if missing:
        held = ", ".join(f"{level:g}" for level in store.levels)
        msg = (
            f"{store.path}: the model was made for levels of {', '.join(missing)} hPa, which the store lacks; it holds "
            f"{held or 'none'}. Build the store with them"
        )
        raise StoreError(msg)


# The model that training started from, as its own weights describe it.


def base_spec(spec: ModelSpec, weights: Weights) -> ModelSpec:
    """Reconstruct a checkpoint's model from before its variables were added and its statistics chosen.

    Variables and statistics are the weights' own. Steps, history (states that weights never read weigh nothing) and
    levels are the checkpoint's, as far as there are statistics, so that both predict the same.

    Args:
        spec: the checkpoint's model.
        weights: that its training started from.
    """
    own = weights.spec
    if own is None:
        # As upstream's weights have it: without the variables and the layers that were added.
        arguments = dict(spec.arguments)
        arguments.pop("stabilise_level_agg", None)
        # Static variables are added under their prefix, which the model itself does not know.
        statics = [name.removeprefix(STATIC_PREFIX) for name in spec.added if name.startswith(STATIC_PREFIX)]
        own = replace(
            spec,
            surface=drop_names(spec.surface, spec.added),
            atmospheric=drop_names(spec.atmospheric, spec.added),
            static=drop_names(spec.static, statics),
            never_read=drop_names(spec.never_read, spec.added),
            arguments=arguments,
            added=(),
        )
    levels = spec.levels
    for name in own.atmospheric:
        levels = tuple(level for level in levels if level_key(name, level) in own.statistics.values)
    return replace(own, levels=levels or own.levels, history=max(own.history, spec.history), timestep=spec.timestep)


def known_to(spec: ModelSpec, data: Mapping[str, Any]) -> dict[str, tuple[str, ...] | None]:
    """Limit what a checkpoint recorded of its variables to those that a model knows.

    Args:
        spec: the model.
        data: the checkpoint's ``data`` section.

    Returns:
        ``variables`` and ``statics`` as ``DataSettings`` takes them.
    """
    known = {
        "variables": (*spec.upstream.physical(spec.surface), *spec.atmospheric),
        "statics": spec.static,
    }
    limited: dict[str, tuple[str, ...] | None] = dict.fromkeys(known)
    for key, names in known.items():
        if data[key] is not None:
            limited[key] = keep_names(data[key], names)
    return limited
