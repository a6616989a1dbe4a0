"""The kit's own encodings of variables: the transforms and heads that settings ask for, over upstream's."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from kit.io.errors import SettingsError
from kit.models.heads import parse_heads
from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics
from kit.models.transforms import PLAIN, Transform, default_transform, parse_transforms, why_not
from kit.models.variants import drop_names


def choose_encodings(
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
    variables = (*spec.surface, *spec.atmospheric)
    plain = [name for name, text in transforms.items() if text == PLAIN]
    # What the weights have been trained with; random ones have not been trained.
    known: set[str] = set()
    if trained is not None:
        known.update(trained.surface, trained.atmospheric)
    elif not fresh:
        known.update(spec.upstream.surface, spec.upstream.physical(spec.upstream.surface), spec.upstream.atmospheric)
    parsed = parse_transforms({name: text for name, text in transforms.items() if name not in plain})
    written = {name: str(transform) for name, transform in parsed.items()}
    for name, text in {**written, **dict.fromkeys(plain, PLAIN)}.items():
        # A later stage may repeat what the weights carry with them.
        if trained is not None and spec.transforms.get(name, PLAIN) == text:
            continue
        why = _why_no_transform(spec, name, known, parsed.get(name))
        if why is not None:
            msg = f"model.transforms.{name}: {text} cannot be had: {why}. Leave it out"
            raise SettingsError(msg)
    # What the weights know keeps the encoding that they know; the settings go before the defaults.
    defaults = {name: default_transform(name) for name in drop_names(variables, [*known, *plain])}
    chosen = {name: str(transform) for name, transform in defaults.items() if transform is not None}
    spec = replace(spec, transforms={**chosen, **written, **spec.transforms})
    return _with_heads(spec, {name: str(head) for name, head in parse_heads(heads).items()}, fresh=fresh)


def _why_no_transform(spec: ModelSpec, name: str, known: Collection[str], transform: Transform | None) -> str | None:
    """Why a transform would have no effect, or would be another one than the weights know."""
    why = _own_encoding(spec, name)
    if why is not None:
        return why
    if name not in (*spec.surface, *spec.atmospheric):
        return f"the model has no such variable; it has {', '.join((*spec.surface, *spec.atmospheric))}"
    if name in known:
        return f"the weights were trained with {spec.transforms.get(name, 'none')}, which stays"
    if name in spec.derived:
        return f"{name} is made by a head"
    if transform is None:
        return None
    return why_not(name, "surface" if name in spec.surface else "atmospheric", transform)


def _own_encoding(spec: ModelSpec, name: str) -> str | None:
    """Why a variable of a variant that encodes its own is left to it."""
    # Version 1.5 has logarithms of its own, the wave model densities and angles, the air-pollution model differences.
    variant = spec.upstream
    if not (variant.is_v1p5 or variant.is_wave or variant.is_air_pollution):
        return None
    own = {*variant.surface, *variant.physical(variant.surface), *variant.atmospheric}
    if name not in own:
        return None
    return f"variant {variant.name!r} has its own encoding of {name}"


def _with_heads(spec: ModelSpec, heads: Mapping[str, str], *, fresh: bool) -> ModelSpec:
    """Add the channels of heads that the weights lack."""
    added: list[str] = []
    for name, text in heads.items():
        if spec.heads.get(name) == text:
            continue
        why = _own_encoding(spec, name)
        if why is None and name not in spec.surface:
            why = f"the model has no such surface variable; it has {', '.join(spec.surface)}"
        if why is None and name in spec.heads:
            why = f"the weights were trained with {spec.heads[name]}, which stays"
        if why is not None:
            msg = f"model.heads.{name}: {text} cannot be had: {why}. Leave it out"
            raise SettingsError(msg)
        added += parse_heads({name: text})[name].channels(name)
    taken = sorted(set(added) & {*spec.surface, *spec.atmospheric})
    if taken:
        msg = f"model.heads: {', '.join(taken)} would be a channel of a head, and is a variable of the model"
        raise SettingsError(msg)
    return replace(
        spec,
        surface=(*spec.surface, *added),
        never_read=(*spec.never_read, *added),
        # Random weights lack nothing: nothing is added to them.
        added=spec.added if fresh else (*spec.added, *added),
        heads={**spec.heads, **heads},
    )


def with_head_statistics(spec: ModelSpec, values: Mapping[str, tuple[float, float]]) -> Statistics:
    """Complete the statistics of all channels with those of the heads'.

    Args:
        spec: with its heads.
        values: location and scale of every other channel.
    """
    own = dict(values)
    for name, head in parse_heads(spec.heads).items():
        own |= dict.fromkeys(head.channels(name), head.statistics(values[name]))
    return Statistics(own)
