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
from kit.models.variants import drop_names, keep_names

__all__ = ["embed_apart", "let_decoder_predict"]


def let_decoder_predict(model: Aurora, names: tuple[str, ...]) -> None:
    """Have a model's decoder predict surface variables that its input lacks.

    Args:
        model: constructed with heads for them.
        names: of the variables.
    """
    if names:
        model.decoder.register_forward_pre_hook(partial(_add_names, names), with_kwargs=True)


def _add_names(
    names: tuple[str, ...], _decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The decoder's arguments, with names in the batch; it looks at no values."""
    latent, batch, *others = args
    assert isinstance(batch, Batch)
    like = next(iter(batch.surf_vars.values()))
    # One zero in the shape of a field takes no memory.
    empty = torch.zeros((), dtype=like.dtype).expand(like.shape)
    surface = batch.surf_vars | dict.fromkeys(names, empty)
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
    states = x.shape[2]
    stride = (states, *module.kernel_size[1:])
    parts: list[torch.Tensor] = []
    for names, bias in ((drop_names(var_names, apart), module.bias), (keep_names(var_names, apart), None)):
        if names:
            indices = list(map(var_names.index, names))
            weight = torch.cat([module.weights[name][:, :, :states] for name in names], dim=1)
            parts.append(torch.nn.functional.conv3d(x[:, indices], weight, bias, stride=stride)[:, :, 0])
    embedded = sum(parts[1:], start=parts[0])
    # [B, D, H / P, W / P] to [B, L, D].
    if module.flatten:
        embedded = embedded.flatten(2).transpose(1, 2)
    tokens: torch.Tensor = module.norm(embedded)
    return tokens
