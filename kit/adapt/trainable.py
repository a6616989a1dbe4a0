"""What trains: marks parameters, and says so; what a checkpoint has to hold of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import lora, prefix, prompt, rollout_lora
from kit.adapt import mlp_decoder as light
from kit.adapt.method import Attach, Attached, StepHook
from kit.adapt.settings import AdaptSettings, Method, matching
from kit.io.errors import CheckpointError, SettingsError
from kit.models.weights import convert as merged_lora
from kit.models.weights.load import ADAPTER_PREFIX, LoraFate

__all__ = [
    "Trained",
    "adapter_config",
    "attach_freeze",
    "attach_full",
    "attach_head",
    "count",
    "load",
    "merge",
    "merge_adapters",
    "module_group",
    "select",
    "size",
    "tensors",
]


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
        merge_adapters(model, settings, adapters)


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


# Training a part of upstream's own parameters: ``full``, ``freeze`` and ``head``.


def attach_full(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Train every parameter but upstream's roll-out LoRA.

    That is part of the weights that training starts from: where it was kept, it stays as it is.
    """
    _train(model, _own(model))
    return Attached()


def attach_freeze(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Train all but what ``adapt.freeze`` selects, or only what ``adapt.train_only`` selects.

    Raises:
        SettingsError: a pattern selects no parameter, or nothing is left to train, or nothing to freeze.
    """
    names = _own(model)
    setting = "freeze" if settings.freeze is not None else "train_only"
    patterns = settings.freeze or settings.train_only or ()
    chosen = {name for pattern in patterns for name in matching(names, pattern, f"adapt.{setting}")}
    trained = [name for name in names if (name in chosen) == (setting == "train_only")]
    if not 0 < len(trained) < len(names):
        what = "nothing to train" if not trained else "nothing frozen"
        msg = f"adapt.{setting}: {', '.join(patterns)} leaves {what}; choose other patterns, or --adapt.method full"
        raise SettingsError(msg)
    _train(model, trained)
    return Attached()


def attach_head(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Train the decoder's heads and, if asked, the last stages of the backbone's decoder; or light decoders alone.

    Raises:
        SettingsError: more stages are asked for than there are.
    """
    if settings.decoder == "mlp":
        _train(model, [name for name in _own(model) if name.startswith(f"decoder.{light.NAME}.")])
        return Attached()
    stages = len(model.backbone.decoder_layers)
    asked = settings.decoder_stages or 0
    if asked > stages:
        msg = f"adapt.decoder_stages: expected at most {stages}, the stages of the backbone's decoder, got {asked}"
        raise SettingsError(msg)
    parts = ["decoder.surf_heads.", "decoder.atmos_heads."]
    parts += [f"backbone.decoder_layers.{index}." for index in range(stages - asked, stages)]
    _train(model, [name for name in _own(model) if name.startswith(tuple(parts))])
    return Attached()


def _own(model: Aurora) -> list[str]:
    return [name for name, _ in model.named_parameters() if ".loras." not in name]


def _train(model: Aurora, names: Collection[str]) -> None:
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


# Adapters merged into the weights below them, by each method's formula, in fp32; no package is needed for it.

_EPSILON = 1e-5
"""What PEFT's AdaLoRA adds to the rank that it divides by (``peft/tuners/adalora/layer.py``)."""


@torch.no_grad()
def merge_adapters(model: torch.nn.Module, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Put saved adapters into the weights of a model without adapters.

    Args:
        model: changed in place; its layers are upstream's own. Adapters that were trained on NF4 are added to the
            weights that NF4 was made from.
        settings: the adapters'.
        saved: what ``kit.adapt.lora.tensors`` gave.
    """
    for name in saved:
        layer, found, _ = name.removeprefix(ADAPTER_PREFIX).partition(".lora_A")
        if found:
            linear = model.get_submodule(layer)
            assert isinstance(linear, torch.nn.Linear)
            linear.weight.copy_(_merged(linear.weight, settings, _parts(saved, layer)))


def _parts(saved: Mapping[str, torch.Tensor], layer: str) -> dict[str, torch.Tensor]:
    """An adapter's tensors by PEFT's names for them: ``lora_A``, ``lora_B`` and what else there is."""
    start = f"{ADAPTER_PREFIX}{layer}.lora_"
    own = {name: value for name, value in saved.items() if name.startswith(start)}
    return {name.removeprefix(start).removesuffix(".weight"): value for name, value in own.items()}


def _merged(weight: torch.Tensor, settings: AdaptSettings, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """W + scale B A; for ``dora`` with each row at its own length; for ``adalora`` W + scale B diag(E) A."""
    adapter = settings.adapter
    down, up = parts["A"], parts["B"]
    if settings.method == "adalora":
        return weight + adapter.alpha / (adapter.rank + _EPSILON) * (up @ (down * parts["E"]))
    whole = weight + adapter.scale * (up @ down)
    if settings.method == "dora":
        whole = whole * (parts["magnitude_vector"] / torch.linalg.vector_norm(whole, dim=1)).unsqueeze(1)
    return whole


_METHODS: Mapping[Method, Attach] = {
    "full": attach_full,
    "freeze": attach_freeze,
    "head": attach_head,
    "rollout-lora": rollout_lora.attach,
    "prefix": prefix.attach,
    "prompt": prompt.attach,
}
"""Methods without PEFT's adapters."""
