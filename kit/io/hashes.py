"""SHA-256 of files, texts and bytes, and git's object ids; the only module that hashes."""

import hashlib
import time
from pathlib import Path
from typing import Literal, Protocol

from kit.io import progress

_BLOCK = 1 << 20
"""Bytes that are read at once: files of weights are larger than some hosts' memory."""
_LARGE = 1 << 28
"""Bytes from which on a process remembers a file's hash, 256 MiB: smaller ones are hashed in less than 0.2 s."""
_SLOW = 1 << 30
"""Bytes from which on a person is told that a file is read, 1 GiB."""
_SAY_EVERY = 10.0
"""Seconds between words on a file that takes long to read."""
_remembered: dict[tuple[int, ...], str] = {}


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


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does, or another takes its place: inode, size, time of change (ns), device.

    Raises:
        OSError: there is no such file.
    """
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_dev


def remembered_sha256(path: Path, *, quiet: bool = False) -> str:
    """Hash a file; of a large one the hash is remembered while its stamp stays, for the life of the process.

    Args:
        path: File to read.
        quiet: Whether to say nothing while a very large one is read.

    Raises:
        OSError: the file cannot be read.
    """
    stamp = file_stamp(path)
    if stamp in _remembered:
        return _remembered[stamp]
    size = stamp[1]
    state, done, said = hashlib.sha256(), 0, time.monotonic()
    told = None if quiet or size < _SLOW else progress.current()
    if told is not None:
        told.said(f"verifying {path} ({size / 2**30:.1f} GiB)")
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
            done += len(block)
            if told is not None and time.monotonic() - said >= _SAY_EVERY:
                said = time.monotonic()
                told.said(f"verifying {path}: {done / size:.0%}")
    found = state.hexdigest()
    # What was written to meanwhile has another stamp, and is not remembered under the old one.
    if size >= _LARGE and file_stamp(path) == stamp:
        _remembered[stamp] = found
    return found


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
