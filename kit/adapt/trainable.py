"""What trains: marks parameters, and says so; what a checkpoint has to hold of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import lora, merging, prefix, prompt, rollout_lora
from kit.adapt.method import Attach, StepHook
from kit.adapt.partial import attach_freeze, attach_full, attach_head
from kit.adapt.settings import AdaptSettings, Method
from kit.errors import CheckpointError
from kit.models import rollout_lora as merged_lora
from kit.models.weights import ADAPTER_PREFIX, LoraFate

__all__ = ["Trained", "adapter_config", "count", "load", "merge", "module_group", "select", "size", "tensors"]

_METHODS: Mapping[Method, Attach] = {
    "full": attach_full,
    "freeze": attach_freeze,
    "head": attach_head,
    "rollout-lora": rollout_lora.attach,
    "prefix": prefix.attach,
    "prompt": prompt.attach,
}
"""Methods without PEFT's adapters."""


@dataclass(frozen=True)
class Trained:
    """What trains.

    Attributes:
        parameters: by upstream's names; a PEFT adapter's below the layer's.
        new: those that the weights lack which training starts from.
        penalty: added to the loss of every batch, a scalar.
        schedule: acts after each optimiser step.
    """

    parameters: dict[str, torch.nn.Parameter]
    new: frozenset[str] = frozenset()
    penalty: Callable[[], torch.Tensor] | None = None
    schedule: StepHook | None = None


def select(model: Aurora, settings: AdaptSettings, *, steps: int | None = None, new: Collection[str] = ()) -> Trained:
    """Mark what trains and freeze the rest, adding what the method adds.

    Args:
        model: holds the weights that training starts from.
        settings: the method's.
        steps: of the whole run; None where nothing will train.
        new: parameters that these weights lack; they train under every method.

    Raises:
        SettingsError: the method cannot be had for this model.
    """
    # By identity: PEFT's layers take the place of others, whose parameters then have longer names.
    fresh = {id(parameter) for name, parameter in model.named_parameters() if name in set(new)}
    attach = partial(lora.attach, new=new) if settings.adds_adapter else _METHODS[settings.method]
    attached = attach(model, settings, steps)
    for parameter in model.parameters():
        if id(parameter) in fresh:
            parameter.requires_grad_(True)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    named = frozenset(name for name, parameter in trained.items() if id(parameter) in fresh)
    return Trained(trained, named, attached.penalty, attached.schedule)


def tensors(model: Aurora, settings: AdaptSettings) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: the whole model, or what trained.

    PEFT's adapters have the names that PEFT saves them by, all else upstream's.
    """
    if not settings.is_delta:
        return dict(model.state_dict())
    adapters = lora.tensors(model) if settings.adds_adapter else {}
    others = {name: parameter.detach() for name, parameter in _others(model, adapters)}
    return {**adapters, **others}


def _others(model: Aurora, adapters: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters that train and are no PEFT adapter's."""
    held = {value.data_ptr() for value in adapters.values()}
    trains = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [(name, parameter) for name, parameter in trains if parameter.data_ptr() not in held]


def adapter_config(model: Aurora, settings: AdaptSettings) -> dict[str, Any] | None:
    """Contents of ``adapter_config.json``; None for a method without PEFT's adapters."""
    return lora.config(model) if settings.adds_adapter else None


def load(model: Aurora, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what ``tensors`` gave into a model for which the same was selected.

    Raises:
        CheckpointError: it does not fit.
    """
    if not settings.is_delta:
        model.load_state_dict(saved)
        return
    adapters, others = _parted(saved)
    if settings.adds_adapter:
        lora.load(model, adapters)
    expected = {name for name, _ in _others(model, lora.tensors(model) if settings.adds_adapter else {})}
    if expected != others.keys():
        differing = sorted(expected ^ others.keys())
        msg = (
            f"what trained does not fit the model: {len(differing)} tensors differ, the first is {differing[0]}. Check "
            "model.variant and the folder's kit.json"
        )
        raise CheckpointError(msg)
    _overlay(model, others)


def merge(
    model: Aurora, settings: AdaptSettings, saved: Mapping[str, torch.Tensor], rollout: LoraFate = "merge"
) -> None:
    """Put what ``tensors`` gave of a method other than ``full`` into the weights that it was trained on.

    Args:
        model: holds those weights, and nothing that a method added.
        settings: of the training that the tensors come from.
        saved: the tensors.
        rollout: what becomes of a roll-out LoRA among them.

    Raises:
        CheckpointError: they do not fit, or no weights of upstream's can hold them.
    """
    if not settings.can_merge:
        same = " ".join(f"--adapt.{name} {value}" for name, value in settings.described().items())
        msg = (
            f"what adapt.method {settings.method} trained cannot be merged into the weights below it: no weights of "
            f"upstream's model can take up what it added. Go on with {same}, or start from the weights below it, and "
            "train what is new in one run"
        )
        raise CheckpointError(msg)
    adapters, others = _parted(saved)
    if settings.method == "rollout-lora" and rollout != "keep":
        loras = {name: value for name, value in others.items() if ".loras." in name}
        others = {name: value for name, value in others.items() if name not in loras}
        if rollout == "merge":
            merged_lora.add(model, loras)
    _overlay(model, others)
    if settings.adds_adapter:
        merging.merge(model, settings, adapters)


def _overlay(model: Aurora, others: Mapping[str, torch.Tensor]) -> None:
    """Load some tensors of a model and leave the others as they are.

    Raises:
        CheckpointError: the model lacks one, or it has another shape.
    """
    model.adapt_checkpoint_max_history_size(others := dict(others))
    try:
        unknown = model.load_state_dict(others, strict=False).unexpected_keys
    except RuntimeError as error:
        msg = f"what trained does not fit the model: {str(error).splitlines()[1].strip()}"
        raise CheckpointError(msg) from error
    if unknown:
        msg = f"what trained does not fit the model, which has no {', '.join(unknown[:3])}; check model.variant"
        raise CheckpointError(msg)


def _parted(saved: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """PEFT's adapters, and the rest."""
    parts: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = {}, {}
    for name, value in saved.items():
        parts[not name.startswith(ADAPTER_PREFIX)][name] = value
    return parts


def count(model: Aurora) -> tuple[int, int]:
    """Number of parameters that train, and of all."""
    sizes = [(size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def size(parameter: torch.nn.Parameter) -> int:
    """Number of weights: a byte holds two of 4 bits."""
    return parameter.numel() * (2 if parameter.dtype is torch.uint8 else 1)


def module_group(name: str) -> str:
    """Group under which a parameter is reported: its first two module names, such as ``encoder.level_agg``."""
    return ".".join(name.split(".")[:-1][:2])
