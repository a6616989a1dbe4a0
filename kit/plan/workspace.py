"""Memory that CUDA's kernels take for themselves while they run, which no tensor of the program shows.

Attention's backward pass is what matters here. Outside autocast, and wherever there is a mask, PyTorch's
memory-efficient kernel runs it, which accumulates the gradient of the queries in tiles of 64 x 64 fp32 values, a tile
for each sample and head however few queries there are (``mem_eff_attention/kernel_backward.h``,
``workspace_elements_gq``). Aurora's perceivers attend from 3 or 13 levels to 13 or 3, for every patch and head: at 0.25
degrees that is a workspace of 15.8 GiB. In bf16 without a mask, FlashAttention-2 runs it, with queries rounded up to
128 (``flash_attn/flash_api.cpp``, ``mha_bwd``). On the GPUs where PyTorch prefers cuDNN's attention, it takes less.

``roll`` along several axes is one roll after the other, and all results stay until the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["CUDA_WORKSPACES", "Workspace"]

Workspace = Callable[[Sequence[Any], Mapping[str, Any]], int]
"""From an operation's arguments, positional and named, to bytes."""

_aten = torch.ops.aten
_TILE = 64
_TILE_HEAD = 16
"""Bytes before the values of a tile: a lock, a counter, padding."""
_FLASH_ROWS, _FLASH_WIDTH = 128, 32
_MOST_SAMPLES = 2**16 - 1
"""Samples that one launch of the memory-efficient kernel takes; more are taken in turns."""


def _attention_backward(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Of ``_scaled_dot_product_flash_attention_for_cpu_backward``, which stands in for CUDA's kernels."""
    query: torch.Tensor = args[1]
    samples, heads, length, width = query.shape
    if kwargs.get("attn_mask") is None and query.dtype in (torch.bfloat16, torch.float16):
        rows = _up(length, _FLASH_ROWS)
        return 4 * samples * heads * rows * (_up(width, _FLASH_WIDTH) + 1)
    tiles = -(-length // _TILE) * -(-width // _TILE)
    return min(samples, _MOST_SAMPLES) * heads * (tiles * (4 * _TILE * _TILE + _TILE_HEAD) + 4 * length)


def _roll(args: Sequence[Any], _kwargs: Mapping[str, Any]) -> int:
    tensor: torch.Tensor = args[0]
    axes = args[2] if len(args) > 2 else ()
    return max(len(axes) - 1, 0) * tensor.numel() * tensor.element_size()


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


CUDA_WORKSPACES: Mapping[Any, Workspace] = {
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    _aten.roll.default: _roll,
}
