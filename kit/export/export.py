"""Export: a checkpoint as a folder or an archive that needs nothing beside it.

Deltas are merged into the weights below them, in fp32. What no weights can hold (a prefix, a prompt, light decoders)
stays a delta, and the weights below it come along, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kit import __version__
from kit.adapt import factory as build
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import FORMAT, Checkpoint, open_checkpoint, write_checkpoint
from kit.export.card import card
from kit.export.settings import ExportSettings
from kit.io.atomic import published, refuse_existing
from kit.io.errors import CheckpointError
from kit.models.weights import load as weights_room
from kit.models.weights.load import ADAPTER_CONFIG, DESCRIPTION, Weights
from kit.models.weights.locate import identified

__all__ = ["export", "pack"]

_README = "README.md"
_BASE = "base"
"""Folder of the weights that come along with what cannot be merged."""


def export(settings: ExportSettings) -> dict[str, Any]:
    """Write a checkpoint, or the average of several, for others.

    Returns:
        What ``kit export --json`` prints.

    Raises:
        KitError: a checkpoint cannot be read, or several cannot be averaged.
        OSError: the disk is full, or refuses; nothing is left behind.
    """
    refuse_existing(settings.out)
    checkpoints = [open_checkpoint(folder) for folder in settings.checkpoint]
    _refuse_average(checkpoints)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        published(settings.out) as part,
        tempfile.TemporaryDirectory(prefix=".kit-export-", dir=settings.out.parent) as scratch,
    ):
        folder = Path(scratch) / settings.out.stem
        merged = _fill(folder, checkpoints)
        facts = _facts(folder, merged=merged)
        if settings.is_archive:
            facts["archive_sha256"] = pack(folder, part, settings.out.stem)
        else:
            folder.rename(part)
    names = [str(checkpoint.path) for checkpoint in checkpoints]
    return {"out": str(settings.out), "checkpoint": names[0] if len(names) == 1 else names, **facts}


def _fill(folder: Path, checkpoints: Sequence[Checkpoint]) -> bool:
    """Write everything; returns whether it is one whole model."""
    apart = [checkpoint for checkpoint in checkpoints if not _settings(checkpoint).can_merge]
    if apart and len(checkpoints) > 1:
        method = _settings(apart[0]).method
        msg = f"{apart[0].path}: what adapt.method {method} trained is no part of weights that could be averaged"
        raise CheckpointError(msg)
    if apart:
        _bundle(folder, _loaded(apart[0]))
    else:
        write_checkpoint(folder, _averaged(checkpoints), _description(checkpoints))
    written = json.loads((folder / DESCRIPTION).read_text())
    scores = _scores(checkpoints[0]) if len(checkpoints) == 1 else None
    (folder / _README).write_text(card(written, folder.name, scores))
    return not apart


def _settings(checkpoint: Checkpoint) -> AdaptSettings:
    """What a checkpoint was trained with, if it is a delta."""
    adapter = checkpoint.description.get("adapter")
    return AdaptSettings() if adapter is None else AdaptSettings.model_validate(adapter["settings"])


def _loaded(checkpoint: Checkpoint) -> Weights:
    weights = weights_room.load(str(checkpoint.path), checkpoint.spec.upstream)
    assert weights is not None
    return weights


def _averaged(checkpoints: Sequence[Checkpoint]) -> dict[str, torch.Tensor]:
    """Merged weights, or their mean over checkpoints; beside the sum one model at a time is held."""
    total = _merged(checkpoints[0])
    for checkpoint in checkpoints[1:]:
        for name, value in _merged(checkpoint).items():
            total[name] += value
    if len(checkpoints) == 1:
        return total
    return {name: value / len(checkpoints) for name, value in total.items()}


def _merged(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint's model, under upstream's names, in fp32."""
    # Training it in full would start from these weights.
    model, trained = build.for_training(checkpoint.spec, _loaded(checkpoint), AdaptSettings(), autocast=False)
    if trained.new:
        msg = f"{checkpoint.path}: the weights lack {len(trained.new)} parameters, the first is {min(trained.new)}"
        raise CheckpointError(msg)
    return {name: value.detach() for name, value in model.state_dict().items()}


