"""How a model's variables are encoded beyond upstream's ways: our own transforms and heads, as the settings ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kit.io.errors import SettingsError
from kit.models.heads import parse_heads
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics
from kit.models.transforms import default_transform, parse_transforms, why_not

__all__ = ["encoded", "with_head_statistics"]


def encoded(
    spec: ModelSpec,
    transforms: Mapping[str, str],
    heads: Mapping[str, str],
    trained: ModelSpec | None = None,
    *,
    fresh: bool = False,
) -> ModelSpec:
    """Give variables their transforms and heads.

    What the weights were trained with stays. New precipitation is transformed by ``log1p`` unless the settings say
    otherwise.

    Args:
        spec: the model with all its variables.
        transforms: as ``model.transforms`` gives them.
        heads: as ``model.heads`` gives them.
        trained: what the weights carry with them; None for upstream's own, and for random ones.
        fresh: the weights are random.

    Raises:
        SettingsError: one of them cannot be read, would have no effect, or differs from what the weights know.
    """
    written = {name: str(transform) for name, transform in parse_transforms(transforms).items()}
    for name, text in written.items():
        _refuse_transform(spec, name, text, trained, fresh=fresh)
    known = set() if fresh else _known(spec, trained)
    chosen = {
        name: str(default)
        for name in (*spec.surface, *spec.atmospheric)
        if name not in known and (default := default_transform(name)) is not None
    }
    spec = replace(spec, transforms={**chosen, **written, **spec.transforms})
    return _with_heads(spec, {name: str(head) for name, head in parse_heads(heads).items()}, fresh=fresh)


def _known(spec: ModelSpec, trained: ModelSpec | None) -> set[str]:
    """Variables that the weights have been trained with."""
    if trained is not None:
        return {*trained.surface, *trained.atmospheric}
    return {*spec.upstream.surface, *spec.upstream.physical(spec.upstream.surface), *spec.upstream.atmospheric}


def _refuse_transform(spec: ModelSpec, name: str, text: str, trained: ModelSpec | None, *, fresh: bool) -> None:
    """Refuse a transform that would have no effect, or another one than the weights know.

    Raises:
        SettingsError: says which.
    """
    if trained is not None and spec.transforms.get(name) == text:
        return
    why = _own_encoding(spec, name)
    if why is None and name not in (*spec.surface, *spec.atmospheric):
        why = f"the model has no such variable; it has {', '.join((*spec.surface, *spec.atmospheric))}"
    if why is None and not fresh and name in _known(spec, trained):
        why = f"the weights were trained with {spec.transforms.get(name, 'none')}, which stays"
    if why is None and name in spec.derived:
        why = f"{name} is made by a head"
    if why is None:
        why = why_not(name, "surface" if name in spec.surface else "atmospheric")
    if why is not None:
        msg = f"model.transforms.{name}: {text} cannot be had: {why}. Leave it out"
        raise SettingsError(msg)


def _own_encoding(spec: ModelSpec, name: str) -> str | None:
    """Why a variable of a variant that encodes its own is left to it."""
    variant = spec.upstream
    if not (variant.is_v1p5 or variant.is_wave or variant.is_air_pollution):
        return None
    own = {*variant.surface, *variant.physical(variant.surface), *variant.atmospheric}
    return f"variant {variant.name!r} has its own encoding of {name}" if name in own else None


def _with_heads(spec: ModelSpec, heads: Mapping[str, str], *, fresh: bool) -> ModelSpec:
    """Add the channels of heads that the weights lack."""
    added: list[str] = []
    for name, text in heads.items():
        if spec.heads.get(name) == text:
            continue
        _refuse_head(spec, name, text)
        added += parse_heads({name: text})[name].channels(name)
    if taken := sorted(set(added) & {*spec.surface, *spec.atmospheric}):
        msg = f"model.heads: {', '.join(taken)} would be a channel of a head, and is a variable of the model"
        raise SettingsError(msg)
    return replace(
        spec,
        surface=(*spec.surface, *added),
        never_read=(*spec.never_read, *added),
        added=spec.added if fresh else (*spec.added, *added),
        heads={**spec.heads, **heads},
    )


def _refuse_head(spec: ModelSpec, name: str, text: str) -> None:
    """Refuse a head for a variable that cannot have it.

    Raises:
        SettingsError: says why.
    """
    why = _own_encoding(spec, name)
    if why is None and name not in spec.surface:
        why = f"the model has no such surface variable; it has {', '.join(spec.surface)}"
    if why is None and name in spec.heads:
        why = f"the weights were trained with {spec.heads[name]}, which stays"
    if why is not None:
        msg = f"model.heads.{name}: {text} cannot be had: {why}. Leave it out"
        raise SettingsError(msg)


def with_head_statistics(spec: ModelSpec, values: Mapping[str, tuple[float, float]]) -> Statistics:
    """Statistics of all channels, those of heads among them.

    Args:
        spec: with its heads.
        values: location and scale of every other channel.
    """
    own = dict(values)
    for name, head in parse_heads(spec.heads).items():
        own |= dict.fromkeys(head.channels(name), head.statistics(values[name]))
    return Statistics(own)
