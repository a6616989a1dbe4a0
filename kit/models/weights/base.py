"""The model that training started from, as its own weights describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kit.data.store.format import STATIC_PREFIX
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
from kit.models.variants import drop_names, keep_names
from kit.models.weights.load import Weights

__all__ = ["base_spec", "known_to"]


def base_spec(spec: ModelSpec, weights: Weights) -> ModelSpec:
    """What a checkpoint's model was before its variables were added and its statistics chosen.

    Variables and statistics are the weights' own. Steps, history (states that weights never read weigh nothing) and
    levels are the checkpoint's, as far as there are statistics, so that both predict the same.

    Args:
        spec: the checkpoint's model.
        weights: that its training started from.
    """
    own = weights.spec or _without_additions(spec)
    levels = spec.levels
    for name in own.atmospheric:
        levels = tuple(level for level in levels if level_key(name, level) in own.statistics.values)
    return replace(own, levels=levels or own.levels, history=max(own.history, spec.history), timestep=spec.timestep)


def _without_additions(spec: ModelSpec) -> ModelSpec:
    """The model as upstream's weights have it: without the variables and the layers that were added."""
    arguments = dict(spec.arguments)
    arguments.pop("stabilise_level_agg", None)
    # Static variables are added under their prefix, which the model itself does not know.
    statics = [name.removeprefix(STATIC_PREFIX) for name in spec.added if name.startswith(STATIC_PREFIX)]
    return replace(
        spec,
        surface=drop_names(spec.surface, spec.added),
        atmospheric=drop_names(spec.atmospheric, spec.added),
        static=drop_names(spec.static, statics),
        never_read=drop_names(spec.never_read, spec.added),
        arguments=arguments,
        added=(),
    )


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
