"""The model that vibe-kit's Lightning module says that it trained.

Microsoft's vibe-kit (``aurora-finetune``: ``vibe_tune_aurora/aurora_module.py`` and ``model_init.py``) trains
upstream's small model, to which it adds surface variables: embeddings and heads that upstream's weights lack. Their
names and the statistics that all surface variables are normalised with stand in the module's arguments, which
Lightning keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.errors import CheckpointError
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics, level_key
from kit.models.variants import Variant

__all__ = ["told"]

_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Levels, in hPa, that upstream publishes statistics for."""
_UNCHANGED = "pretrained"
"""The ``init_mode`` in which the model is upstream's own, whatever the other arguments say."""


def told(arguments: Mapping[str, Any], variant: Variant, file: Path) -> ModelSpec | None:
    """Read the model from a module's arguments.

    Args:
        arguments: ``hyper_parameters`` of the checkpoint.
        variant: whose weights they are taken for.
        file: for messages.

    Returns:
        The variant with the module's surface variables and statistics; None where the arguments name none, so that
        the model is the variant's own.

    Raises:
        CheckpointError: names or statistics are not what that module writes.
    """
    if arguments.get("init_mode") == _UNCHANGED or not {"surf_vars", "surf_stats"} <= arguments.keys():
        return None
    names, given = arguments["surf_vars"], arguments["surf_stats"]
    if not _are_names(names) or not isinstance(given, dict) or not all(map(_is_pair, given.values())):
        msg = (
            f"{file}: hyper_parameters: expected the names of variables in surf_vars and a mean and a standard "
            f"deviation for each in surf_stats, got {names!r} and {given!r}"
        )
        raise CheckpointError(msg)
    keys = [*names, *variant.static, *(level_key(name, level) for name in variant.atmospheric for level in _LEVELS)]
    values = {key: found for key in keys if (found := Statistics.published(key)) is not None}
    values |= {name: (float(given[name][0]), float(given[name][1])) for name in names if name in given}
    return ModelSpec(
        variant=variant.name,
        surface=tuple(names),
        static=variant.static,
        atmospheric=variant.atmospheric,
        levels=_LEVELS,
        history=variant.default("max_history_size"),
        timestep=variant.timestep,
        statistics=Statistics(values),
    )


def _are_names(names: Any) -> bool:
    return isinstance(names, list | tuple) and bool(names) and all(isinstance(name, str) for name in names)


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(value, int | float) and math.isfinite(value) for value in pair)
    )