def _refuse_average(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse an average of models that do not belong together.

    Raises:
        CheckpointError: their bases or their models differ, or they began with random weights of their own.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        bases = [_base(checkpoint) for checkpoint in (first, other)]
        if None in bases:
            msg = (
                f"{(first if bases[0] is None else other).path} began with random weights: its average with another "
                "model means nothing. Average checkpoints that were trained from the same weights"
            )
            raise CheckpointError(msg)
        if bases[0] != bases[1]:
            msg = (
                f"{first.path} was trained from weights with SHA-256 {bases[0]}, {other.path} from others with "
                f"{bases[1]}; only what began with the same weights can be averaged"
            )
            raise CheckpointError(msg)
        one, two = (checkpoint.description["model"] for checkpoint in (first, other))
        differing = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
        if differing:
            msg = f"{first.path} and {other.path} hold different models: {', '.join(differing)} differ"
            raise CheckpointError(msg)


def _base(checkpoint: Checkpoint) -> str | None:
    base = checkpoint.description.get("adapter", checkpoint.description)["base"]
    return None if base is None else str(base["sha256"])


def _description(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """What ``kit.json`` says of a merged model: the checkpoint's, without what is this machine's."""
    described = [_portable(checkpoint.description) for checkpoint in checkpoints]
    origins = [_origin(checkpoint) for checkpoint in checkpoints]
    first = {key: value for key, value in described[0].items() if key not in ("adapter", "format")}
    if len(described) == 1:
        return {**first, "exported": {"kit_version": __version__, "merged": origins}}
    histories = [each["lineage"] for each in described]
    stage = {
        "kit_version": __version__,
        "method": "average",
        "steps": max(history[-1]["steps"] for history in histories if history),
        "base": first["base"],
        "of": [{**origin, "lineage": history} for origin, history in zip(origins, histories, strict=True)],
    }
    del first["validation"]
    return {**first, "lineage": [stage], "exported": {"kit_version": __version__, "merged": origins}}


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    files = weights_room.tensor_files(checkpoint.path)
    return identified(_portable_name(str(checkpoint.path.absolute())), [checkpoint.path / file for file in files])


def _portable(value: Any, key: str = "") -> Any:
    """A description without the folders of the machine that wrote it: paths become their last parts."""
    if isinstance(value, Mapping):
        return {name: _portable(part, name) for name, part in value.items() if name != "relative"}
    if isinstance(value, list | tuple):
        return [_portable(part, key) for part in value]
    return _portable_name(value) if key in ("name", "store") and isinstance(value, str) else value


def _portable_name(name: str) -> str:
    path = Path(name)
    if not path.is_absolute():
        return name
    return "/".join(path.parts[-3:] if path.parent.name == "checkpoints" else path.parts[-1:])


def _bundle(folder: Path, weights: Weights) -> None:
    """Copy a delta, and below it all that it belongs to; hashes stay what they were."""
    assert weights.path is not None
    assert weights.description is not None
    assert weights.under is not None
    folder.mkdir(parents=True)
    files = [*weights_room.tensor_files(weights.path), ADAPTER_CONFIG]
    for file in files:
        if (weights.path / file).is_file():
            shutil.copyfile(weights.path / file, folder / file)
    relative = _copy_base(folder / _BASE, weights.under)
    described = _portable(weights.description)
    described["adapter"]["base"]["relative"] = relative
    described["exported"] = {"kit_version": __version__, "merged": False}
    (folder / DESCRIPTION).write_text(json.dumps({"format": FORMAT, **described}, indent=2) + "\n")


def _copy_base(folder: Path, weights: Weights) -> str:
    """Copy weights into a folder; returns where they then are, as seen from its parent."""
    assert weights.path is not None
    if weights.under is not None:
        _bundle(folder, weights)
        return folder.name
    folder.mkdir(parents=True)
    shutil.copyfile(weights.path, folder / weights.path.name)
    return f"{folder.name}/{weights.path.name}"


def _scores(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The scorecard that kit evaluate left in the run folder of a best checkpoint."""
    folder = checkpoint.path.absolute()
    file = folder.parent.parent / "scores.json"
    if folder.name != "best" or folder.parent.name != "checkpoints" or not file.is_file():
        return None
    scores: dict[str, Any] = json.loads(file.read_text())
    return scores


def _facts(folder: Path, *, merged: bool) -> dict[str, Any]:
    held = identified("", [folder / file for file in weights_room.tensor_files(folder)])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "merged": merged,
        "files": [path.relative_to(folder).as_posix() for path in files],
        "bytes": sum(path.stat().st_size for path in files),
        "weights_sha256": held["sha256"],
    }


# One archive of a folder, with the same bytes whoever packs it and whenever.

_BLOCK = 2**20


def pack(folder: Path, file: Path, name: str) -> str:
    """Write a tar file of a folder: names in order, without times, owners and rights.

    Args:
        folder: what is packed.
        file: what is written.
        name: of the folder inside the archive.

    Returns:
        The archive's SHA-256.

    Raises:
        OSError: the disk is full, or refuses.
    """
    # GNU's format holds files of any size and has no record of its own that depends on the machine.
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
                entry.size = path.stat().st_size
                entry.mode = 0o644
                with path.open("rb") as stream:
                    archive.addfile(entry, stream)
    return _digest(file)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
