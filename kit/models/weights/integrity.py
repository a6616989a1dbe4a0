"""Integrity of checkpoints: what their files are, by size and SHA-256, and that they still are.

``kit.json`` lists every other file of its folder under ``files``, and carries its own hash (``kit.io.sealed``). Every
reader compares before it uses anything. Checkpoints of versions that kept no hashes are read with one warning.

A training run exchanges its checkpoints for newer ones while others read them. ``read_whole`` begins again where that
happened, so that nobody gets files of two checkpoints.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kit.io.documents import DocumentError, read_text
from kit.io.errors import CheckpointError
from kit.io.hashes import file_stamp, remembered_sha256
from kit.io.retry import poll
from kit.io.sealed import SEAL, check_seal, parse_object, read_sealed
from kit.models.weights.description import check_description

_logger = logging.getLogger(__name__)

DESCRIPTION = "kit.json"
FILES = "files"
"""Key of the sizes and hashes of a checkpoint's files."""
FORMAT = 1
RESUME = "resume"
"""Folder of what training goes on from; it may be removed as a whole."""
_EXCHANGE_SECONDS = 5.0
"""How long a reader waits where a checkpoint is missing for a moment: two renames and an fsync."""
_TRIES = 20
"""Readings that are begun before a reader gives up on a checkpoint that is exchanged all the time."""
_NAMED = 6
"""Files that a message names."""

T = TypeVar("T")


