"""Weights: where they come from, and how they get into a model.

Three forms are read, none of them by unrestricted pickle: upstream's checkpoints (``.ckpt``, old and new key
names), safetensors under upstream's names, and the kit's own checkpoint folders and files, which carry their
spec with them. A checkpoint folder may hold a delta: what trained alone, and the name of the weights that it belongs
to.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from aurora import Aurora
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from kit import registry
from kit.errors import CheckpointError, RegistryError
from kit.models import whereabouts
from kit.models.extend import added_names
from kit.models.ranks import Pattern, expanded
from kit.models.spec import ModelSpec
from kit.models.variants import Variant

__all__ = [
    "ADAPTER",
    "ADAPTER_CONFIG",
    "ADAPTER_PREFIX",
    "DESCRIPTION",
    "RANDOM",
    "LoraFate",
    "TENSORS",
    "TRAINED",
    "Weights",
    "install",
    "load",
    "load_base",
    "merge_rollout_lora",
    "read_tensors",
    "tensor_files",
]

RANDOM = "random"
TENSORS = "model.safetensors"
DESCRIPTION = "kit.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TRAINED = "trained.safetensors"
"""What trained beside frozen weights and is no adapter of PEFT's, under upstream's names."""
ADAPTER_PREFIX = "base_model.model."
"""What PEFT puts before upstream's names in the file of an adapter."""

LoraFate = Literal["keep", "merge", "drop"]
"""What becomes of the roll-out LoRA that weights have: it stays beside its layers, it is added to them, or it makes
room for what a later stage trained it to."""


@dataclass(frozen=True)
class Weights:
    """Tensors with their origin.

    Attributes:
        state: tensors under the names of the file.
        base: what identifies them: name, file, its size, SHA-256.
        description: contents of ``kit.json``, for weights that the kit wrote.
        under: for a delta, the weights that it was trained on; ``state`` then holds an adapter's tensors under PEFT's
            names and whatever else trained under upstream's.
        path: of the file that the SHA-256 is of; of a delta, the folder.
    """

    state: dict[str, torch.Tensor]
    base: dict[str, Any]
    description: dict[str, Any] | None = field(default=None, repr=False)
    under: Weights | None = field(default=None, repr=False)
    path: Path | None = field(default=None, repr=False)

    @property
    def spec(self) -> ModelSpec | None:
        """The model that the weights belong to, if they say so."""
        return None if self.description is None else ModelSpec.from_dict(self.description["model"])

    @property
    def adapter(self) -> Mapping[str, Any] | None:
        """What ``kit.json`` says of a delta: its ``settings``, and the ``base`` that it was trained on."""
        return None if self.under is None or self.description is None else self.description["adapter"]


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
    weights = _read(_locate(reference, variant), reference or str(variant.weights), variant)
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


def _read(path: Path, name: str, variant: Variant) -> Weights:
    folder = path.parent if path.name in (ADAPTER, TRAINED) else path
    if any((folder / file).is_file() for file in (ADAPTER, TRAINED)):
        return _read_delta(folder, name, variant)
    file = path / TENSORS if path.is_dir() else path
    if not file.is_file():
        msg = f"{path}: expected a checkpoint folder with {TENSORS}, {ADAPTER} or {TRAINED}, but there is none of them"
        raise CheckpointError(msg)
    base = whereabouts.identified(name, [file])
    if file.suffix == ".safetensors":
        return replace(Weights(*_read_safetensors(file, base)), path=file)
    return Weights(_read_pickled(file), base, path=file)


def _read_delta(folder: Path, name: str, variant: Variant) -> Weights:
    """Read what trained beside frozen weights, and these weights.

    Raises:
        CheckpointError: those weights are not where they were, or are others.
    """
    if not (folder / DESCRIPTION).is_file():
        msg = (
            f"{folder}: holds {tensor_files(folder)[0]} without the {DESCRIPTION} that names the weights it belongs "
            "to; expected a checkpoint folder as kit finetune writes it"
        )
        raise CheckpointError(msg)
    description = json.loads((folder / DESCRIPTION).read_text())
    under = load_base(description["adapter"]["base"], folder, variant)
    base = whereabouts.identified(name, [folder / file for file in tensor_files(folder)])
    return Weights(read_tensors(folder), base, description, under, folder)


def tensor_files(folder: Path) -> list[str]:
    """Names of the files of tensors in a checkpoint folder."""
    return [name for name in (ADAPTER, TRAINED) if (folder / name).is_file()] or [TENSORS]


