"""What trains: marks parameters, and says so; what a checkpoint has to hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import lora
from kit.adapt.settings import AdaptSettings
from kit.models.weights import ADAPTER_PREFIX

__all__ = ["adapter_config", "count", "load", "merge", "module_group", "select", "tensors"]


def select(model: Aurora, settings: AdaptSettings) -> dict[str, torch.nn.Parameter]:
    """Mark what trains and freeze the rest, adding adapters where the method has them.

    ``full`` trains every parameter but upstream's roll-out LoRA, which is part of the weights that training starts
    from: where it was kept, it stays as it is.

    Returns:
        The parameters that train, by upstream's names; an adapter's by PEFT's, below the layer's.

    Raises:
        SettingsError: the method cannot be had for this model.
    """
    if settings.adds_adapter:
        lora.inject(model, settings)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".loras." not in name)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def tensors(model: Aurora, settings: AdaptSettings) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: the whole model, or the adapters and whatever else trained.

    Adapters have the names that PEFT saves them by, all else upstream's.
    """
    if not settings.adds_adapter:
        return dict(model.state_dict())
    adapters = lora.tensors(model)
    others = {name: parameter.detach() for name, parameter in _others(model, adapters)}
    return {**adapters, **others}


def _others(model: Aurora, adapters: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters that train and are no adapter's."""
    held = {value.data_ptr() for value in adapters.values()}
    trains = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [(name, parameter) for name, parameter in trains if parameter.data_ptr() not in held]


def adapter_config(model: Aurora, settings: AdaptSettings) -> dict[str, Any] | None:
    """Contents of ``adapter_config.json``; None for a method without adapters."""
    return lora.config(model) if settings.adds_adapter else None


def load(model: Aurora, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what ``tensors`` gave into a model for which the same was selected.

    Raises:
        CheckpointError: it does not fit.
    """
    if not settings.adds_adapter:
        model.load_state_dict(saved)
        return
    adapters, others = _parted(saved)
    lora.load(model, adapters)
    model.load_state_dict(others, strict=False)


def merge(model: Aurora, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Put what ``tensors`` gave of an adapter method into the weights that it was trained on.

    Args:
        model: holds those weights, and no adapters.
        settings: of the training that the tensors come from.
        saved: the tensors.
    """
    adapters, others = _parted(saved)
    model.load_state_dict(others, strict=False)
    lora.merge(model, settings, adapters)


def _parted(saved: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Adapters, and the rest."""
    parts: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = {}, {}
    for name, value in saved.items():
        parts[not name.startswith(ADAPTER_PREFIX)][name] = value
    return parts


def count(model: Aurora) -> tuple[int, int]:
    """Number of parameters that train, and of all."""
    sizes = [(_size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _size(parameter: torch.nn.Parameter) -> int:
    """Number of weights: a byte holds two of 4 bits."""
    return parameter.numel() * (2 if parameter.dtype is torch.uint8 else 1)


def module_group(name: str) -> str:
    """Group under which a parameter is reported: its first two module names, such as ``encoder.level_agg``."""
    return ".".join(name.split(".")[:-1][:2])