def list_files(folder: Path) -> dict[str, Path]:
    """List the files of a checkpoint by their paths in its folder, but for ``kit.json`` and hidden ones."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        # What systems leave in folders (.DS_Store, .nfs...) is hidden, and no reader opens it.
        hidden = any(part.startswith(".") for part in relative.parts)
        # A link that leads nowhere, and a pipe, are no folders either.
        if not hidden and not path.is_dir() and relative != Path(DESCRIPTION):
            found[relative.as_posix()] = path
    return found


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what ``kit.json`` holds under ``files``: size and SHA-256 of every other file of a checkpoint.

    Raises:
        OSError: a file cannot be read.
    """
    found = {}
    for name, path in list_files(folder).items():
        found[name] = {"size": path.stat().st_size, "sha256": remembered_sha256(path, quiet=True)}
    return found


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``kit.json``, whose bytes are compared with its own hash.

    Raises:
        OSError: it is missing or cannot be opened.
        CheckpointError: it is none, was changed, or is of another format.
    """
    file = folder / DESCRIPTION
    try:
        text = read_text(file)
        description = parse_object(text)
        written = description["format"]
        # Before the seal: another format may have one of another kind.
        if written == FORMAT:
            check_seal(text, description)
            _check_sealed(description)
    except (DocumentError, KeyError) as error:
        what = "it lacks its format" if isinstance(error, KeyError) else str(error)
        msg = f"{file}: is not a description as the kit wrote it: {what}. {way_out(folder, {}, [DESCRIPTION])}"
        raise CheckpointError(msg) from error
    if written != FORMAT:
        writer = description.get("kit_version")
        msg = f"{file}: format {written}, but this kit reads format {FORMAT}; install version {writer} of the kit"
        raise CheckpointError(msg)
    return check_description(description, file)


def _check_sealed(description: Mapping[str, Any]) -> None:
    """Check that hashes of the files and the file's own come together; a changed name would hide either.

    Raises:
        DocumentError: one of them is there alone.
    """
    if (FILES in description) != (SEAL in description):
        present, absent = (FILES, SEAL) if FILES in description else (SEAL, FILES)
        msg = f"it was changed since it was written: it has {present!r}, but not {absent!r}"
        raise DocumentError(msg)
    recorded = description.get(FILES, {})
    facts = recorded.values() if isinstance(recorded, dict) else [None]
    if not all(isinstance(one, dict) and one.keys() >= {"size", "sha256"} for one in facts):
        msg = f"its {FILES!r} do not hold a size and a SHA-256 for each file"
        raise DocumentError(msg)


def problems_of(folder: Path, recorded: Mapping[str, Mapping[str, Any]], *, quiet: bool = False) -> dict[str, str]:
    """Compare every file of a checkpoint with its recorded size and hash.

    Args:
        folder: Folder of the checkpoint.
        recorded: Sizes and hashes by name, as ``kit.json`` holds them under ``files``.
        quiet: Whether to say nothing while very large files are read.

    Returns:
        What is wrong, by file, as a clause whose subject is the file. A folder ``resume`` that was removed as a whole
        is no problem.
    """
    present = list_files(folder)
    found: dict[str, str] = {}
    for name, facts in recorded.items():
        if name not in present:
            found[name] = "is gone"
            continue
        path = present[name]
        if not path.is_file():
            found[name] = "is no file; nothing was read"
        elif (size := path.stat().st_size) != facts["size"]:
            found[name] = f"has {size} bytes, {facts['size']} were written"
        elif (sha256 := remembered_sha256(path, quiet=quiet)) != facts["sha256"]:
            found[name] = f"was changed (SHA-256 {sha256[:12]}... instead of {str(facts['sha256'])[:12]}...)"
    for name in present.keys() - recorded.keys():
        found[name] = "is none of the checkpoint's files"
    kept = [name for name in present if name.startswith(f"{RESUME}/")]
    if not kept:
        found = {name: problem for name, problem in found.items() if not name.startswith(f"{RESUME}/")}
    return dict(sorted(found.items()))


def verified_description(folder: Path) -> dict[str, Any]:
    """Read ``kit.json``, and compare every other file with what it says.

    Raises:
        OSError: a file is missing or cannot be opened.
        CheckpointError: something was changed, is gone or was added; names it, and what can be done.
    """
    description = read_description(folder)
    if FILES not in description:
        _warn_unsealed(folder.absolute())
        return description
    problems = problems_of(folder, description[FILES])
    if problems:
        named = [f"{name} {problem}" for name, problem in list(problems.items())[:_NAMED]]
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        ways = way_out(folder, description, problems.keys())
        msg = f"{folder}: is not what its {DESCRIPTION} says: {'; '.join(named)}{more}. {ways}"
        raise CheckpointError(msg)
    return description


@cache
def _warn_unsealed(folder: Path) -> None:
    """Say once that a checkpoint has no hashes."""
    _logger.warning(
        "%s: was written by a version of the kit that kept no hashes of files, so that damage to it cannot be seen; "
        "kit export writes a copy that has them",
        folder,
    )


def way_out(folder: Path, description: Mapping[str, Any], damaged: Collection[str]) -> str:
    """Say what can be done about a checkpoint that is not as it was written.

    Args:
        folder: Folder of the checkpoint.
        description: What is known of its ``kit.json``; empty where nothing is.
        damaged: Names of the files that are not as they were written.
    """
    if description and not description[FILES].keys() & set(damaged):
        return "Move away what is not the checkpoint's own"
    if all(name.startswith(f"{RESUME}/") for name in damaged):
        return (
            f"Its weights are as they were written: remove {folder / RESUME} to use them, and start a new run from "
            f"them with --model.weights {folder}"
        )
    ways = []
    if folder.absolute().parent.name == "checkpoints":
        others = sorted(folder.parent.glob("[!.]*"))
        ways += [f"{other} beside it" for other in others if other.name != folder.name and _is_sealed(other)]
    stages = description.get("lineage") or [{}]
    base = stages[-1].get("base")
    if base is not None:
        ways.append(f"the weights that its training started from ({base['name']})")
    ways.append("a copy or an export of it")
    return f"Nothing of it was used; take {', or '.join(ways)}"


def _is_sealed(folder: Path) -> bool:
    """Check whether a folder is a checkpoint whose description is as it was written; tensors are not read."""
    try:
        return FILES in read_sealed(folder / DESCRIPTION)
    except (OSError, DocumentError):
        return False


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """Read a checkpoint, again from the beginning where a newer one took its place meanwhile.

    Args:
        folder: Folder of the checkpoint.
        read: Reads it.

    Raises:
        CheckpointError: as ``read`` raises it of a checkpoint that stayed, or the checkpoint never stayed.
        OSError: likewise.
    """
    for _ in range(_TRIES):
        before = _present(folder)
        try:
            result = read()
        except (CheckpointError, OSError):
            if before == _present(folder):
                raise
            continue
        if before == _present(folder):
            return result
    msg = (
        f"{folder}: newer checkpoints took its place {_TRIES} times while it was being read; copy it and read the copy"
    )
    raise CheckpointError(msg)


def _present(folder: Path) -> tuple[int, ...] | None:
    """Return the stamp of ``kit.json``; where an exchange goes on that takes two renames, wait for its end."""
    found: list[tuple[int, ...]] = []

    def is_there() -> bool:
        try:
            found.append(file_stamp(folder / DESCRIPTION))
        except OSError:
            return not sibling(folder, "old").exists()
        return True

    poll(is_there, every=0.02, limit=_EXCHANGE_SECONDS)
    return found[-1] if found else None


def sibling(folder: Path, suffix: str) -> Path:
    """Return the hidden folder beside a checkpoint in which a ``new`` one is written, or an ``old`` one is removed."""
    place = folder.absolute()
    return place.parent / f".{place.name}.{suffix}"
