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

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from kit.adapt.adalora import Allocation, orthogonality, pruning
from kit.adapt.settings import AdaptSettings
from kit.config.suggestions import near_names
from kit.io.errors import CheckpointError, SettingsError
from kit.models.variants import keep_names
from kit.models.weights.load import ADAPTER_PREFIX

NAME = "default"
"""PEFT's name for the one adapter that there is."""

_ADAPTER_NAME = re.compile(rf"\.(?:lora_[ABE]\.{NAME}(?:\.weight)?|lora_magnitude_vector\.{NAME}\.weight)$")


@dataclass(frozen=True)
class Attached:
    """What adapters ask of training.

    Attributes:
        penalty: added to the loss of every batch, a scalar.
        schedule: acts after each optimiser step.
    """

    penalty: Callable[[], torch.Tensor] | None = None
    schedule: Allocation | None = None


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
    # No product of two matrices has a higher rank than the smaller side of its layer.
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, torch.nn.Linear)
        width = min(layer.in_features, layer.out_features)
        if settings.adapter.rank > width:
            msg = (
                f"adapt.rank: expected at most {width}, the width of {name} ({layer.in_features} to "
                f"{layer.out_features}), got {settings.adapter.rank}; lower it, or leave that layer out of "
                "adapt.targets"
            )
            raise SettingsError(msg)
    import_packages(settings.method)
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = _config(settings, names, steps)
    if settings.method == "qlora":
        from kit.adapt.nf4 import quantise

        quantise(model, names)
    # Made without memory, because PEFT moves what has memory to its layer's device, and fake tensors, on which a step
    # is planned, cannot be moved.
    with torch.device("meta"):
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            _fill(name, layer)
            # Autocast narrows the input again: widening it first would only make an fp32 copy of it.
            layer.cast_input_dtype_enabled = False
    # By identity: PEFT itself would also train upstream's roll-out LoRA, whose names resemble its own.
    own = set(map(id, _parameters(model).values()))
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    if settings.method != "adalora" or steps is None:
        return Attached()
    weight = settings.budget.orthogonality
    penalty = orthogonality(model, NAME, weight) if weight else None
    return Attached(penalty, Allocation(model, NAME))


def _config(settings: AdaptSettings, names: Sequence[str], steps: int | None) -> Any:
    from peft import AdaLoraConfig, LoraConfig

    adapter = settings.adapter
    alpha: Any = adapter.alpha  # which PEFT declares to be whole, and uses as a number
    targets = list(names)
    if settings.method != "adalora":
        return LoraConfig(r=adapter.rank, lora_alpha=alpha, target_modules=targets, use_dora=settings.method == "dora")
    budget: Any = pruning(settings, steps)  # in which nothing is None any more
    return AdaLoraConfig(
        init_r=adapter.rank,
        target_r=budget.target_rank,
        lora_alpha=alpha,
        target_modules=targets,
        tinit=budget.tinit,
        tfinal=budget.tfinal,
        deltaT=budget.interval,
        total_step=steps or 1,
        orth_reg_weight=budget.orthogonality,
    )


