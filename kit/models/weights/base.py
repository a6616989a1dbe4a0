"""The model that training started from, as its own weights describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kit.data.store.format import STATIC_PREFIX
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
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
    own = weights.spec or without_additions(spec)
    keys = own.statistics.values.keys()
    levels = tuple(level for level in spec.levels if all(level_key(name, level) in keys for name in own.atmospheric))
    return replace(own, levels=levels or own.levels, history=max(own.history, spec.history), timestep=spec.timestep)


def without_additions(spec: ModelSpec) -> ModelSpec:
    """The model as upstream's weights have it: without the variables and the layers that were added."""
    bare = {name.removeprefix(STATIC_PREFIX) for name in spec.added if name.startswith(STATIC_PREFIX)}
    return replace(
        spec,
        surface=tuple(name for name in spec.surface if name not in spec.added),
        atmospheric=tuple(name for name in spec.atmospheric if name not in spec.added),
        static=tuple(name for name in spec.static if name not in bare),
        never_read=tuple(name for name in spec.never_read if name not in spec.added),
        arguments={key: value for key, value in spec.arguments.items() if key != "stabilise_level_agg"},
        added=(),
    )


def known_to(spec: ModelSpec, data: Mapping[str, Any]) -> dict[str, tuple[str, ...] | None]:
    """What a checkpoint recorded of its variables, as far as a model knows them.

    Args:
        spec: the model.
        data: the checkpoint's ``data`` section.

    Returns:
        ``variables`` and ``statics`` as ``DataSettings`` takes them.
    """
    names = {"variables": (*spec.upstream.physical(spec.surface), *spec.atmospheric), "statics": spec.static}
    return {
        key: None if data[key] is None else tuple(name for name in data[key] if name in known)
        for key, known in names.items()
    }
