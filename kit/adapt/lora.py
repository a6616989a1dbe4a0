"""Adapters of the LoRA family through PEFT, injected beside upstream's layers without a wrapper round the model.

A targeted layer ``X`` becomes a PEFT layer that holds it as ``X.base_layer``; no other name changes. It adds to the
weight ``W`` below it, with ``scale = alpha / rank``:

- ``lora`` and ``qlora`` (Hu et al. 2021, Dettmers et al. 2023): ``scale B A``;
- ``dora`` (Liu et al. 2024): the same, and then gives each row a length of its own (``kit.adapt.dora``);
- ``adalora`` (Zhang et al. 2023): ``scale B diag(E) A``, of which it prunes the least important parts
  (``kit.adapt.adalora``).

Each starts from what the model predicts. Checkpoints hold the tensors under the names that PEFT's
``save_pretrained`` gives them.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from kit.adapt import method as extras
from kit.adapt.adalora import Allocation, orthogonality, pruning
from kit.adapt.method import Attached
from kit.adapt.settings import AdaptSettings
from kit.io.errors import CheckpointError, SettingsError
from kit.models.weights.load import ADAPTER_PREFIX

__all__ = ["NAME", "attach", "config", "load", "matching", "refuse_rank", "tensors"]

NAME = "default"
"""PEFT's name for the one adapter that there is."""

_OWN = re.compile(rf"\.(?:lora_[ABE]\.{NAME}(?:\.weight)?|lora_magnitude_vector\.{NAME}\.weight)$")


def attach(
    model: torch.nn.Module, settings: AdaptSettings, steps: int | None = None, new: Collection[str] = ()
) -> Attached:
    """Add adapters to the targeted layers and let nothing else train; the model predicts what it did.

    Args:
        model: changed in place; for ``qlora`` the targeted layers are put into NF4 first.
        settings: which layers, which rank.
        steps: of the run, over which ``adalora`` prunes; None where nothing will train.
        new: parameters that train themselves: their layers get no adapter.

    Returns:
        What ``adalora`` asks of training.

    Raises:
        SettingsError: a target matches no layer, the rank is larger than a layer, what ``adalora`` is to do does not
            fit the steps, or a package is missing.
    """
    names = matching(model, settings.adapter.targets, new)
    refuse_rank(model, names, settings.adapter.rank)
    extras.load(settings.method)
    config = _config(settings, names, steps)
    if settings.method == "qlora":
        from kit.adapt.nf4 import quantise

        quantise(model, names)
    # Told apart by identity: PEFT itself would also train upstream's roll-out LoRA, whose names resemble its own.
    _inject(model, config)
    own = {id(parameter) for parameter in _parameters(model).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    if settings.method != "adalora" or steps is None:
        return Attached()
    weight = settings.budget.orthogonality
    return Attached(orthogonality(model, NAME, weight) if weight else None, Allocation(model, NAME))


def _config(settings: AdaptSettings, names: Sequence[str], steps: int | None) -> Any:
    from peft import AdaLoraConfig, LoraConfig

    adapter = settings.adapter
    alpha: Any = adapter.alpha  # which PEFT declares to be whole, and uses as a number
    targets = list(names)
    if settings.method != "adalora":
        return LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=targets, use_dora=settings.method == "dora")
    plan = pruning(settings, steps)
    return AdaLoraConfig(
        init_r=adapter.rank,
        target_r=plan.target_rank,
        lora_alpha=alpha,
        target_modules=targets,
        tinit=plan.tinit,
        tfinal=plan.tfinal,
        deltaT=plan.interval,
        total_step=plan.steps,
        orth_reg_weight=plan.orthogonality,
    )


def _inject(model: torch.nn.Module, config: Any) -> None:
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    # Made without memory, because PEFT moves what has memory to its layer's device, and fake tensors, on which a step
    # is planned, cannot be moved.
    with torch.device("meta"):
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            _fill(name, layer)
            # Autocast narrows the input again: widening it first would only make an fp32 copy of it.
            layer.cast_input_dtype_enabled = False


def _fill(name: str, layer: Any) -> None:
    """Give an adapter memory beside its layer, and PEFT's first values: A random, B zero, or for ``adalora`` E."""
    device = layer.get_base_layer().weight.device
    if isinstance(layer.lora_A, torch.nn.ParameterDict):
        for matrices in (layer.lora_A, layer.lora_E, layer.lora_B):
            matrices[NAME] = torch.nn.Parameter(torch.empty(matrices[NAME].shape, device=device))
        rank = torch.full((1,), float(layer.r[NAME]), device=device)
        layer.ranknum[NAME] = torch.nn.Parameter(rank, requires_grad=False)
        layer.reset_lora_parameters(NAME)
        return
    for matrix in (layer.lora_A[NAME], layer.lora_B[NAME]):
        matrix.weight = torch.nn.Parameter(torch.empty(matrix.weight.shape, device=device))
    layer.reset_lora_parameters(NAME, init_lora_weights=True)
    if layer.use_dora[NAME]:
        from kit.adapt.dora import Magnitude

        layer.lora_magnitude_vector[NAME] = Magnitude(name, layer.get_base_layer())


def _parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The adapters' parameters, under the names that PEFT saves them by."""
    own = {name: value for name, value in model.named_parameters() if _OWN.search(name)}
    return {ADAPTER_PREFIX + _saved_name(name): value for name, value in own.items()}


def _saved_name(name: str) -> str:
    # PEFT once held magnitudes as plain parameters, and its files still do.
    return name.replace(f".{NAME}", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' tensors, under the names that PEFT saves them by; what was pruned is zero, and still there."""
    return {name: parameter.detach() for name, parameter in _parameters(model).items()}


def config(model: torch.nn.Module) -> dict[str, Any]:
    """Contents of ``adapter_config.json``, with which PEFT can load the adapters onto upstream's model."""
    found: dict[str, Any] = model.peft_config[NAME].to_dict()  # type: ignore[index,union-attr]
    # Sets have no order, and two runs shall write the same file.
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}
    pattern: Any = plain.get("rank_pattern")  # PEFT's LoRA has an empty one
    if pattern:
        plain["rank_pattern"] = {name.removesuffix(f".{NAME}"): kept for name, kept in pattern.items()}
    return {**plain, "inference_mode": True}


@torch.no_grad()
def load(model: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what ``tensors`` gave into a model with the same adapters.

    Raises:
        CheckpointError: the adapters differ; names the first tensor that does.
    """
    expected = _parameters(model)
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
    for name, parameter in expected.items():
        parameter.copy_(saved[name])


# Which linear layers get an adapter.


def matching(model: torch.nn.Module, targets: Sequence[str], new: Collection[str] = ()) -> list[str]:
    """Names of the linear layers that targets select, in the model's order.

    Args:
        model: has the layers.
        targets: ends of names, or patterns.
        new: parameters whose layers are left out.

    Raises:
        SettingsError: a target selects none; names those that are nearest.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = [name for name in linear if f"{name}.weight" not in new]
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


def refuse_rank(model: torch.nn.Module, names: Sequence[str], rank: int) -> None:
    """Refuse a rank that no product of two matrices of these layers' sizes can have.

    Raises:
        SettingsError: names the first layer that is too narrow.
    """
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
