"""Hashes of files, and what is told when a file has another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from kit.registry.entry import Entry

__all__ = ["digest", "mismatch"]

_BLOCK = 1 << 20


def digest(path: Path, kind: Literal["sha256", "git_blob"]) -> str:
    """Hash a file.

    Args:
        path: the file.
        kind: SHA-256, or git's object id, which is the SHA-1 of ``blob SIZE``, a zero byte, and the bytes.
    """
    header = b"blob %d\0" % path.stat().st_size
    state = hashlib.sha256() if kind == "sha256" else hashlib.sha1(header, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def mismatch(entry: Entry, path: Path) -> tuple[str, str] | None:
    """Compare a file with all that its entry says of it.

    Returns:
        What was found and what was expected, or None if the file is the one that the entry describes.
    """
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        return f"size is {size} bytes", f"{entry.size}"
    if entry.sha256 is not None and (found := digest(path, "sha256")) != entry.sha256:
        return f"SHA-256 is {found}", entry.sha256
    if entry.git_blob is not None and (found := digest(path, "git_blob")) != entry.git_blob:
        return f"git object id is {found}", entry.git_blob
    return None
