"""Verification of what the kit has written: a checkpoint or an export, its archive, a run folder, or a store."""

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.data.store import verify as stores
from kit.data.store.verify import Problem
from kit.io.documents import DocumentError, parse_toml, read_text
from kit.io.errors import CheckpointError
from kit.io.hashes import new_sha256
from kit.io.sealed import check_seal, parse_object, read_sealed, toml_seal_holds
from kit.models.weights.integrity import DESCRIPTION, FILES, list_files, problems_of, read_description
from kit.models.weights.load import ADAPTER, TENSORS, TRAINED

_BLOCK = 1 << 20
_UNSEALED = "holds no hashes of files: an earlier version of the kit wrote it; kit export writes a copy that has them"
_RESUMED = "the run writes it anew when it goes on (--train.resume auto)"
_PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file: PNG specification, third edition, section 5.2."""

ResultKind = Literal["checkpoint", "export", "archive", "run", "store", "climatology"]


@dataclass(frozen=True)
class VerifiedFiles:
    """Result of a verification.

    Attributes:
        path: Folder or archive.
        kind: What it is.
        files: Number of files that were read.
        size: Their bytes.
        problems: Every file that is not as it was written.
    """

    path: Path
    kind: ResultKind
    files: int
    size: int
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit verify --json`` prints."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "passed": not self.problems,
            "files": self.files,
            "bytes": self.size,
            "problems": [asdict(problem) for problem in self.problems],
        }


def verify_path(path: Path) -> dict[str, Any]:
    """Read every file of a checkpoint, an export, a run folder or a store, and compare it with its hash.

    Args:
        path: Folder, or archive that ``kit export`` wrote.

    Returns:
        ``path``, ``kind``, ``passed``, ``files``, ``bytes`` and ``problems``; of a store also what ``kit data verify``
        prints.

    Raises:
        KitError: it is none of these.
    """
    if path.is_file():
        return _verify_archive(path).to_dict()
    if _holds_a_checkpoint(path):
        return _verify_checkpoint(path).to_dict()
    run = RunFolder(path)
    if any(file.exists() for file in (run.last.parent, run.provenance, run.config, run.metrics)):
        return _verify_run(run).to_dict()
    if (path / "zarr.json").exists():
        verified = stores.verify(path)
        kind: ResultKind = "climatology" if verified.is_climatology else "store"
        return {"path": str(path), "kind": kind, **verified.as_dict()}
    msg = (
        f"{path}: expected a checkpoint ({DESCRIPTION}), a run folder ({run.config.name}), an export or its .tar, or a "
        f"store (zarr.json), found {'none of them' if path.is_dir() else 'nothing'}"
    )
    raise CheckpointError(msg)


def _holds_a_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in (DESCRIPTION, TENSORS, ADAPTER, TRAINED))


def _verify_checkpoint(folder: Path) -> VerifiedFiles:
    files = list_files(folder)
    size = sum(file.stat().st_size for file in files.values() if file.is_file())
    kind: ResultKind = "checkpoint"
    try:
        description = read_description(folder)
    except FileNotFoundError:
        problems = [Problem(DESCRIPTION, "is gone, so that nothing says what the other files should be")]
    except CheckpointError as error:
        problems = [Problem(DESCRIPTION, str(error).removeprefix(f"{folder / DESCRIPTION}: "))]
    else:
        if "exported" in description:
            kind = "export"
        problems = [Problem(DESCRIPTION, _UNSEALED)]
        if FILES in description:
            problems = [Problem(*problem) for problem in problems_of(folder, description[FILES]).items()]
        size += (folder / DESCRIPTION).stat().st_size
    return VerifiedFiles(folder, kind, len(files) + (folder / DESCRIPTION).is_file(), size, tuple(problems))


def _verify_archive(file: Path) -> VerifiedFiles:
    """Compare the files in an archive with the ``kit.json`` in it; nothing is unpacked."""
    found: dict[str, dict[str, Any]] = {}
    text, problems = None, []
    try:
        # Uncompressed, as the kit writes it: what is read is never more than what is there.
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                stream = archive.extractfile(member)
                if not member.isreg() or member.issparse() or stream is None:
                    problems.append(Problem(name, "is no plain file"))
                    continue
                state, kept = new_sha256(), bytearray()
                while block := stream.read(_BLOCK):
                    state.update(block)
                    if name == DESCRIPTION:
                        kept += block
                if name == DESCRIPTION:
                    text = kept.decode()
                else:
                    found[name] = {"size": member.size, "sha256": state.hexdigest()}
    except (tarfile.TarError, EOFError, ValueError) as error:
        msg = f"{file}: cannot be read as an archive that kit export wrote ({error}); take another copy of it"
        raise CheckpointError(msg) from error
    if text is None:
        msg = f"{file}: expected an archive with {DESCRIPTION}, as kit export writes it, found none in it"
        raise CheckpointError(msg)
    try:
        description = parse_object(text)
        check_seal(text, description)
    except DocumentError as error:
        problems.append(Problem(DESCRIPTION, str(error)))
    else:
        problems += _compare(found, description)
    size = len(text) + sum(facts["size"] for facts in found.values())
    return VerifiedFiles(file, "archive", len(found) + 1, size, tuple(problems))


def _compare(found: Mapping[str, Mapping[str, Any]], description: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare sizes and hashes with those that a ``kit.json`` holds."""
    if FILES not in description:
        yield Problem(DESCRIPTION, _UNSEALED)
        return
    recorded = description[FILES]
    for name in sorted(found.keys() | recorded.keys()):
        if name not in found:
            yield Problem(name, "is gone")
        elif name not in recorded:
            yield Problem(name, "is none of the export's files")
        elif found[name] != recorded[name]:
            yield Problem(name, "was changed")


