"""Where the weights are that a checkpoint belongs to: by name, by place beside it, or by their hash anywhere.

A delta names its base by SHA-256. The name and the path that were recorded with it say where to look first; on
another machine, or under another user, folders are searched for a file of that hash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pooch

from kit import registry

__all__ = ["WEIGHTS_VARIABLE", "candidates", "identified", "looked_in", "weights_folders", "with_relative"]

WEIGHTS_VARIABLE = "KIT_WEIGHTS"
"""Environment variable with folders of weights, separated as in ``PATH``."""
_SUFFIXES = (".safetensors", ".ckpt")
_TOGETHER = "+"
"""Between the names of files that are weights together."""


def with_relative(base: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Add where weights lie as seen from a checkpoint's folder, if they lie anywhere.

    Args:
        base: ``name``, ``file`` and ``sha256`` of weights.
        folder: of the checkpoint that names them.
    """
    path = Path(str(base["name"]))
    if not path.exists():
        return dict(base)
    return {**base, "relative": os.path.relpath(path.absolute(), folder.absolute())}


def candidates(recorded: Mapping[str, Any], folder: Path, *, fixed: Collection[str] = ()) -> Iterator[Path]:
    """Places where weights may be, the likeliest first; the caller compares their SHA-256.

    Args:
        recorded: ``name``, ``file``, ``sha256`` and perhaps ``relative`` and ``size``, as ``kit.json`` has them.
        folder: of the checkpoint that recorded them.
        fixed: names of files that mean something only under their names, beside others.

    Yields:
        Paths that exist: of the name, where that is one; of the same place beside the checkpoint; then files of that
        hash in the folders of ``KIT_WEIGHTS`` and in the cache, or their folder where the weights are several files.
    """
    for path in _named(recorded, folder):
        if path.exists():
            yield path
    yield from _of_hash(recorded, fixed)


def _named(recorded: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    # A registry entry is fetched by its name, and is not looked for on the disk.
    if recorded["name"] not in registry.entries():
        yield Path(str(recorded["name"]))
    if "relative" in recorded:
        yield folder / str(recorded["relative"])


def _of_hash(recorded: Mapping[str, Any], fixed: Collection[str]) -> Iterator[Path]:
    """Files of the recorded hash; only those of the recorded size, or else the recorded name, are hashed."""
    names = str(recorded["file"]).split(_TOGETHER)
    renamed = len(names) == 1 and names[0] not in fixed and "size" in recorded
    for place in (*weights_folders(), registry.cache_dir() / "files"):
        for file in _files(place):
            if not renamed and file.name != names[0]:
                continue
            group = [file] if renamed else [file.with_name(name) for name in names]
            if _sized(group, recorded) and _digest(group) == recorded["sha256"]:
                yield file if len(group) == 1 else file.parent


def _files(place: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(place):
        folders.sort()
        yield from (Path(root) / name for name in sorted(names) if name.endswith(_SUFFIXES))


def _sized(files: Sequence[Path], recorded: Mapping[str, Any]) -> bool:
    """Whether files are there, of the size that was recorded, if one was."""
    try:
        size = sum(file.stat().st_size for file in files)
    except OSError:
        return False
    return bool(size == recorded.get("size", size))


def weights_folders() -> list[Path]:
    """The folders of ``KIT_WEIGHTS``."""
    return [Path(part).expanduser() for part in os.environ.get(WEIGHTS_VARIABLE, "").split(os.pathsep) if part]


def looked_in() -> str:
    """Say where files were looked for by their hash, and which of these folders are none."""
    folders = weights_folders()
    told = [f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders]
    named = f"{WEIGHTS_VARIABLE} ({', '.join(told)})" if folders else f"{WEIGHTS_VARIABLE} (not set)"
    return f"{named} and the cache {registry.cache_dir() / 'files'}"


def identified(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """What identifies weights: their name, and the files' own names, size and SHA-256.

    Of several files it is the SHA-256 of their digests one after the other.
    """
    size = sum(file.stat().st_size for file in files)
    return {"name": name, "file": _TOGETHER.join(file.name for file in files), "size": size, "sha256": _digest(files)}


def _digest(files: Sequence[Path]) -> str:
    digests = [pooch.file_hash(str(file)) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
