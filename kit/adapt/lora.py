"""LoRA adapters (Hu et al. 2021) through PEFT, injected beside upstream's layers without a wrapper round the model.

A targeted layer ``X`` becomes a PEFT layer that holds it as ``X.base_layer`` and adds ``alpha / rank`` times B A to
it; no other name changes. Checkpoints hold A and B under the names that PEFT's ``save_pretrained`` gives them.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kit.adapt import extras
from kit.adapt.method import Attached
from kit.adapt.settings import Adapter, AdaptSettings
from kit.errors import CheckpointError, SettingsError
from kit.models.weights import ADAPTER_PREFIX

__all__ = ["attach", "config", "load", "matching", "merge", "tensors"]

_NAME = "default"
"""PEFT's name for the one adapter that there is."""


def attach(model: torch.nn.Module, settings: AdaptSettings, steps: int = 1) -> Attached:  # noqa: ARG001
    """Add adapters to the targeted layers and let nothing else train.

    B starts at zero, so that the model predicts what it did.

    Args:
        model: changed in place; for ``qlora`` the targeted layers are put into NF4 first.
        settings: which layers, which rank.
        steps: of the run.

    Raises:
        SettingsError: a target matches no layer, the rank is larger than a layer, or a package is missing.
    """
    adapter = settings.adapter
    names = matching(model, adapter.targets)
    _check_rank(model, names, adapter.rank)
    extras.load(settings.method)
    if settings.method == "qlora":
        from kit.adapt.nf4 import quantise

        quantise(model, names)
    _inject(model, names, adapter)
    return Attached()


def _inject(model: torch.nn.Module, names: Sequence[str], adapter: Adapter) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    # Told apart by identity: PEFT itself would also train upstream's roll-out LoRA, whose names resemble its own.
    before = {id(parameter) for parameter in model.parameters()}
    alpha: Any = adapter.alpha  # which PEFT declares to be whole, and uses as a number
    config = LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=list(names))
    # Made without memory, because PEFT moves what has memory to its layer's device, and fake tensors, on which a step
    # is planned, cannot be moved.
    with torch.device("meta"):
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            _fill(layer)
            # Autocast narrows the input again: widening it first would only make an fp32 copy of it.
            layer.cast_input_dtype_enabled = False
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in before)


def _fill(layer: Any) -> None:
    """Give an adapter memory beside its layer, and PEFT's first values: A random, B zero."""
    device = layer.get_base_layer().weight.device
    for matrix in (layer.lora_A[_NAME], layer.lora_B[_NAME]):
        matrix.weight = torch.nn.Parameter(torch.empty(matrix.weight.shape, device=device))
    layer.reset_lora_parameters(_NAME, init_lora_weights=True)


def matching(model: torch.nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that targets select, in the model's order.

    Raises:
        SettingsError: a target selects none; names those that are nearest.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in targets:
        if not any(_matches(name, target) for name in layers):
            raise SettingsError(_no_layer(target, layers))
    return [name for name in layers if any(_matches(name, target) for target in targets)]


def _matches(name: str, target: str) -> bool:
    return fnmatch.fnmatchcase(name, target) or fnmatch.fnmatchcase(name, f"*.{target}")


def _no_layer(target: str, layers: Sequence[str]) -> str:
    parts = target.count(".") + 1
    ends = dict.fromkeys(".".join(name.split(".")[-parts:]) for name in layers)
    close = difflib.get_close_matches(target, ends, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(list(ends)[:12])}"
    return f"adapt.targets: {target!r} is the end of no linear layer's name; {hint}"


def _check_rank(model: torch.nn.Module, names: Sequence[str], rank: int) -> None:
    """Refuse a rank that no product of two matrices of these sizes can have."""
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, torch.nn.Linear)
        width = min(layer.in_features, layer.out_features)
        if rank > width:
            msg = (
                f"adapt.rank: expected at most {width}, the width of {name} ({layer.in_features} to "
                f"{layer.out_features}), got {rank}; lower it, or leave that layer out of adapt.targets"
            )
            raise SettingsError(msg)


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' tensors, under the names that PEFT saves them by."""
    from peft import get_peft_model_state_dict

    return {ADAPTER_PREFIX + name: value for name, value in get_peft_model_state_dict(model).items()}


def config(model: torch.nn.Module) -> dict[str, Any]:
    """Contents of ``adapter_config.json``, with which PEFT can load the adapters onto upstream's model."""
    found: dict[str, Any] = model.peft_config[_NAME].to_dict()  # type: ignore[index,union-attr]
    # Sets have no order, and two runs shall write the same file.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}
    return {**plain, "inference_mode": True}


def load(model: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what ``tensors`` gave into a model with the same adapters.

    Raises:
        CheckpointError: the adapters differ; names the first tensor that does.
    """
    from peft import set_peft_model_state_dict

    expected = tensors(model)
    differing = [
        name
        for name in sorted(expected.keys() | saved.keys())
        if name not in saved or name not in expected or saved[name].shape != expected[name].shape
    ]
    if differing:
        shapes = [tuple(part[differing[0]].shape) if differing[0] in part else "none" for part in (expected, saved)]
        msg = (
            f"the adapters do not fit the model: {len(differing)} tensors differ; of {differing[0]} the model expects "
            f"shape {shapes[0]}, the checkpoint has {shapes[1]}. Check model.variant and the folder's kit.json"
        )
        raise CheckpointError(msg)
    set_peft_model_state_dict(model, {name.removeprefix(ADAPTER_PREFIX): value for name, value in saved.items()})


@torch.no_grad()
def merge(model: torch.nn.Module, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Add saved adapters to the weights of a model without adapters: W + alpha / rank x B A, in fp32.

    Args:
        model: changed in place; its layers are upstream's own. Adapters that were trained on NF4 are added to the
            weights that NF4 was made from.
        settings: the adapters'.
        saved: what ``tensors`` gave.
    """
    for name, down in saved.items():
        if name.endswith(".lora_A.weight"):
            up = saved[name.removesuffix("A.weight") + "B.weight"]
            layer = model.get_submodule(name.removeprefix(ADAPTER_PREFIX).removesuffix(".lora_A.weight"))
            assert isinstance(layer, torch.nn.Linear)
            layer.weight += settings.adapter.scale * (up @ down)