def _verify_run(run: RunFolder) -> VerifiedFiles:
    """Verify the checkpoints of a run, and look for side files that cannot be read."""
    count, size = 0, 0
    problems: list[Problem] = []
    own = {run.best.name, run.ema.name, run.last.name}
    for folder in sorted(run.last.parent.glob("[!.]*")):
        # Figures of a checkpoint lie beside it, as does whatever else was put there.
        if folder.name not in own and not _holds_a_checkpoint(folder):
            continue
        verified = _verify_checkpoint(folder)
        count, size = count + verified.files, size + verified.size
        place = f"checkpoints/{folder.name}"
        problems += [Problem(f"{place}/{found.file}", found.problem) for found in verified.problems]
    # What a run leaves when it has begun; scores and figures come later.
    due = (run.config, run.provenance, run.tracking, run.trains, run.quality, run.metrics)
    problems += [Problem(file.name, f"is gone; {_RESUMED}") for file in due if not file.exists()]
    logs = (run.metrics, run.activations, run.system)
    documents = (run.provenance, run.tracking, run.trains, run.quality, run.scores, run.samples)
    present = [file for file in (run.config, *documents, *logs, *sorted(run.figures.glob("*.png"))) if file.exists()]
    for file in present:
        count, size = count + 1, size + file.stat().st_size
        damage = _side_damage(run, file)
        if damage is not None:
            problems.append(Problem(file.relative_to(run.path).as_posix(), damage))
    return VerifiedFiles(run.path, "run", count, size, tuple(problems))


def _side_damage(run: RunFolder, file: Path) -> str | None:
    """Say what is wrong with a side file, and how it comes back."""
    try:
        if file.suffix == ".png":
            if _is_whole_png(file):
                return None
            return f"is no whole figure; kit plot --run {run.path} draws it anew"
        if file.suffix == ".jsonl":
            _, bad = MetricsLog(file).scan()
            return f"has {len(bad)} damaged lines, the first is {bad[0]}; readers leave them out" if bad else None
        if file == run.config:
            text = read_text(file)
            parse_toml(text)
            return None if toml_seal_holds(text) else f"is not as the kit wrote it; {_RESUMED}"
        else:
            read_sealed(file)
    except (OSError, DocumentError) as error:
        remedy = _RESUMED
        if file == run.scores:
            remedy = f"kit evaluate --checkpoint {run.best} writes it anew"
        return f"cannot be read: {error}; {remedy}"
    return None


def _is_whole_png(file: Path) -> bool:
    """Check the parts of a PNG file by their own checksums (PNG specification, section 5.3)."""
    content = file.read_bytes()
    if not content.startswith(_PNG):
        return False
    start, kind = len(_PNG), b""
    # A part is its length in 4 bytes, its type in 4, its data, and the CRC-32 of type and data in 4.
    while start + 12 <= len(content):
        length = int.from_bytes(content[start : start + 4])
        kind = content[start + 4 : start + 8]
        end = start + 8 + length
        if zlib.crc32(content[start + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return False
        start = end + 4
    return kind == b"IEND" and start == len(content)
