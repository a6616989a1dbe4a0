"""Weights: where they come from, and how they get into a model.

Three forms are read, none of them by unrestricted pickle: upstream's checkpoints (``.ckpt``, old and new key
names), safetensors under upstream's names, and the kit's own checkpoint folders and files, which carry their
spec with them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pooch
import torch
from aurora import Aurora
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from kit import registry
from kit.errors import CheckpointError
from kit.models.spec import ModelSpec
from kit.models.variants import Variant

__all__ = ["DESCRIPTION", "RANDOM", "TENSORS", "Weights", "install", "load", "merge_rollout_lora"]

RANDOM = "random"
TENSORS = "model.safetensors"
DESCRIPTION = "kit.json"


@dataclass(frozen=True)
class Weights:
    """Tensors with their origin.

    Attributes:
        state: tensors under the names of the file.
        base: what identifies them: name, file, SHA-256.
        description: contents of ``kit.json``, for weights that the kit wrote.
    """

    state: dict[str, torch.Tensor]
    base: dict[str, Any]
    description: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def spec(self) -> ModelSpec | None:
        """The model that the weights belong to, if they say so."""
        return None if self.description is None else ModelSpec.from_dict(self.description["model"])


def load(reference: str | None, variant: Variant) -> Weights | None:
    """Read weights on the CPU.

    Args:
        reference: a checkpoint folder, a file, a registry name, or ``random``; None for the variant's own.
        variant: whose weights they are.

    Returns:
        The weights, or None for random ones.

    Raises:
        CheckpointError: they are missing, cannot be read, or belong to another variant.
        RegistryError: a registry name that does not verify.
    """
    if reference == RANDOM:
        return None
    weights = _read(_locate(reference, variant), reference or str(variant.weights))
    if weights.spec is not None and weights.spec.variant != variant.name:
        msg = (
            f"model.weights: {weights.base['name']} holds a model of variant {weights.spec.variant!r}, but "
            f"model.variant is {variant.name!r}; set --model.variant {weights.spec.variant}"
        )
        raise CheckpointError(msg)
    return weights


def _locate(reference: str | None, variant: Variant) -> Path:
    if reference is None:
        if variant.weights is None:
            cls = variant.constructor
            msg = (
                f"model.weights: the kit does not carry weights of {variant.name!r}. Download "
                f"{cls.default_checkpoint_name} at revision {cls.default_checkpoint_revision} of the model repository "
                f"{cls.default_checkpoint_repo}, and pass its path, or pass --model.weights random"
            )
            raise CheckpointError(msg)
        return registry.fetch(variant.weights)
    path = Path(reference)
    if path.exists():
        return path
    if reference in registry.entries():
        return registry.fetch(reference)
    raise CheckpointError(_not_found(path))


def _not_found(path: Path) -> str:
    nearby = sorted(str(p) for p in path.parent.glob("*") if p.is_dir() or p.suffix in {".ckpt", ".safetensors"})
    seen = f"; beside it are {', '.join(nearby[:8])}" if nearby else ""
    return (
        f"model.weights: expected a checkpoint folder, a .ckpt or .safetensors file, a registry name or {RANDOM!r}; "
        f"nothing is at {str(path)!r}{seen}"
    )


def _read(path: Path, name: str) -> Weights:
    file = path / TENSORS if path.is_dir() else path
    if not file.is_file():
        msg = f"{path}: expected a checkpoint folder with {TENSORS}, but there is none"
        raise CheckpointError(msg)
    base = {"name": name, "file": file.name, "sha256": pooch.file_hash(str(file))}
    if file.suffix == ".safetensors":
        return Weights(*_read_safetensors(file, base))
    return Weights(_read_pickled(file), base)


def _read_safetensors(file: Path, base: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any], Any]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
        state = load_file(str(file))
    except SafetensorError as error:
        msg = f"{file}: not a readable safetensors file ({error}); fetch or write it again"
        raise CheckpointError(msg) from error
    if "kit" not in metadata:
        return state, base, None
    description = json.loads(metadata["kit"])
    return state, base, description


def _read_pickled(file: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        msg = (
            f"{file}: cannot be read as a checkpoint of tensors alone ({str(error).splitlines()[0]}); nothing in it "
            "was executed. Only upstream's format is read: a dictionary from parameter names to tensors"
        )
        raise CheckpointError(msg) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = f"{file}: expected a dictionary from parameter names to tensors, got {type(state).__name__}"
        raise CheckpointError(msg)
    return state


def merge_rollout_lora(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add upstream's roll-out LoRA to the weights that it adapts.

    Upstream's layers compute ``W x + (alpha / r) B A x`` with alpha = r = 8 (``aurora/model/swin3d.py``,
    ``aurora/model/lora.py``), so the merged weight is ``W + B A``. From roll-out step ``lora_steps`` (40) on
    upstream drops the term; merged weights keep it.

    Raises:
        CheckpointError: there is one LoRA for each roll-out step, which no single weight can hold.
    """
    merged = {name: value for name, value in state.items() if ".loras." not in name}
    for name, down in state.items():
        if not name.endswith("lora_A"):
            continue
        module, layer = name.split(".lora_")[0], name.split(".lora_")[1].split(".")[0]
        if ".loras.0." not in name:
            msg = "model.rollout_lora: there is one LoRA for each roll-out step, which cannot be merged; keep it"
            raise CheckpointError(msg)
        target = f"{module}.{layer}.weight"
        merged[target] = merged[target] + state[name.removesuffix("A") + "B"] @ down
    return merged


def install(model: Aurora, spec: ModelSpec, weights: Weights) -> None:
    """Load weights into a model built from ``spec``.

    Raises:
        CheckpointError: names or shapes do not match; names the first of each.
    """
    state = dict(weights.state)
    if weights.description is None:
        state = model._adapt_checkpoint(state)
        if spec.rollout_lora != "kept":
            state = merge_rollout_lora(state)
    model.adapt_checkpoint_max_history_size(state)
    _check_names(model, state, weights.base["name"])
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        msg = f"{weights.base['name']}: the weights do not fit variant {spec.variant!r}: {first}"
        raise CheckpointError(msg) from error


def _check_names(model: Aurora, state: Mapping[str, torch.Tensor], name: str) -> None:
    expected = set(model.state_dict())
    missing, surplus = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or surplus:
        msg = (
            f"{name}: the weights do not fit the model: {len(missing)} parameters are missing "
            f"({', '.join(missing[:3])}), {len(surplus)} are unknown ({', '.join(surplus[:3])}). Check model.variant, "
            "model.rollout_lora and the variables"
        )
        raise CheckpointError(msg)
