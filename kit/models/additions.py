"""Variables beyond those of the weights, in any of upstream's classes, without a change to what was there before.

Upstream's decoder predicts what the input batch holds; version 1.5 alone pads its batch with zeros for more. Here the
decoder is told of variables that are only predicted, and the encoder never hears of them. Variables that are read get
a convolution of their own: as long as their weights are zero they add exactly nothing, where one convolution over all
variables would sum the old ones in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from aurora import Aurora, Batch
from aurora.model.patchembed import LevelPatchEmbed

from kit.data.store.format import STATIC_PREFIX

__all__ = ["embed_apart", "let_decoder_predict"]


def let_decoder_predict(model: Aurora, names: tuple[str, ...]) -> None:
    """Have a model's decoder predict surface variables that its input lacks.

    Args:
        model: constructed with heads for them.
        names: of the variables.
    """
    if names:
        model.decoder.register_forward_pre_hook(partial(_with, names), with_kwargs=True)


def _with(
    names: tuple[str, ...], _decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The decoder's arguments, with names in the batch; it looks at no values."""
    latent, batch, *others = args
    assert isinstance(batch, Batch)
    like = next(iter(batch.surf_vars.values()))
    surface = batch.surf_vars | {name: torch.zeros((), dtype=like.dtype).expand(like.shape) for name in names}
    return (latent, dataclasses.replace(batch, surf_vars=surface), *others), kwargs


def embed_apart(model: Aurora, added: Collection[str]) -> None:
    """Have a model's encoder embed added variables apart from the others.

    Args:
        model: constructed with embeddings for them.
        added: the variables, by a store's names; static ones with their prefix.
    """
    names = {*added, *(name.removeprefix(STATIC_PREFIX) for name in added)}
    for module in model.encoder.modules():
        if isinstance(module, LevelPatchEmbed) and not names.isdisjoint(module.weights.keys()):
            module.forward = partial(_embed, module, names)


def _embed(module: LevelPatchEmbed, apart: set[str], x: torch.Tensor, var_names: tuple[str, ...]) -> torch.Tensor:
    """Embed patches, [B, V, T, H, W] to [B, L, D], as upstream does, in two sums."""
    old = [index for index, name in enumerate(var_names) if name not in apart]
    new = [index for index, name in enumerate(var_names) if name in apart]
    parts = [
        _convolved(module, x[:, indices], [var_names[index] for index in indices], bias)
        for indices, bias in ((old, module.bias), (new, None))
        if indices
    ]
    embedded = sum(parts[1:], start=parts[0])
    tokens: torch.Tensor = module.norm(embedded.flatten(2).transpose(1, 2) if module.flatten else embedded)
    return tokens


def _convolved(module: LevelPatchEmbed, x: torch.Tensor, names: list[str], bias: torch.Tensor | None) -> torch.Tensor:
    """Sum over some variables, [B, D, H / P, W / P]."""
    states = x.shape[2]
    weight = torch.cat([module.weights[name][:, :, :states] for name in names], dim=1)
    return torch.nn.functional.conv3d(x, weight, bias, stride=(states, *module.kernel_size[1:]))[:, :, 0]
