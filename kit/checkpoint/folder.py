"""The checkpoint folder: a model that means something by itself, on any machine.

``kit.json`` describes the model (variant, variables, levels, statistics, grid, base weights, lineage),
``model.safetensors`` holds its tensors under upstream's names and the same description in its header, and
``resume/state.pt``, which may be deleted, holds what training needs to go on.

In the place of ``model.safetensors`` a delta, of any method but ``full``, has ``trained.safetensors`` with what trained
under upstream's names and, for PEFT's adapters, the two files that PEFT would write, ``adapter_model.safetensors`` and
``adapter_config.json``; ``kit.json`` then names the weights that it belongs to.
"""

import errno
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kit.io.atomic import move, sync
from kit.io.documents import DocumentError, read_json
from kit.io.errors import CheckpointError
from kit.models.spec import ModelSpec
from kit.models.weights.convert import drop_pruned
from kit.models.weights.load import ADAPTER, ADAPTER_CONFIG, ADAPTER_PREFIX, DESCRIPTION, TENSORS, TRAINED, read_tensors
from kit.models.weights.locate import with_relative

FORMAT = 1
_RESUME = Path("resume") / "state.pt"
_FULL = 2**20
"""Free bytes below which a failed write was a full disk's."""
_UNWRITTEN = ("PytorchStreamWriter failed", "unexpected pos")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: Folder of the checkpoint.
        description: Contents of ``kit.json``.
    """

    path: Path
    description: Mapping[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """Model that the tensors belong to."""
        return ModelSpec.from_dict(self.description["model"])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read what was written: the model's tensors under upstream's names, an adapter's under PEFT's; on the CPU.

        Raises:
            CheckpointError: a file cannot be read.
        """
        return read_tensors(self.path)

    def resume_state(self) -> dict[str, Any]:
        """Read the state of the training that wrote the checkpoint.

        Raises:
            CheckpointError: it was deleted, or cannot be read.
        """
        file = self.path / _RESUME
        if not file.is_file():
            msg = f"{self.path}: cannot be resumed without {_RESUME}; start a new run with --model.weights {self.path}"
            raise CheckpointError(msg)
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            msg = f"{file}: cannot be read as training state ({str(error).splitlines()[0]}); nothing was executed"
            raise CheckpointError(msg) from error
        return state


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    description: Mapping[str, Any],
    resume: Mapping[str, Any] | None = None,
    adapter_config: Mapping[str, Any] | None = None,
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint under another name, then exchange it for the old one.

    Args:
        folder: Folder of the checkpoint; what is there is replaced, and stays whole until the new one is.
        tensors: Tensors of the model under upstream's names; of a delta, what trained, an adapter's under PEFT's names.
        description: Contents of ``kit.json``; that of a delta says under ``adapter`` what it belongs to.
        resume: Tensors and plain values from which training goes on.
        adapter_config: Contents of an adapter's ``adapter_config.json``.
        more: Writes what else is to be resumed from into the folder's ``resume``, given the folder.
    """
    fresh = _sibling(folder, "new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    located = {"format": FORMAT, **description}
    # Where the weights lie that it names, as seen from its folder: both may move together.
    if located.get("base"):
        located["base"] = with_relative(located["base"], folder)
    if located.get("adapter"):
        located["adapter"] = {**located["adapter"], "base": with_relative(located["adapter"]["base"], folder)}
    text = json.dumps(located, indent=2)
    try:
        if "adapter" in description:
            _save_delta(tensors, adapter_config, fresh)
        else:
            _save_tensors(tensors, fresh / TENSORS, {"kit": text})
        if resume is not None:
            (fresh / _RESUME).parent.mkdir()
            _save_state(resume, fresh / _RESUME)
        if more is not None:
            more(fresh)
        part = fresh / f".{DESCRIPTION}"
        part.write_text(text + "\n")
        for path in fresh.rglob("*"):
            sync(path)
        # Named last: a folder with a description is whole.
        move(part, fresh / DESCRIPTION)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finish_exchange(folder)


def _save_tensors(tensors: Mapping[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, metadata=metadata)


def _save_delta(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None, folder: Path) -> None:
    adapter = {name: value for name, value in tensors.items() if name.startswith(ADAPTER_PREFIX)}
    trained = {name: value for name, value in tensors.items() if name not in adapter}
    if config is not None:
        adapter = drop_pruned(adapter, config.get("rank_pattern") or {}, ADAPTER_PREFIX)
        # The header that PEFT writes, and expects.
        _save_tensors(adapter, folder / ADAPTER, {"format": "pt"})
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if trained:
        _save_tensors(trained, folder / TRAINED, {"format": "pt"})


def _save_state(state: Mapping[str, Any], file: Path) -> None:
    try:
        torch.save(dict(state), file)
    except RuntimeError as error:
        # PyTorch's writer does not pass on why the system refused.
        if shutil.disk_usage(file.parent).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        if any(words in str(error) for words in _UNWRITTEN):
            why = "could not be written to its end: a quota, or the limit on the size of files (ulimit -f)"
            raise OSError(errno.EFBIG, why, str(file)) from error
        raise


def finish_exchange(folder: Path) -> None:
    """Finish an exchange that was cut short: afterwards ``folder`` is the newest whole checkpoint, if there is one."""
    fresh, old = _sibling(folder, "new"), _sibling(folder, "old")
    if (fresh / DESCRIPTION).is_file():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            move(folder, old)
        move(fresh, folder)
    elif old.exists() and not folder.exists():
        # The process ended between the two renames, and what it was writing is not whole.
        move(old, folder)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint folder.

    Raises:
        CheckpointError: there is none, or it is of a newer format; names checkpoints nearby.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        near: set[str] = set()
        patterns = (f"*/{DESCRIPTION}", f"checkpoints/*/{DESCRIPTION}")
        for parent, pattern in itertools.product((folder, folder.parent), patterns):
            near |= {str(path.parent) for path in parent.glob(pattern) if not path.parent.name.startswith(".")}
        hint = f"; nearby are {', '.join(sorted(near)[:6])}" if near else ""
        msg = f"{folder}: expected a checkpoint folder with {DESCRIPTION}, found none{hint}"
        raise CheckpointError(msg)
    try:
        description = read_json(file)
        written = description["format"]
    except (DocumentError, KeyError, TypeError) as error:
        msg = f"{file}: not a description that the kit wrote ({error!r})"
        raise CheckpointError(msg) from error
    if written != FORMAT:
        writer = description.get("kit_version")
        msg = f"{file}: format {written}, but this kit reads format {FORMAT}; install version {writer} of the kit"
        raise CheckpointError(msg)
    return Checkpoint(folder, description)
