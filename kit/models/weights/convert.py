"""Tensors of adapters in a checkpoint: upstream's roll-out LoRA, and adapters of which parts were pruned."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from aurora import Aurora

from kit.io.errors import CheckpointError


@torch.no_grad()
def merge_rollout_lora(model: Aurora, loras: Mapping[str, torch.Tensor]) -> None:
    """Add upstream's roll-out LoRA to the weights that it adapts, in place.

    Upstream's layers compute ``W x + (alpha / r) B A x`` with alpha = r = 8 (``aurora/model/swin3d.py``,
    ``aurora/model/lora.py``), so the merged weight is ``W + B A``. From roll-out step ``lora_steps`` (40) on
    upstream drops the term; merged weights keep it.

    Args:
        model: with the layers that the LoRA adapts.
        loras: its tensors, by upstream's names.

    Raises:
        CheckpointError: there is one LoRA for each roll-out step, which no single weight can hold, or the model lacks
            a layer.
    """
    for name, down in loras.items():
        if not name.endswith("lora_A"):
            continue
        if ".loras.0." not in name:
            msg = "model.rollout_lora: there is one LoRA for each roll-out step, which cannot be merged; keep it"
            raise CheckpointError(msg)
        # MODULE.lora_LAYER.loras.0.lora_A belongs to MODULE.LAYER.
        module, adapted = name.split(".lora_")[:2]
        target = f"{module}.{adapted.split('.')[0]}.weight"
        product = loras[name.removesuffix("A") + "B"] @ down
        try:
            model.get_parameter(target).add_(product)
        except (AttributeError, RuntimeError) as error:
            msg = f"the roll-out LoRA of the weights does not fit {target}: {error}; check model.variant"
            raise CheckpointError(msg) from error


def split_rollout_lora(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Separate the tensors of the roll-out LoRA from the others.

    Returns:
        Those of the LoRA, and the others.
    """
    loras = {name: value for name, value in state.items() if ".loras." in name}
    others = {name: value for name, value in state.items() if name not in loras}
    return loras, others


# Adapters of which parts were pruned: files hold what is left, as PEFT's do; models hold all, the pruned as zeros.
#
# PEFT's ``rank_pattern`` says for each adapter which of its rank's parts are left. A model keeps the parts in their
# places, so that it predicts after loading what it did in training, to the last bit: a product over fewer of them
# would be summed in another order.

Pattern = Mapping[str, Sequence[bool]]
"""By the name of an adapter's ``lora_E``, without the prefix of a file."""

# Along which axis the parts of an adapter lie.
_AXES = {"lora_A": 0, "lora_E": 0, "lora_B": 1}


def drop_pruned(tensors: Mapping[str, torch.Tensor], pattern: Pattern, prefix: str) -> dict[str, torch.Tensor]:
    """Leave pruned parts out of adapters.

    Args:
        tensors: adapters.
        pattern: what is left of each.
        prefix: what stands before the pattern's names in those of the tensors.
    """
    found = dict(tensors)
    for name, axis, kept in _pruned(pattern, prefix):
        found[name] = found[name].index_select(axis, kept.nonzero().flatten().to(found[name].device))
    return found


def restore_pruned(tensors: Mapping[str, torch.Tensor], pattern: Pattern, prefix: str) -> dict[str, torch.Tensor]:
    """Put zeros for pruned parts into adapters, the inverse of ``drop_pruned``."""
    found = dict(tensors)
    for name, axis, kept in _pruned(pattern, prefix):
        part = found[name]
        shape = list(part.shape)
        shape[axis] = len(kept)
        found[name] = part.new_zeros(shape).index_copy_(axis, kept.nonzero().flatten(), part)
    return found


def _pruned(pattern: Pattern, prefix: str) -> Iterator[tuple[str, int, torch.Tensor]]:
    """Each tensor of a pruned adapter: its name, the axis of its parts, and which are left."""
    for name, kept in pattern.items():
        for part, axis in _AXES.items():
            yield f"{prefix}{name.removesuffix('lora_E')}{part}", axis, torch.tensor(kept)
