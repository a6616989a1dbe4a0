"""Weights: reading them in every form, and loading them into a model.

These forms are read, none of them by unrestricted pickle: upstream's checkpoints (``.ckpt``, old and new key
names), Lightning's (``kit.models.weights.format``), safetensors under upstream's names, and the kit's own checkpoint
folders and files, which carry their spec with them. A checkpoint folder may hold a delta: what trained alone, and the
name of the weights that it belongs to.

Files are mapped into memory, privately, and copied into the model: nothing that happens to the model reaches them, and
nothing that happens to them afterwards reaches the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from aurora import Aurora

from kit.io.errors import CheckpointError
from kit.io.hashes import file_stamp
from kit.models.extend import added_names
from kit.models.spec import ModelSpec
from kit.models.variants import Variant
from kit.models.weights.convert import merge_rollout_lora, restore_pruned, split_rollout_lora
from kit.models.weights.description import read_description
from kit.models.weights.format import read_pickled, upstream_names, vibe_kit_spec
from kit.models.weights.headers import read_rank_pattern, read_safetensors
from kit.models.weights.integrity import DESCRIPTION, FILES, read_whole, verified_description
from kit.models.weights.locate import RANDOM, WEIGHTS_VARIABLE, describe_search, identify_weights, locate, search_places

TENSORS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TRAINED = "trained.safetensors"
"""What trained beside frozen weights and is no adapter of PEFT's, under upstream's names."""
ADAPTER_PREFIX = "base_model.model."
"""What PEFT puts before upstream's names in the file of an adapter."""

_MAX_DELTAS = 32
"""Most deltas that may belong to each other."""


