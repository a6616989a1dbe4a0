"""Upstream's own roll-out LoRA, as tensors in a checkpoint: told from the others, or added to what it adapts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from aurora import Aurora

from kit.io.errors import CheckpointError

__all__ = ["Pattern", "add", "expanded", "merged", "of", "shrunk", "without"]


def merged(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add upstream's roll-out LoRA to the weights that it adapts.

    Upstream's layers compute ``W x + (alpha / r) B A x`` with alpha = r = 8 (``aurora/model/swin3d.py``,
    ``aurora/model/lora.py``), so the merged weight is ``W + B A``. From roll-out step ``lora_steps`` (40) on
    upstream drops the term; merged weights keep it.

    Raises:
        CheckpointError: there is one LoRA for each roll-out step, which no single weight can hold.
    """
    result = without(state)
    for target, product in _products(state):
        result[target] = result[target] + product
    return result


@torch.no_grad()
def add(model: Aurora, loras: Mapping[str, torch.Tensor]) -> None:
    """Do the same to the weights of a model, in place.

    Args:
        model: with the layers that the LoRA adapts.
        loras: its tensors, by upstream's names.

    Raises:
        CheckpointError: there is one LoRA for each roll-out step, or the model lacks a layer.
    """
    for target, product in _products(loras):
        try:
            model.get_parameter(target).add_(product)
        except (AttributeError, RuntimeError) as error:
            msg = f"the roll-out LoRA of the weights does not fit {target}: {error}; check model.variant"
            raise CheckpointError(msg) from error


def _products(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each weight that a roll-out LoRA adapts, and what it adds to it."""
    for name, down in state.items():
        if not name.endswith("lora_A"):
            continue
        module, layer = name.split(".lora_")[0], name.split(".lora_")[1].split(".")[0]
        if ".loras.0." not in name:
            msg = "model.rollout_lora: there is one LoRA for each roll-out step, which cannot be merged; keep it"
            raise CheckpointError(msg)
        yield f"{module}.{layer}.weight", state[name.removesuffix("A") + "B"] @ down


def of(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of the roll-out LoRA among others."""
    return {name: value for name, value in state.items() if ".loras." in name}


def without(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The others."""
    return {name: value for name, value in state.items() if ".loras." not in name}


# Adapters of which parts were pruned: files hold what is left, as PEFT's do; models hold all, the pruned as zeros.
#
# PEFT's ``rank_pattern`` says for each adapter which of its rank's parts are left. A model keeps the parts in their
# places, so that it predicts after loading what it did in training, to the last bit: a product over fewer of them
# would be summed in another order.

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
