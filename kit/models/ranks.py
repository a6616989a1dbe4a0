"""Adapters of which parts were pruned: files hold what is left, as PEFT's do; models hold all, the pruned as zeros.

PEFT's ``rank_pattern`` says for each adapter which of its rank's parts are left. A model keeps the parts in their
places, so that it predicts after loading what it did in training, to the last bit: a product over fewer of them would
be summed in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

__all__ = ["Pattern", "expanded", "shrunk"]

Pattern = Mapping[str, Sequence[bool]]
"""By the name of an adapter's ``lora_E``, without the prefix of a file."""

_AXES = {"lora_A": 0, "lora_E": 0, "lora_B": 1}
"""Along which axis the parts of an adapter lie."""


def shrunk(tensors: Mapping[str, torch.Tensor], pattern: Pattern, prefix: str) -> dict[str, torch.Tensor]:
    """Leave out what was pruned.

    Args:
        tensors: adapters.
        pattern: what is left of each.
        prefix: what stands before the pattern's names in those of the tensors.
    """
    found = dict(tensors)
    for name, axis, kept in _pruned(pattern, prefix):
        found[name] = found[name].index_select(axis, kept.nonzero().flatten().to(found[name].device))
    return found


def expanded(tensors: Mapping[str, torch.Tensor], pattern: Pattern, prefix: str) -> dict[str, torch.Tensor]:
    """Inverse of ``shrunk``, with zeros for what was pruned."""
    found = dict(tensors)
    for name, axis, kept in _pruned(pattern, prefix):
        part = found[name]
        shape = [len(kept) if index == axis else size for index, size in enumerate(part.shape)]
        found[name] = part.new_zeros(shape).index_copy_(axis, kept.nonzero().flatten(), part)
    return found


def _pruned(pattern: Pattern, prefix: str) -> list[tuple[str, int, torch.Tensor]]:
    return [
        (f"{prefix}{name.removesuffix('lora_E')}{part}", axis, torch.tensor(kept))
        for name, kept in pattern.items()
        for part, axis in _AXES.items()
    ]
