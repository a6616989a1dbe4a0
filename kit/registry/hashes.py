"""Hashes of files, and what is said when a file has another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kit.registry.entry import Entry

__all__ = ["mismatch", "of_file"]

_BLOCK = 1 << 20


def of_file(path: Path) -> tuple[str, str, int]:
    """Read a file once.

    Returns:
        SHA-256, git object id (SHA-1 of ``blob SIZE``, a zero byte, and the bytes), size in bytes.
    """
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha256.update(block)
            blob.update(block)
    return sha256.hexdigest(), blob.hexdigest(), size


def mismatch(entry: Entry, path: Path) -> tuple[str, str] | None:
    """Compare a file with its entry.

    Returns:
        What was found and what was expected, or None if the file is the one that the entry describes.
    """
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        return f"size is {size} bytes", f"{entry.size}"
    sha256, git_blob, _ = of_file(path)
    if entry.sha256 is not None and sha256 != entry.sha256:
        return f"SHA-256 is {sha256}", entry.sha256
    if entry.git_blob is not None and git_blob != entry.git_blob:
        return f"git object id is {git_blob}", entry.git_blob
    return None
