"""What trains: marks parameters, and says so."""

from __future__ import annotations

import torch
from aurora import Aurora

from kit.adapt.settings import AdaptSettings

__all__ = ["count", "module_group", "select"]


def select(model: Aurora, settings: AdaptSettings) -> dict[str, torch.nn.Parameter]:
    """Mark what trains and freeze the rest.

    ``full`` trains every parameter but upstream's roll-out LoRA, which is part of the weights that training starts
    from: where it was kept, it stays as it is.

    Returns:
        The parameters that train, by upstream's names.
    """
    assert settings.method == "full"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".loras." not in name)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count(model: Aurora) -> tuple[int, int]:
    """Number of parameters that train, and of all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def module_group(name: str) -> str:
    """Group under which a parameter is reported: its first two module names, such as ``encoder.level_agg``."""
    return ".".join(name.split(".")[:-1][:2])
