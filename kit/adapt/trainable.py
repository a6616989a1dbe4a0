"""What trains: the choice of parameters, and what a checkpoint holds of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import lora, mlp_decoder, prefix, prompt, rollout_lora
from kit.adapt.adalora import Allocation
from kit.adapt.settings import AdaptSettings, Method, matching
from kit.io.errors import CheckpointError, SettingsError
from kit.models.variants import drop_names, keep_names
from kit.models.weights.convert import merge_rollout_lora, split_rollout_lora
from kit.models.weights.load import ADAPTER_PREFIX, RolloutLoraMode


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
    schedule: Allocation | None = None


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
    own = dict(model.named_parameters())
    # By identity: PEFT's layers take the place of others, whose parameters then have longer names.
    fresh = {id(own[name]) for name in keep_names(new, own)}
    attached = lora.Attached()
    if settings.adds_adapter:
        attached = lora.attach(model, settings, steps, new)
    else:
        _METHODS[settings.method](model, settings)
    trained: dict[str, torch.nn.Parameter] = {}
    trained_new: set[str] = set()
    for name, parameter in model.named_parameters():
        if id(parameter) in fresh:
            parameter.requires_grad_(True)
            trained_new.add(name)
        if parameter.requires_grad:
            trained[name] = parameter
    return Trained(trained, frozenset(trained_new), attached.penalty, attached.schedule)


def tensors(model: Aurora, settings: AdaptSettings) -> dict[str, torch.Tensor]:
    """Collect what a checkpoint holds: the whole model, or what trained.

    PEFT's adapters have the names that PEFT saves them by, all else upstream's.
    """
    if not settings.is_delta:
        return dict(model.state_dict())
    adapters, others = _trained_tensors(model, settings)
    return adapters | others


def _trained_tensors(model: Aurora, settings: AdaptSettings) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """PEFT's adapters, and what else trains."""
    adapters = lora.tensors(model) if settings.adds_adapter else {}
    # By their memory: PEFT saves adapters under other names than the model has them.
    held = set(map(torch.Tensor.data_ptr, adapters.values()))
    others = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.data_ptr() not in held
    }
    return adapters, others


def adapter_config(model: Aurora, settings: AdaptSettings) -> dict[str, Any] | None:
    """Return the contents of ``adapter_config.json``; None for a method without PEFT's adapters."""
    return lora.config(model) if settings.adds_adapter else None


