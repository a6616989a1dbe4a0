"""Synthetic inputs for tests: seeded, small, and shaped like the real thing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch
from aurora import Batch, Metadata
from aurora.normalisation import locations, scales

from kit.models.spec import ModelSpec
from kit.models.statistics import Statistics, level_key
from kit.models.variants import VARIANTS

__all__ = ["small_spec", "synthetic_batch"]

# Two stages of two blocks, so that every other block shifts its windows, and a token grid of 8 x 16.
SMALL: dict[str, Any] = {
    "encoder_depths": (2, 2),
    "encoder_num_heads": (2, 4),
    "decoder_depths": (2, 2),
    "decoder_num_heads": (4, 2),
    "embed_dim": 32,
    "num_heads": 2,
    "window_size": (2, 4, 4),
}
_ANGLES = ("dwi", "mwd", "mdww", "mdts", "mwd1", "mwd2")
_WEATHER = ("2t", "10u", "10v", "msl")


def small_spec(variant: str, *, levels: tuple[int, ...] = (300, 500, 850), rollout_lora: Any = None) -> ModelSpec:
    """A spec of upstream's class with all its variables and small settings."""
    row = VARIANTS[variant]
    keys = [*row.surface, *row.static, *(level_key(name, level) for name in row.atmospheric for level in levels)]
    if row.is_wave:
        keys += [f"{name}{suffix}" for name in row.surface for suffix in ("_sin", "_cos", "_density")]
    known = {key: (locations[key], scales[key]) for key in keys if key in locations}
    return ModelSpec(
        variant=variant,
        surface=row.surface,
        static=row.static,
        atmospheric=row.atmospheric,
        levels=levels,
        history=2,
        timestep=row.timestep,
        statistics=Statistics(known),
        rollout_lora=rollout_lora,
        arguments=SMALL,
    )


def synthetic_batch(
    spec: ModelSpec, *, states: int = 2, samples: int = 1, seed: int = 0, inputs: bool = True, rows: int | None = None
) -> Batch:
    """Physical variables drawn around the spec's statistics, on a global grid of 8 x 16 patches.

    Args:
        spec: which variables and levels.
        states: length of the history dimension; 1 for a target.
        samples: batch size.
        seed: of the draw.
        inputs: leave out what the model only predicts.
        rows: latitudes, if not 8 patches.
    """
    patch = spec.upstream.default("patch_size")
    height, width = rows or 8 * patch, 16 * patch
    generator = torch.Generator().manual_seed(seed)
    surface = [n for n in spec.surface if not ((inputs and n in spec.output_only) or n in spec.derived)]

    def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        location, scale = spec.statistics.values.get(name, (0.0, 1.0))
        return location + scale * torch.randn(shape, generator=generator)

    def draw_surface(name: str) -> torch.Tensor:
        shape = (samples, states, height, width)
        if name in _ANGLES:
            return 360 * torch.rand(shape, generator=generator)
        channel = spec.upstream.channel_name(name)
        value = draw(channel, shape)
        if channel.startswith("scaled_") or name in spec.transforms:
            return 1e-3 * value.abs()
        return value.abs() + 0.01 if spec.upstream.is_wave and name not in _WEATHER else value

    statics = {name: draw(name, (height, width)).abs() for name in spec.static}
    surf_vars = {name: draw_surface(name) for name in spec.upstream.physical(tuple(surface))}
    if spec.upstream.is_wave:
        statics["wmb"] = (torch.arange(width) >= width // 4).float().expand(height, width).clone()
        for name in surf_vars.keys() - {*_WEATHER, *spec.transforms}:
            surf_vars[name][..., : width // 4] = torch.nan
        surf_vars["swh2"][..., :2, -3:] = 0.0
    atmos_vars = {
        name: torch.stack([draw(level_key(name, level), (samples, states, height, width)) for level in spec.levels], 2)
        for name in spec.atmospheric
    }
    longitude = torch.linspace(0, 360, width + 1)[:-1]
    half = 90 / height
    latitude = torch.linspace(90 - half, -90 + half, height)
    metadata = Metadata(latitude, longitude, (datetime(2020, 1, 1, 6, tzinfo=UTC),) * samples, spec.levels)
    return Batch(surf_vars, statics, atmos_vars, metadata)
