"""Results that are whole or absent: written beside their place, then moved there."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import SettingsError

__all__ = ["published", "refuse_existing", "sync", "write_atomically"]

_REMOVALS = 40


def refuse_existing(out: Path, setting: str = "--out") -> None:
    """Check that a place is free, before any work is done for it.

    Raises:
        SettingsError: something is there.
    """
    if out.exists() or out.is_symlink():
        msg = f"{out}: exists already; choose another place with {setting}, or remove it first"
        raise SettingsError(msg)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A place beside ``out`` that becomes ``out`` if the body succeeds, and vanishes if it does not.

    A process that is killed leaves what it had under a hidden name that ends in ``.part``.

    Args:
        out: a file or a folder; its parents are made.

    Raises:
        SettingsError: something is at ``out``, before the body or after it.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}.part"
    try:
        yield part
        if part.is_file():
            sync(part)
        refuse_existing(out)
        part.rename(out)
    except BaseException:
        _remove(part)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a file beside its place and move it there, so that it is whole or absent; what is there is replaced."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(file: Path) -> None:
    """Have the disk hold a file before its name says that it is whole."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(part: Path) -> None:
    """Delete a file, or a folder into which threads may still be finishing what they had begun."""
    part.unlink(missing_ok=True) if part.is_file() else None
    for _ in range(_REMOVALS):
        if not part.exists():
            return
        shutil.rmtree(part, ignore_errors=True)
        time.sleep(0.05)