def load(model: Aurora, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what ``tensors`` gave into a model for which the same was selected.

    Raises:
        CheckpointError: it does not fit.
    """
    if not settings.is_delta:
        model.load_state_dict(saved)
        return
    # PEFT's adapters have the names of its files, all else upstream's.
    adapters, others = lora.split_adapters(saved)
    if settings.adds_adapter:
        lora.load(model, adapters)
    _, expected = _trained_tensors(model, settings)
    if expected.keys() != others.keys():
        differing = sorted(expected.keys() ^ others.keys())
        msg = (
            f"what trained does not fit the model: {len(differing)} tensors differ, the first is {differing[0]}. Check "
            "model.variant and the folder's kit.json"
        )
        raise CheckpointError(msg)
    _overlay(model, others)


def merge(
    model: Aurora, settings: AdaptSettings, saved: Mapping[str, torch.Tensor], mode: RolloutLoraMode = "merge"
) -> None:
    """Merge what ``tensors`` gave of a method other than ``full`` into the weights that it was trained on.

    Args:
        model: holds those weights, and nothing that a method added.
        settings: of the training that the tensors come from.
        saved: the tensors.
        mode: what becomes of a roll-out LoRA among them.

    Raises:
        CheckpointError: they do not fit, or no weights of upstream's can hold them.
    """
    # A prefix, a prompt and light decoders are modules that upstream's model lacks.
    if not settings.can_merge:
        same = " ".join(f"--adapt.{name} {value}" for name, value in settings.described().items())
        msg = (
            f"what adapt.method {settings.method} trained cannot be merged into the weights below it: no weights of "
            f"upstream's model can take up what it added. Go on with {same}, or start from the weights below it, and "
            "train what is new in one run"
        )
        raise CheckpointError(msg)
    adapters, others = lora.split_adapters(saved)
    if settings.method == "rollout-lora" and mode != "keep":
        loras, others = split_rollout_lora(others)
        if mode == "merge":
            merge_rollout_lora(model, loras)
    _overlay(model, others)
    if settings.adds_adapter:
        merge_adapters(model, settings, adapters)


def _overlay(model: Aurora, others: Mapping[str, torch.Tensor]) -> None:
    """Load some tensors of a model and leave the others as they are.

    Raises:
        CheckpointError: the model lacks one, or it has another shape.
    """
    # Upstream pads what reads fewer states than the model, in place.
    others = dict(others)
    model.adapt_checkpoint_max_history_size(others)
    try:
        unknown = model.load_state_dict(others, strict=False).unexpected_keys
    except RuntimeError as error:
        msg = f"what trained does not fit the model: {str(error).splitlines()[1].strip()}"
        raise CheckpointError(msg) from error
    if unknown:
        msg = f"what trained does not fit the model, which has no {', '.join(unknown[:3])}; check model.variant"
        raise CheckpointError(msg)


def count(model: Aurora) -> tuple[int, int]:
    """Count the weights that train, and all."""
    trains = sum(size(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return trains, sum(map(size, model.parameters()))


def size(parameter: torch.nn.Parameter) -> int:
    """Count the weights of a parameter: a byte holds two of 4 bits."""
    return 2 * parameter.numel() if parameter.dtype is torch.uint8 else parameter.numel()


def module_group(name: str) -> str:
    """Name the group under which a parameter is reported: its first two module names, such as ``encoder.level_agg``."""
    return ".".join(name.split(".")[:-1][:2])


# Training a part of upstream's own parameters: ``full``, ``freeze`` and ``head``.


def _attach_full(model: Aurora, settings: AdaptSettings) -> None:  # noqa: ARG001
    """Train every parameter but upstream's roll-out LoRA.

    That is part of the weights that training starts from: where it was kept, it stays as it is.
    """
    _train_only(model, _own(model))


def _attach_freeze(model: Aurora, settings: AdaptSettings) -> None:
    """Train all but what ``adapt.freeze`` selects, or only what ``adapt.train_only`` selects.

    Raises:
        SettingsError: a pattern selects no parameter, or nothing is left to train, or nothing to freeze.
    """
    names = _own(model)
    setting, patterns = ("freeze", settings.freeze) if settings.freeze else ("train_only", settings.train_only or ())
    chosen: set[str] = set()
    for pattern in patterns:
        chosen.update(matching(names, pattern, f"adapt.{setting}"))
    trained = drop_names(names, chosen) if setting == "freeze" else keep_names(names, chosen)
    if not 0 < len(trained) < len(names):
        what = "nothing frozen" if trained else "nothing to train"
        msg = f"adapt.{setting}: {', '.join(patterns)} leaves {what}; choose other patterns, or --adapt.method full"
        raise SettingsError(msg)
    _train_only(model, trained)


def _attach_head(model: Aurora, settings: AdaptSettings) -> None:
    """Train the decoder's heads and, if asked, the last stages of the backbone's decoder; or light decoders alone.

    Raises:
        SettingsError: more stages are asked for than there are.
    """
    parts = [f"decoder.{mlp_decoder.NAME}."]
    if settings.decoder != "mlp":
        # Counted from the output: the last stages come just before the decoder.
        stages = len(model.backbone.decoder_layers)
        asked = settings.decoder_stages or 0
        if asked > stages:
            msg = f"adapt.decoder_stages: expected at most {stages}, the stages of the backbone's decoder, got {asked}"
            raise SettingsError(msg)
        parts = ["decoder.surf_heads.", "decoder.atmos_heads."]
        parts += [f"backbone.decoder_layers.{index}." for index in range(stages - asked, stages)]
    _train_only(model, [name for name in _own(model) if name.startswith(tuple(parts))])


def _own(model: Aurora) -> list[str]:
    # Upstream's roll-out LoRA trains under a method of its own alone.
    return [name for name, _ in model.named_parameters() if ".loras." not in name]


def _train_only(model: Aurora, names: Collection[str]) -> None:
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


# Adapters merged into the weights below them, by each method's formula, in fp32; no package is needed for it.

# What PEFT's AdaLoRA adds to the rank that it divides by (``peft/tuners/adalora/layer.py``).
_EPSILON = 1e-5


@torch.no_grad()
def merge_adapters(model: torch.nn.Module, settings: AdaptSettings, saved: Mapping[str, torch.Tensor]) -> None:
    """Merge saved adapters into the weights of a model without adapters.

    W becomes W + scale B A; for ``dora`` with each row at its own length; for ``adalora`` W + scale B diag(E) A.

    Args:
        model: changed in place; its layers are upstream's own. Adapters that were trained on NF4 are added to the
            weights that NF4 was made from.
        settings: the adapters'.
        saved: what ``kit.adapt.lora.tensors`` gave.
    """
    adapter = settings.adapter
    for name in saved:
        layer, found, _ = name.removeprefix(ADAPTER_PREFIX).partition(".lora_A")
        if not found:
            continue
        linear = model.get_submodule(layer)
        assert isinstance(linear, torch.nn.Linear)
        start = f"{ADAPTER_PREFIX}{layer}.lora_"
        # By PEFT's names: A, B, and E of AdaLoRA or magnitude_vector of DoRA.
        parts = {
            key.removeprefix(start).removesuffix(".weight"): value
            for key, value in saved.items()
            if key.startswith(start)
        }
        down, up = parts["A"], parts["B"]
        if settings.method == "adalora":
            merged = linear.weight + adapter.alpha / (adapter.rank + _EPSILON) * (up @ (down * parts["E"]))
        else:
            merged = linear.weight + adapter.scale * (up @ down)
        if settings.method == "dora":
            # Each row at its own length.
            merged = merged * (parts["magnitude_vector"] / torch.linalg.vector_norm(merged, dim=1)).unsqueeze(1)
        linear.weight.copy_(merged)


# Each adds its submodules to upstream's modules, marks what trains and freezes everything else.
_METHODS: Mapping[Method, Callable[[Aurora, AdaptSettings], None]] = {
    "full": _attach_full,
    "freeze": _attach_freeze,
    "head": _attach_head,
    "rollout-lora": rollout_lora.attach,
    "prefix": prefix.attach,
    "prompt": prompt.attach,
}