RolloutLoraMode = Literal["keep", "merge", "drop"]
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
        foreign_spec: the model that a foreign file describes, where it is not the variant's own.
        stamp: of the file, as it was when its SHA-256 was taken.
    """

    state: dict[str, torch.Tensor]
    base: dict[str, Any]
    description: dict[str, Any] | None = field(default=None, repr=False)
    under: Weights | None = field(default=None, repr=False)
    path: Path | None = field(default=None, repr=False)
    foreign_spec: ModelSpec | None = field(default=None, repr=False)
    stamp: tuple[int, ...] | None = field(default=None, repr=False)

    @property
    def is_network(self) -> bool:
        """Whether they are a denoising network's, not Aurora's."""
        return self.description is not None and "diffusion" in self.description

    @property
    def spec(self) -> ModelSpec | None:
        """The model that the weights belong to, if they say so."""
        if self.description is None:
            return self.foreign_spec
        if self.is_network:
            msg = (
                f"{self.base['name']}: holds a denoising network, not Aurora's weights; name a model's checkpoint, or "
                "go on with the network's run by --train.resume"
            )
            raise CheckpointError(msg)
        return ModelSpec.from_dict(self.description["model"])

    @property
    def adapter(self) -> Mapping[str, Any] | None:
        """What ``kit.json`` says of a delta: its ``settings``, and the ``base`` that it was trained on."""
        if self.under is None or self.description is None:
            return None
        adapter: Mapping[str, Any] = self.description["adapter"]
        return adapter


def load(reference: str | None, variant: Variant, *, network: bool = False) -> Weights | None:
    """Read weights on the CPU.

    Args:
        reference: a checkpoint folder, a file, a registry name, ``hub``, or ``random``; None for the variant's own.
        variant: whose weights they are.
        network: they may be a network's, not Aurora's.

    Returns:
        The weights, or None for random ones.

    Raises:
        CheckpointError: they are missing, cannot be read, or belong to another variant.
        RegistryError: a registry name that is not pinned, cannot be had, or does not verify.
    """
    if reference == RANDOM:
        return None
    name, path = locate(reference, variant)
    weights = _read(path, name, variant)
    if network and weights.is_network:
        return weights
    if weights.spec is not None and weights.spec.variant != variant.name:
        msg = (
            f"model.weights: {weights.base['name']} holds a model of variant {weights.spec.variant!r}, but "
            f"model.variant is {variant.name!r}; set --model.variant {weights.spec.variant}"
        )
        raise CheckpointError(msg)
    return weights


def _read(path: Path, name: str, variant: Variant, seen: frozenset[Path] = frozenset()) -> Weights:
    """Read a file or a checkpoint folder, in which every file is first compared with its hash."""
    folder = path
    if not path.is_dir():
        folder = path.parent
    return read_whole(folder, lambda: _read_verified(path, folder, name, variant, seen))


def _read_verified(path: Path, folder: Path, name: str, variant: Variant, seen: frozenset[Path]) -> Weights:
    deltas = tensor_files(folder) != [TENSORS]
    if deltas and (path == folder or path.name in (ADAPTER, TRAINED)):
        return _read_delta(folder, name, variant, seen)
    file = path
    if path.is_dir():
        file = path / TENSORS
    if not file.is_file():
        msg = f"{path}: expected a checkpoint folder with {TENSORS}, {ADAPTER} or {TRAINED}, but there is none of them"
        raise CheckpointError(msg)
    vouched = _vouched_description(file, whole=path == folder)
    # Every use hashes: a note of size and time would let a changed byte through under an old date.
    stamp = file_stamp(file)
    base = identify_weights(name, [file])
    description = foreign_spec = None
    if file.suffix == ".safetensors":
        state, metadata = read_safetensors(file)
        # The kit's own files describe themselves, and have upstream's names.
        if "kit" in metadata:
            description = vouched or read_description(metadata["kit"], file)
        else:
            state = upstream_names(state, file)
    else:
        content = read_pickled(file)
        foreign_spec = vibe_kit_spec(content.arguments, variant, file)
        state = upstream_names(content.state, file)
    if description is not None and vouched is None and path == folder:
        msg = (
            f"{folder}: {DESCRIPTION} is gone, so that nothing says whether {file.name} is as it was written; put it "
            f"back, or if you trust the file, name it: {file}"
        )
        raise CheckpointError(msg)
    # The SHA-256 and the tensors have to be of the same bytes.
    if file_stamp(file) != stamp:
        raise CheckpointError(_changed(file))
    return Weights(state, base, description, path=file, foreign_spec=foreign_spec, stamp=stamp)


def _vouched_description(file: Path, *, whole: bool) -> dict[str, Any] | None:
    """Return the ``kit.json`` beside a file, where that is the checkpoint that the file belongs to.

    Args:
        file: File of tensors.
        whole: Whether its folder was named, not the file; then what lies beside it is its own.

    Raises:
        CheckpointError: the checkpoint is not as it was written.
    """
    folder = file.parent
    if not (folder / DESCRIPTION).is_file():
        return None
    # A file that merely lies beside a checkpoint's is no part of it.
    description = verified_description(folder) if whole or file.name == TENSORS else {}
    if whole or file.name in description.get(FILES, {}):
        return description
    return None


def _changed(file: Path) -> str:
    return f"{file}: changed while it was being read; wait until what writes it has ended, then start again"


def _check_unchanged(weights: Weights) -> None:
    """Check that nobody wrote to a file while tensors were copied out of it.

    A file that took its place, or its removal, leaves the mapped one as it was.

    Raises:
        CheckpointError: it was written to since its SHA-256 was taken.
    """
    if weights.stamp is None or weights.path is None or not weights.path.exists():
        return
    # The first of them is the inode: another file of the same name has another.
    now = file_stamp(weights.path)
    if now[0] == weights.stamp[0] and now != weights.stamp:
        raise CheckpointError(_changed(weights.path))


def _read_delta(folder: Path, name: str, variant: Variant, seen: frozenset[Path]) -> Weights:
    """Read what trained beside frozen weights, and these weights.

    Args:
        folder: of the checkpoint.
        name: that it is recorded under.
        variant: whose weights they are.
        seen: folders of the deltas that belong to this one.

    Raises:
        CheckpointError: those weights are not where they were, are others, or belong to this very delta.
    """
    if folder.resolve() in seen or len(seen) >= _MAX_DELTAS:
        msg = f"{folder}: belongs to weights that belong to it, or to more than {_MAX_DELTAS} deltas one on another"
        raise CheckpointError(msg)
    seen |= {folder.resolve()}
    if not (folder / DESCRIPTION).is_file():
        msg = (
            f"{folder}: holds {tensor_files(folder)[0]} without the {DESCRIPTION} that names the weights it belongs "
            "to; expected a checkpoint folder as kit finetune writes it"
        )
        raise CheckpointError(msg)
    description = verified_description(folder)
    if "adapter" not in description:
        msg = f"{folder}: holds {tensor_files(folder)[0]}, but its {DESCRIPTION} names no weights that it belongs to"
        raise CheckpointError(msg)
    under = load_base(description["adapter"]["base"], folder, variant, seen)
    base = identify_weights(name, [folder / file for file in tensor_files(folder)])
    return Weights(read_tensors(folder), base, description, under, folder)


def tensor_files(folder: Path) -> list[str]:
    """List the files of tensors in a checkpoint folder."""
    deltas = [name for name in (ADAPTER, TRAINED) if (folder / name).is_file()]
    return deltas or [TENSORS]


def load_base(
    recorded: Mapping[str, Any], folder: Path, variant: Variant, seen: frozenset[Path] = frozenset()
) -> Weights:
    """Read the weights that a checkpoint belongs to, or was trained from.

    They are looked for under their name (a registry entry or a path), at the same place beside the checkpoint, by
    their SHA-256 in the folders of ``KIT_WEIGHTS`` and in the cache, and last where the registry has them.

    Args:
        recorded: what ``kit.json`` says of them: ``name``, ``file``, ``sha256`` and perhaps ``relative``, ``size``,
            ``repository`` and ``revision``.
        folder: of the checkpoint.
        variant: whose weights they are.
        seen: folders of the deltas that belong to them.

    Raises:
        CheckpointError: they are nowhere, or others are where they should be.
    """
    name, wanted = str(recorded["name"]), recorded["sha256"]
    problems: list[str] = []
    # The likeliest first: what is not there, or is another file, is noted for the message.
    for path in search_places(recorded, folder, problems, fixed=(ADAPTER, TRAINED)):
        try:
            found = _read(path, name, variant, seen)
        except CheckpointError as error:
            problems.append(f"{path} cannot be read: {error}")
            continue
        if found.base["sha256"] == wanted:
            return found
        problems.append(f"{path} holds others, with SHA-256 {found.base['sha256']}")
    found_instead = "; ".join(problems) or f"nothing is at {name!r}"
    msg = (
        f"{folder}: belongs to weights {name} ({recorded['file']}, SHA-256 {wanted}), which are not there: "
        f"{found_instead}. No file of that SHA-256 is in {describe_search()}. "
        f"Put them back, or into a folder that {WEIGHTS_VARIABLE} names"
    )
    raise CheckpointError(msg)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint folder, on the CPU: the whole model, or an adapter and what trained beside it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in tensor_files(folder):
        tensors |= read_safetensors(folder / name)[0]
    pattern = None
    if (folder / ADAPTER_CONFIG).exists():
        # What is left of pruned adapters; there is none, or an empty one, where nothing was pruned.
        pattern = read_rank_pattern(folder / ADAPTER_CONFIG)
    try:
        return restore_pruned(tensors, pattern or {}, ADAPTER_PREFIX)
    except (KeyError, IndexError, RuntimeError) as error:
        msg = f"{folder}: rank_pattern in {ADAPTER_CONFIG} does not fit the tensors of {ADAPTER} ({error})"
        raise CheckpointError(msg) from error


def install(
    model: Aurora,
    spec: ModelSpec,
    weights: Weights,
    rollout_lora_mode: RolloutLoraMode | None = None,
    *,
    fresh: bool = False,
) -> frozenset[str]:
    """Load weights into a model built from ``spec``.

    Args:
        model: built from ``spec``.
        spec: the model's.
        weights: of a whole model.
        rollout_lora_mode: what becomes of their roll-out LoRA; by default as the spec says.
        fresh: the model may have one, beginning with its own first values, where the weights have none.

    Returns:
        Parameters of added variables that the weights lack; they stay as they are.

    Raises:
        CheckpointError: names or shapes do not match; names the first of each.
    """
    state = _as_upstream(model, spec, weights)
    if rollout_lora_mode is None:
        rollout_lora_mode = spec.rollout_lora_mode
    merged: dict[str, torch.Tensor] = {}
    if rollout_lora_mode != "keep":
        loras, state = split_rollout_lora(state)
        if rollout_lora_mode == "merge":
            merged = loras
    if rollout_lora_mode != "keep" or fresh:
        # The model's own first values, whose B is zero.
        own_loras, _ = split_rollout_lora(model.state_dict())
        state = own_loras | state
    stabilised, stochastic = (spec.arguments.get(name, False) for name in ("stabilise_level_agg", "stochastic"))
    # What was added is allowed to be missing, and nothing else.
    lacking = added_names(model, spec.added, stabilised=stabilised, stochastic=stochastic) - state.keys()
    expected = model.state_dict().keys() - lacking
    missing, surplus = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or surplus:
        msg = (
            f"{weights.base['name']}: the weights do not fit the model: {len(missing)} parameters are missing "
            f"({', '.join(missing[:3])}), {len(surplus)} are unknown ({', '.join(surplus[:3])}). Check model.variant, "
            "model.rollout_lora and the variables"
        )
        raise CheckpointError(msg)
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        msg = f"{weights.base['name']}: the weights do not fit variant {spec.variant!r}: {first}"
        raise CheckpointError(msg) from error
    # In the model, a layer at a time: a second copy of all adapted layers is a third of the model.
    merge_rollout_lora(model, merged)
    _check_unchanged(weights)
    return lacking


def _as_upstream(model: Aurora, spec: ModelSpec, weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors under the names, and with the history, of upstream's present classes.

    Raises:
        CheckpointError: they are not those of the variant.
    """
    state = dict(weights.state)
    try:
        if weights.description is None:
            # Upstream's adapters add to biases in place; those of the file are not theirs to change.
            for name, value in state.items():
                if name.endswith(".bias"):
                    state[name] = value.clone()
            # Old names stand for the variant's own variables, whatever the model adds.
            own = spec.upstream
            as_published: Any = SimpleNamespace(
                patch_size=model.patch_size, surf_vars=own.surface, static_vars=own.static, atmos_vars=own.atmospheric
            )
            state = own.constructor._adapt_checkpoint(as_published, state)
        model.adapt_checkpoint_max_history_size(state)
    except (AssertionError, KeyError, IndexError, RuntimeError) as error:
        msg = (
            f"{weights.base['name']}: the weights do not fit variant {spec.variant!r}: upstream's adapter for old "
            f"checkpoints fails ({type(error).__name__}: {error}). Check model.variant and data.history"
        )
        raise CheckpointError(msg) from error
    return state