def _fill(name: str, layer: Any) -> None:
    """Give an adapter memory beside its layer, and PEFT's first values: A random, B zero, or for ``adalora`` E."""
    device = layer.get_base_layer().weight.device
    if isinstance(layer.lora_A, torch.nn.ParameterDict):
        # AdaLoRA's: plain parameters, and the rank that is left.
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
    found: dict[str, torch.nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if _ADAPTER_NAME.search(name):
            # PEFT once held magnitudes as plain parameters, and its files still do.
            saved = name.replace(f".{NAME}", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            found[ADAPTER_PREFIX + saved] = parameter
    return found


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Collect the adapters' tensors, under the names that PEFT saves them by; pruned parts are there, as zeros."""
    return {name: parameter.detach() for name, parameter in _parameters(model).items()}


def config(model: torch.nn.Module) -> dict[str, Any]:
    """Return the contents of ``adapter_config.json``, with which PEFT can load the adapters onto upstream's model."""
    found: dict[str, Any] = model.peft_config[NAME].to_dict()  # type: ignore[index,union-attr]
    for key, value in found.items():
        # Sets have no order, and two runs shall write the same file.
        if isinstance(value, set):
            found[key] = sorted(value)
    pattern = found.get("rank_pattern")  # PEFT's LoRA has an empty one
    if pattern:
        found["rank_pattern"] = {name.removesuffix(f".{NAME}"): kept for name, kept in pattern.items()}
    return found | {"inference_mode": True}


def split_adapters(
    saved: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Separate PEFT's adapters from what else trained.

    Returns:
        The adapters' tensors, and the others.
    """
    adapters = {name: value for name, value in saved.items() if name.startswith(ADAPTER_PREFIX)}
    others = {name: value for name, value in saved.items() if name not in adapters}
    return adapters, others


@torch.no_grad()
def load(model: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Load what ``tensors`` gave into a model with the same adapters.

    Raises:
        CheckpointError: the adapters differ; names the first tensor that does.
    """
    expected = _parameters(model)
    names = sorted(expected.keys() | saved.keys())
    differing = [name for name in names if _shape_of(expected.get(name)) != _shape_of(saved.get(name))]
    if differing:
        first = differing[0]
        msg = (
            f"the adapters do not fit the model: {len(differing)} tensors differ; of {first} the model expects shape "
            f"{_shape_of(expected.get(first))}, the checkpoint has {_shape_of(saved.get(first))}. Check model.variant "
            "and the folder's kit.json"
        )
        raise CheckpointError(msg)
    for name, parameter in expected.items():
        parameter.copy_(saved[name])


def _shape_of(tensor: torch.Tensor | None) -> str:
    return "none" if tensor is None else str(tuple(tensor.shape))


# Which linear layers get an adapter.


def matching(model: torch.nn.Module, targets: Sequence[str], new: Collection[str] = ()) -> list[str]:
    """List the linear layers that targets select, in the model's order.

    Args:
        model: has the layers.
        targets: ends of names, or patterns.
        new: parameters whose layers are left out.

    Raises:
        SettingsError: a target selects none; names those that are nearest.
    """
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" not in new
    ]
    selected: set[str] = set()
    for target in targets:
        found = [name for name in layers if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")]
        if not found:
            parts = target.count(".") + 1
            ends = dict.fromkeys(".".join(name.split(".")[-parts:]) for name in layers)
            close = near_names(target, ends, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(list(ends)[:12])}"
            msg = f"adapt.targets: {target!r} is the end of no linear layer's name; {hint}"
            raise SettingsError(msg)
        selected.update(found)
    return list(keep_names(layers, selected))


# The optional packages that adapters need, imported when a method asks for them.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("lora", "dora", "adalora"), ("peft",)),
    "qlora": ("bitsandbytes", "peft"),
}
# What they and their dependencies say while they load is about kernels and formats that the kit does not use.
_CHATTY = ("bitsandbytes", "torch.utils._pytree", "torchao")


def import_packages(method: str) -> None:
    """Import the packages of the ``peft`` extra that a method needs; takes seconds the first time.

    Raises:
        SettingsError: one of them cannot be imported.
    """
    loggers = list(map(logging.getLogger, _CHATTY))
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # What a module makes as it loads has to be real, even if it is first asked for while a step is planned.
        with warnings.catch_warnings(), unset_fake_temporarily():
            # Bytecode is compiled at the first import, which is when Python warns of other people's escapes.
            warnings.simplefilter("ignore")
            for package in _NEEDED.get(method, ()):
                importlib.import_module(package)
    except ImportError as error:
        msg = (
            f"adapt.method {method} needs the package {package}, which cannot be imported ({error}); install it "
            'with: pip install "aurora-finetune-kit[peft]"'
        )
        raise SettingsError(msg) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
