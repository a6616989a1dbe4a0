"""Export: a checkpoint as a folder or an archive that needs nothing beside it.

Deltas are merged into the weights below them, in fp32. What no weights can hold (a prefix, a prompt, light decoders)
stays a delta, and the weights below it come along, byte for byte.
"""

import logging
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kit import __version__
from kit.adapt.factory import for_training
from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import Checkpoint, open_checkpoint, write_checkpoint, write_description
from kit.checkpoint.run_folder import is_scorecard_of
from kit.export.card import card, card_scores
from kit.export.settings import ExportSettings
from kit.forecasting.writing import portable_name
from kit.io.atomic import check_free, move, published, remove_leftovers, scratch
from kit.io.documents import DocumentError
from kit.io.errors import CheckpointError
from kit.io.hashes import sha256_of_file
from kit.io.sealed import SEAL, read_sealed
from kit.models.weights.integrity import FILES, FORMAT
from kit.models.weights.load import ADAPTER_CONFIG, Weights, load, tensor_files
from kit.models.weights.locate import identify_weights
from kit.registry.fetching import strictly

_logger = logging.getLogger(__name__)

_README = "README.md"
_BASE = "base"
"""Folder of the weights that come along with what cannot be merged."""


@dataclass(frozen=True)
class ExportResult:
    """A checkpoint that was exported.

    Attributes:
        out: Folder or archive.
        checkpoint: Folder of the checkpoint; of an average, the folders of all.
        merged: Whether it is one whole model; otherwise a delta with the weights below it.
        files: Files of the exported folder, relative to it.
        bytes: Size of these files.
        weights_sha256: SHA-256 of the exported weights.
        archive_sha256: SHA-256 of the archive; None where a folder was written.
    """

    out: str
    checkpoint: str | list[str]
    merged: bool
    files: list[str]
    bytes: int
    weights_sha256: str
    archive_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit export --json`` prints; ``archive_sha256`` only for an archive."""
        facts = asdict(self)
        if self.archive_sha256 is None:
            del facts["archive_sha256"]
        return facts


def export(settings: ExportSettings) -> ExportResult:
    """Write a checkpoint, or the average of several, so that it needs nothing beside it.

    Args:
        settings: Checkpoints, and the folder or archive to write.

    Returns:
        What was written, with hashes.

    Raises:
        KitError: a checkpoint cannot be read, several cannot be averaged, or something is at ``out``.
        OSError: the disk is full, or refuses; nothing is left behind.
    """
    check_free(settings.out)
    checkpoints = list(map(open_checkpoint, settings.checkpoint))
    _check_average(checkpoints)
    remove_leftovers(settings.out.parent)
    names = [str(checkpoint.path) for checkpoint in checkpoints]
    merged = _adapt_settings(checkpoints[0]).can_merge
    with (
        strictly(settings.registry.strict),
        published(settings.out) as part,
        # On the target's disk, so that the finished folder can be moved there.
        scratch(settings.out) as place,
    ):
        folder = place / settings.out.stem
        scores = _scores(checkpoints[0]) if len(checkpoints) == 1 else None
        # A merged model loads in upstream's own class without the kit; a delta does not.
        if merged:
            description = _description(checkpoints)
            readme = card(description, folder.name, scores)
            write_checkpoint(
                folder, _averaged(checkpoints), description, more=lambda fresh: _write_readme(fresh, readme)
            )
        else:
            weights = _load(checkpoints[0])
            described = _described_delta(weights)
            folder.mkdir(parents=True)
            _write_readme(folder, card(described, folder.name, scores))
            _bundle(folder, weights, described)
        weights_sha256 = _identify("", folder)["sha256"]
        files, size = [], 0
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                files.append(path.relative_to(folder).as_posix())
                size += path.stat().st_size
        archive_sha256 = None
        if settings.is_archive:
            archive_sha256 = pack(folder, part, settings.out.stem)
        else:
            move(folder, part)
    return ExportResult(
        out=str(settings.out),
        checkpoint=names if len(names) > 1 else names[0],
        merged=merged,
        files=files,
        bytes=size,
        weights_sha256=weights_sha256,
        archive_sha256=archive_sha256,
    )


def _check_average(checkpoints: Sequence[Checkpoint]) -> None:
    """Check that models belong together, before they are averaged; a single one always does.

    Raises:
        CheckpointError: their bases or their models differ, they began with random weights of their own, or what one
            of them trained cannot be merged.
    """
    first = checkpoints[0]
    base = _base_sha256(first)
    for other in checkpoints[1:]:
        other_base = _base_sha256(other)
        # Models that began with random weights have nothing in common that a mean would keep.
        if base is None or other_base is None:
            random = other.path
            if base is None:
                random = first.path
            msg = (
                f"{random} began with random weights: its average with another model means nothing. Average "
                "checkpoints that were trained from the same weights"
            )
            raise CheckpointError(msg)
        if base != other_base:
            msg = (
                f"{first.path} was trained from weights with SHA-256 {base}, {other.path} from others with "
                f"{other_base}; only what began with the same weights can be averaged"
            )
            raise CheckpointError(msg)
        one, two = first.description["model"], other.description["model"]
        differing = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
        if differing:
            msg = f"{first.path} and {other.path} hold different models: {', '.join(differing)} differ"
            raise CheckpointError(msg)
    for checkpoint in checkpoints:
        adapt = _adapt_settings(checkpoint)
        if len(checkpoints) > 1 and not adapt.can_merge:
            msg = (
                f"{checkpoint.path}: what adapt.method {adapt.method} trained is no part of weights that could be "
                "averaged"
            )
            raise CheckpointError(msg)


def _base_sha256(checkpoint: Checkpoint) -> str | None:
    base = checkpoint.description.get("adapter", checkpoint.description)["base"]
    return None if base is None else str(base["sha256"])


def _adapt_settings(checkpoint: Checkpoint) -> AdaptSettings:
    """Return what a delta was trained with; the defaults for a whole model."""
    adapter = checkpoint.description.get("adapter")
    if adapter is None:
        return AdaptSettings()
    return AdaptSettings.model_validate(adapter["settings"])


def _load(checkpoint: Checkpoint) -> Weights:
    weights = load(str(checkpoint.path), checkpoint.spec.upstream)
    assert weights is not None
    return weights


def _averaged(checkpoints: Sequence[Checkpoint]) -> dict[str, torch.Tensor]:
    """Return merged weights, or their mean over checkpoints; beside the sum one model at a time is held."""
    total = _merged(checkpoints[0])
    for checkpoint in checkpoints[1:]:
        for name, value in _merged(checkpoint).items():
            total[name] += value
    if len(checkpoints) == 1:
        return total
    return {name: value / len(checkpoints) for name, value in total.items()}


def _merged(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint's model, under upstream's names, in fp32."""
    # Training it in full would start from these weights.
    model, trained = for_training(checkpoint.spec, _load(checkpoint), AdaptSettings(), autocast=False)
    if trained.new:
        msg = f"{checkpoint.path}: the weights lack {len(trained.new)} parameters, the first is {min(trained.new)}"
        raise CheckpointError(msg)
    return dict(model.state_dict())