def load_base(recorded: Mapping[str, Any], folder: Path, variant: Variant) -> Weights:
    """Read the weights that a checkpoint belongs to, or was trained from.

    They are looked for under their name (a registry entry or a path), at the same place beside the checkpoint, and
    by their SHA-256 in the folders of ``KIT_WEIGHTS`` and in the cache.

    Args:
        recorded: what ``kit.json`` says of them: ``name``, ``file``, ``sha256`` and perhaps ``relative``, ``size``.
        folder: of the checkpoint.
        variant: whose weights they are.

    Raises:
        CheckpointError: they are nowhere, or others are where they should be.
    """
    name, wanted = str(recorded["name"]), recorded["sha256"]
    problems: list[str] = []
    for path in _places(recorded, folder, problems):
        try:
            found = _read(path, name, variant)
        except CheckpointError as error:
            problems.append(f"{path} cannot be read: {error}")
            continue
        if found.base["sha256"] == wanted:
            return found
        problems.append(f"{path} holds others, with SHA-256 {found.base['sha256']}")
    msg = (
        f"{folder}: belongs to weights {name} ({recorded['file']}, SHA-256 {wanted}), which are not there: "
        f"{'; '.join(problems) or f'nothing is at {name!r}'}. No file of that SHA-256 is in {whereabouts.looked_in()}. "
        f"Put them back, or into a folder that {whereabouts.WEIGHTS_VARIABLE} names"
    )
    raise CheckpointError(msg)


def _places(recorded: Mapping[str, Any], folder: Path, problems: list[str]) -> Iterator[Path]:
    """Where weights may be; notes what kept a registry entry from being had."""
    name = str(recorded["name"])
    if name in registry.entries():
        try:
            yield registry.fetch(name)
        except RegistryError as error:
            problems.append(str(error))
    seen: set[Path] = set()
    for path in whereabouts.candidates(recorded, folder, fixed=(ADAPTER, TRAINED)):
        if path.resolve() not in seen:
            seen.add(path.resolve())
            yield path


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, on the CPU: the whole model, or an adapter and what trained beside it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in tensor_files(folder):
        try:
            tensors |= load_file(str(folder / name))
        except SafetensorError as error:
            raise CheckpointError(_unreadable(folder / name, error)) from error
    return expanded(tensors, _rank_pattern(folder), ADAPTER_PREFIX)


def _rank_pattern(folder: Path) -> Pattern:
    """What is left of pruned adapters; empty where nothing was pruned."""
    file = folder / ADAPTER_CONFIG
    config = json.loads(file.read_text()) if file.is_file() else {}
    return config.get("rank_pattern") or {}


def _unreadable(file: Path, error: SafetensorError) -> str:
    return f"{file}: not a readable safetensors file ({error}); fetch or write it again"


def _read_safetensors(file: Path, base: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any], Any]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
        state = load_file(str(file))
    except SafetensorError as error:
        raise CheckpointError(_unreadable(file, error)) from error
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
    merged = _without_rollout_lora(state)
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


def _rollout_lora(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if ".loras." in name}


def _without_rollout_lora(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if ".loras." not in name}


def install(
    model: Aurora, spec: ModelSpec, weights: Weights, fate: LoraFate | None = None, *, fresh: bool = False
) -> frozenset[str]:
    """Load weights into a model built from ``spec``.

    Args:
        model: built from ``spec``.
        spec: the model's.
        weights: of a whole model.
        fate: what becomes of their roll-out LoRA; by default as the spec says.
        fresh: the model may have one, beginning with its own first values, where the weights have none.

    Returns:
        Parameters of added variables that the weights lack; they stay as they are.

    Raises:
        CheckpointError: names or shapes do not match; names the first of each.
    """
    state = dict(weights.state)
    if weights.description is None:
        state = model._adapt_checkpoint(state)
    fate = fate or ("keep" if spec.rollout_lora == "kept" else "merge")
    if fate != "keep":
        state = merge_rollout_lora(state) if fate == "merge" else _without_rollout_lora(state)
    if fate != "keep" or fresh:
        state = {**_rollout_lora(model.state_dict()), **state}
    model.adapt_checkpoint_max_history_size(state)
    stabilised = spec.arguments.get("stabilise_level_agg", False)
    lacking = added_names(model, spec.added, stabilised=stabilised) - state.keys()
    _check_names(model, state, weights.base["name"], lacking)
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        msg = f"{weights.base['name']}: the weights do not fit variant {spec.variant!r}: {first}"
        raise CheckpointError(msg) from error
    return lacking


def _check_names(model: Aurora, state: Mapping[str, torch.Tensor], name: str, lacking: frozenset[str]) -> None:
    expected = model.state_dict().keys() - lacking
    missing, surplus = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or surplus:
        msg = (
            f"{name}: the weights do not fit the model: {len(missing)} parameters are missing "
            f"({', '.join(missing[:3])}), {len(surplus)} are unknown ({', '.join(surplus[:3])}). Check model.variant, "
            "model.rollout_lora and the variables"
        )
        raise CheckpointError(msg)
