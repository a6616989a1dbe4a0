"""SHA-256 of files, texts and bytes, and git's object ids; the only module that hashes."""

import hashlib
from pathlib import Path
from typing import Literal, Protocol

_BLOCK = 1 << 20
"""Bytes that are read at once: files of weights are larger than some hosts' memory."""


class Hasher(Protocol):
    """A hash that is fed piece by piece."""

    def update(self, data: bytes, /) -> None:
        """Append bytes."""

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far, as hexadecimal digits."""


def new_sha256(start: bytes = b"") -> Hasher:
    """Start a SHA-256 that is fed piece by piece."""
    return hashlib.sha256(start)


def sha256_of_bytes(data: bytes) -> str:
    """Hash bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_text(text: str) -> str:
    """Hash a text, encoded as UTF-8."""
    return sha256_of_bytes(text.encode())


def sha256_of_file(path: Path) -> str:
    """Hash a file, a block at a time.

    Raises:
        OSError: the file cannot be read.
    """
    return digest(path, "sha256")


def digest(path: Path, kind: Literal["sha256", "git_blob"]) -> str:
    """Hash a file, a block at a time.

    Args:
        path: File to read.
        kind: SHA-256, or git's object id, which is the SHA-1 of ``blob SIZE``, a zero byte, and the bytes.

    Returns:
        Hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    if kind == "sha256":
        state = hashlib.sha256()
    else:
        # No protection, only an identity: Python builds of FIPS systems refuse SHA-1 unless this is said.
        state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