def _description(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """Return the contents of ``kit.json`` for a merged model: the first checkpoint's, without this machine's paths."""
    first: dict[str, Any] = _portable(checkpoints[0].description)
    # No longer a delta; the format and the hashes of files are written anew.
    for key in ("adapter", "format", "settings", FILES, SEAL):
        first.pop(key, None)
    origins, members = [], []
    for checkpoint in checkpoints:
        origin = _identify(portable_name(checkpoint.path), checkpoint.path)
        origins.append(origin)
        members.append({**origin, "lineage": _portable(checkpoint.description["lineage"])})
    if len(checkpoints) > 1:
        stage = {
            "kit_version": __version__,
            "method": "average",
            "steps": max(member["lineage"][-1]["steps"] for member in members if member["lineage"]),
            "base": first["base"],
            "of": members,
        }
        # The scores of one of several say nothing of their average.
        del first["validation"]
        first["lineage"] = [stage]
    return {**first, "exported": {"kit_version": __version__, "merged": origins}}


def _identify(name: str, folder: Path) -> dict[str, Any]:
    """Return name, files, sizes and SHA-256 of a checkpoint folder's weights."""
    return identify_weights(name, [folder / file for file in tensor_files(folder)])


def _portable(value: Any, key: str = "") -> Any:
    """Return a description without the folders of the machine that wrote it: paths become their last parts."""
    if isinstance(value, Mapping):
        return {name: _portable(part, name) for name, part in value.items() if name != "relative"}
    if isinstance(value, list | tuple):
        return [_portable(part, key) for part in value]
    # In a run folder paths stay, because there they find things; elsewhere they mean nothing.
    if key in ("name", "store") and isinstance(value, str) and Path(value).is_absolute():
        return portable_name(Path(value))
    return value


def _described_delta(weights: Weights) -> dict[str, Any]:
    """Return the contents of ``kit.json`` for a delta whose base comes along, without this machine's paths."""
    below = weights.under
    assert below is not None
    assert below.path is not None
    described: dict[str, Any] = _portable(weights.description)
    relative = _BASE
    if below.under is None:
        relative = f"{_BASE}/{below.path.name}"
    described["adapter"]["base"]["relative"] = relative
    described.pop("settings", None)
    described["exported"] = {"kit_version": __version__, "merged": False}
    return {"format": FORMAT, **described}


def _bundle(folder: Path, weights: Weights, described: Mapping[str, Any]) -> None:
    """Copy a delta into a folder, and below it all that it belongs to; hashes of weights stay what they were."""
    assert weights.path is not None
    below = weights.under
    assert below is not None
    # Byte for byte, so that the hashes that are recorded still say what the files are.
    for file in (*tensor_files(weights.path), ADAPTER_CONFIG):
        if (weights.path / file).is_file():
            shutil.copyfile(weights.path / file, folder / file)
    (folder / _BASE).mkdir()
    if below.under is not None:
        _bundle(folder / _BASE, below, _described_delta(below))
    else:
        assert below.path is not None
        shutil.copyfile(below.path, folder / _BASE / below.path.name)
    write_description(folder, described)


def _write_readme(folder: Path, text: str) -> None:
    (folder / _README).write_text(text)


def _scores(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Read the scorecard that kit evaluate left in the run folder of a best checkpoint."""
    folder = checkpoint.path.absolute()
    file = folder.parent.parent / "scores.json"
    if folder.name != "best" or folder.parent.name != "checkpoints" or not file.is_file():
        return None
    try:
        scores = read_sealed(file)
        card_scores(scores)
        if not is_scorecard_of(scores, folder):
            msg = "it is of another checkpoint than this one is now"
            raise DocumentError(msg)
    except (DocumentError, LookupError, AttributeError, TypeError) as error:
        _logger.warning("%s: left out of the model card (%s); kit evaluate takes the scores anew", file, error)
        return None
    return scores


def pack(folder: Path, file: Path, name: str) -> str:
    """Write a tar file of a folder, with the same bytes whoever packs it and whenever.

    Names are in order, without times, owners and rights.

    Args:
        folder: Folder to pack.
        file: Archive to write.
        name: Name of the folder inside the archive.

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
    return sha256_of_file(file)
