"""The checkpoint folder: a model that means something by itself, on any machine.

``kit.json`` describes the model (variant, variables, levels, statistics, grid, base weights, lineage),
``model.safetensors`` holds its tensors under upstream's names and the same description in its header, and
``resume``, which may be deleted, holds what training needs to go on. ``kit.json`` lists size and SHA-256 of every other
file, and whatever is read is compared with them first (``kit.models.weights.integrity``).

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kit.io.atomic import exchange, make_folder, move, sync_tree
from kit.io.errors import CheckpointError
from kit.io.sealed import SEAL, write_sealed
from kit.models.spec import ModelSpec
from kit.models.weights.convert import drop_pruned
from kit.models.weights.format import check_pickled
from kit.models.weights.integrity import (
    DESCRIPTION,
    FILES,
    FORMAT,
    RESUME,
    hash_files,
    read_whole,
    sibling,
    verified_description,
)
from kit.models.weights.load import ADAPTER, ADAPTER_CONFIG, ADAPTER_PREFIX, TENSORS, TRAINED, read_tensors
from kit.models.weights.locate import with_relative

_RESUME = Path(RESUME) / "state.pt"
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
    def is_network(self) -> bool:
        """Whether the tensors are a denoising network's, not Aurora's."""
        return "diffusion" in self.description

    @property
    def forecasts(self) -> bool:
        """Whether the model forecasts by itself; networks that perturb forecasts of another do not."""
        return not self.is_network or self.description["diffusion"]["settings"]["of"] in ("next", "mean")

    @property
    def spec(self) -> ModelSpec:
        """Model that the tensors belong to.

        Raises:
            CheckpointError: they are a denoising network's that forecasts nothing by itself.
        """
        if not self.forecasts:
            msg = (
                f"{self.path}: holds a denoising network, not a model that forecasts; give it as --diffusion to "
                "kit ensemble, beside the --checkpoint of its operator"
            )
            raise CheckpointError(msg)
        return ModelSpec.from_dict(self.description["model"])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read what was written: the model's tensors under upstream's names, an adapter's under PEFT's; on the CPU.

        Raises:
            CheckpointError: a file cannot be read, or is not as it was written.
        """

        def read() -> dict[str, torch.Tensor]:
            verified_description(self.path)
            return read_tensors(self.path)

        return read_whole(self.path, read)

    def resume_state(self) -> dict[str, Any]:
        """Read the state of the training that wrote the checkpoint.

        Raises:
            CheckpointError: it was deleted, cannot be read, or is not as it was written.
        """
        return read_whole(self.path, self._read_resume)

    def _read_resume(self) -> dict[str, Any]:
        verified_description(self.path)
        file = self.path / _RESUME
        if not file.is_file():
            msg = f"{self.path}: cannot be resumed without {_RESUME}; start a new run with --model.weights {self.path}"
            raise CheckpointError(msg)
        try:
            check_pickled(file)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError) as error:
            what = (str(error).splitlines() or [type(error).__name__])[0]
            msg = f"{file}: cannot be read as training state ({what}); nothing was executed"
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
        more: Writes further files, such as what else is to be resumed from, given the folder.
    """
    fresh = sibling(folder, "new")
    shutil.rmtree(fresh, ignore_errors=True)
    make_folder(fresh)
    # Hashes that the description may bring from another folder are not of these files.
    located = {"format": FORMAT, **{key: value for key, value in description.items() if key not in (FILES, SEAL)}}
    # Where the weights lie that it names, as seen from its folder: both may move together.
    if located.get("base"):
        located["base"] = with_relative(located["base"], folder)
    if located.get("adapter"):
        located["adapter"] = {**located["adapter"], "base": with_relative(located["adapter"]["base"], folder)}
    try:
        if "adapter" in description:
            _save_delta(tensors, adapter_config, fresh)
        else:
            _save_tensors(tensors, fresh / TENSORS, {"kit": json.dumps(located, indent=2)})
        if resume is not None:
            (fresh / _RESUME).parent.mkdir()
            _save_state(resume, fresh / _RESUME)
        if more is not None:
            more(fresh)
        write_description(fresh, located)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finish_exchange(folder)


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``kit.json`` of a folder whose other files are all there: their sizes and hashes, and its own.

    Args:
        folder: Folder that is a checkpoint afterwards, safely on the disk.
        description: What else ``kit.json`` holds; hashes of other files than these are replaced.
    """
    # Hashing keeps a core busy while the disk is waited for.
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hash_files, folder)
        sync_tree(folder)
    # Named last: a folder with a description is whole.
    write_sealed(folder / DESCRIPTION, {**description, FILES: hashing.result()})


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
    fresh, old = sibling(folder, "new"), sibling(folder, "old")
    if _is_newer(fresh, folder):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            # In one step, where the system can: who reads the checkpoint never finds none.
            if exchange(fresh, folder):
                move(fresh, old)
            else:
                move(folder, old)
                move(fresh, folder)
        else:
            move(fresh, folder)
    elif old.exists() and not folder.exists():
        # The process ended between two renames, and what it was writing is not whole.
        move(old, folder)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _is_newer(fresh: Path, folder: Path) -> bool:
    """Check whether a checkpoint under the name of new ones is one, and not that which a new one took the place of."""
    if not (fresh / DESCRIPTION).is_file():
        return False
    if not (folder / DESCRIPTION).is_file():
        return True
    # A process that ended right after the exchange left the old one under this name.
    return (fresh / DESCRIPTION).stat().st_mtime_ns >= (folder / DESCRIPTION).stat().st_mtime_ns


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint folder, once every file of it has been compared with its hash.

    Raises:
        CheckpointError: there is none, it is not as it was written, or it is of a newer format; names checkpoints
            nearby.
    """
    try:
        return read_whole(folder, lambda: Checkpoint(folder, verified_description(folder)))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / DESCRIPTION).is_file():
            raise
    near: set[str] = set()
    patterns = (f"*/{DESCRIPTION}", f"checkpoints/*/{DESCRIPTION}")
    for parent, pattern in itertools.product((folder, folder.parent), patterns):
        near |= {str(path.parent) for path in parent.glob(pattern) if not path.parent.name.startswith(".")}
    hint = f"; nearby are {', '.join(sorted(near)[:6])}" if near else ""
    msg = f"{folder}: expected a checkpoint folder with {DESCRIPTION}, found none{hint}"
    raise CheckpointError(msg)
