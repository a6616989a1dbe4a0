"""Variables, levels and history beyond those of the weights: what each variant can take, and their first values.

Upstream's classes take any names of variables: each has an embedding of its own in the encoder and a head of its own
in the decoder, and the rest of the model is shared. What a variant cannot be given follows from its hooks
(``aurora/model/aurora.py``) and is refused with the reason.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from aurora import Aurora

from kit.data.store.format import STATIC_PREFIX
from kit.data.store.reader import Store
from kit.data.variables import Kind
from kit.io.errors import SettingsError
from kit.models.spec import ModelSpec
from kit.models.variants import Variant


@dataclass(frozen=True)
class Capability:
    """What a variant can be extended with.

    New variables, surface, atmospheric and static ones, and surface variables that are only predicted, can be given to
    all of them.

    Attributes:
        levels: pressure levels in hPa that it is bound to; None where any level can be encoded.
        hours: of the step that its weights were trained for; None where each step may have its own.
        history: most states that it can read; None where there is no limit.
    """

    levels: tuple[int | float, ...] | None
    hours: float | None
    history: int | None


def capability(variant: Variant) -> Capability:
    """Look up what can be added to a variant.

    All encode pressure by its value, so that any level will do, but the air-pollution model, which has embeddings and
    heads of its own for each level. That model also predicts differences from states at fixed places of a history of
    two, ``_predict_difference_history_dim_lookup`` in ``aurora/model/aurora.py``, which in a longer one are others.
    """
    # A model that takes the lead time as an argument has learned several; the others have learned one alone.
    hours = None if variant.default("variable_lead_time") else variant.timestep.total_seconds() / 3600
    history = variant.default("max_history_size") if variant.is_air_pollution else None
    return Capability(variant.default("level_condition"), hours, history)


def check_extension(variant: Variant, levels: Collection[float], history: int) -> None:
    """Check that a variant can be given levels and a history.

    Raises:
        SettingsError: says what, and why.
    """
    can = capability(variant)
    if can.levels is not None and not set(levels) <= set(can.levels):
        msg = (
            f"variant {variant.name!r} has embeddings and heads for {', '.join(map(str, can.levels))} hPa alone; "
            f"selected are {', '.join(map(str, levels))}. Choose among its own with data.levels"
        )
        raise SettingsError(msg)
    if can.history is not None and history > can.history:
        msg = (
            f"data.history: variant {variant.name!r} predicts differences from states at fixed places of a history of "
            f"{can.history}, got {history}; set data.history {can.history}"
        )
        raise SettingsError(msg)


def add_variables(base: ModelSpec, names: Collection[str], output_only: Collection[str], store: Store) -> ModelSpec:
    """Add variables of a store to a model.

    Args:
        base: the model of the weights.
        names: of the new variables, by the store's names; a static one with the prefix ``static_``.
        output_only: those among the new surface variables that are predicted and never read.
        store: holds them, each of one kind.

    Raises:
        SettingsError: the store lacks one, the model has it already, or the variant cannot take it.
    """
    added: dict[Kind, list[str]] = {"surface": [], "atmospheric": [], "static": []}
    # A static variable may have the name of one aloft, as z has: a name is known only within its kind.
    kinds = {name: _kind(name, store) for name in names}
    known: dict[Kind, tuple[str, ...]] = {
        "surface": (*base.surface, *base.upstream.physical(base.surface)),
        "atmospheric": base.atmospheric,
        "static": base.static,
    }
    for name in names:
        kind, bare = kinds[name], name
        if kind == "static":
            bare = name.removeprefix(STATIC_PREFIX)
        if bare in known[kind]:
            msg = (
                f"model.new_variables: {name!r} is no new variable: the weights have it already; leave it out. They "
                f"have {', '.join(dict.fromkeys(known[kind]))}"
            )
            raise SettingsError(msg)
        added[kind].append(bare)
    for name in output_only:
        if kinds.get(name) != "surface":
            what = f"is {kinds[name]}" if name in kinds else "is not among model.new_variables"
            msg = f"model.output_only: {name!r} {what}; only new surface variables can be predicted without being read"
            raise SettingsError(msg)
    return replace(
        base,
        surface=(*base.surface, *added["surface"]),
        atmospheric=(*base.atmospheric, *added["atmospheric"]),
        static=(*base.static, *added["static"]),
        added=tuple(names),
        never_read=(*base.never_read, *output_only),
    )


def _kind(name: str, store: Store) -> Kind:
    if name.startswith(STATIC_PREFIX) and name.removeprefix(STATIC_PREFIX) in store.static:
        return "static"
    if name in store.surface:
        return "surface"
    if name in store.atmospheric:
        return "atmospheric"
    held = (*store.surface, *store.atmospheric, *(STATIC_PREFIX + static for static in store.static))
    msg = f"model.new_variables: {store.path} has no {name!r}; it holds {', '.join(held)}"
    raise SettingsError(msg)


_NOISE = ("backbone.noise_mlp.", "backbone.context_down_layers.")
"""Modules through which a stochastic model reads its noise."""


def added_names(
    model: Aurora, added: Collection[str], *, stabilised: bool = False, stochastic: bool = False
) -> frozenset[str]:
    """List the parameters that a model has because of added variables, or of noise.

    Args:
        model: built with them.
        added: as ``ModelSpec.added`` holds them.
        stabilised: the normalisation of the level aggregation is new as well.
        stochastic: what reads noise is new as well.
    """
    # How an added variable is called among the parameters: static ones are embedded as surface variables are, and the
    # air-pollution model has a second head, _mod, for variables that it predicts as differences.
    bare = [name.removeprefix(STATIC_PREFIX) for name in added]
    surface = {*bare, *(f"{name}_mod" for name in bare)}
    atmospheric = {*added, *(f"{name}_mod" for name in added)}
    new: list[str] = []
    for name, _ in model.named_parameters():
        parts = surface if "surf_" in name else atmospheric
        if "_token_embeds." in name or "_heads." in name:
            is_new = not parts.isdisjoint(name.split("."))
        else:
            is_new = name.startswith("encoder.level_agg.") and (".ln_k." in name or ".ln_q." in name) and stabilised
            is_new |= stochastic and name.startswith(_NOISE)
        if is_new:
            new.append(name)
    return frozenset(new)


@torch.no_grad()
def start_new(model: Aurora, names: Collection[str], start: Literal["zero", "random"]) -> None:
    """Give new embeddings their first values, and what reads noise those that let the model predict as before.

    Noise adds nothing at first, as the last layer that it goes through is zero; and the context of a coarser stage is
    the mean of the four that it replaces, as if all stages had one context.

    Args:
        model: its new parameters hold upstream's random initial values.
        names: of the new parameters.
        start: ``zero`` for embeddings that add nothing, so that what the model predicts of its old variables stays
            as it is; ``random`` leaves them. Heads keep their random values either way: no old variable sees them.
    """
    for name, parameter in model.named_parameters():
        if name not in names:
            continue
        if name.startswith("backbone.noise_mlp.2."):
            parameter.zero_()
        elif name.startswith("backbone.context_down_layers."):
            parameter.copy_(torch.eye(len(parameter)).repeat(1, 4) / 4)
        elif start == "zero" and "_token_embeds." in name:
            parameter.zero_()
