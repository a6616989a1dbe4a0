"""Artifacts in a store on this machine: hard links, so that a checkpoint takes its room once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["link_into", "local_folder"]


def local_folder(uri: str) -> Path | None:
    """Return the folder of a run's artifacts, or ``None`` where they are not on this machine."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    return Path(url2pathname(parts.path))


def link_into(source: Path, target: Path) -> None:
    """Make the files of a folder appear in another one, without taking room twice.

    A hard link stays whole when the run folder is deleted, and costs nothing; between two disks, or where a disk has
    no such links, files are copied. A checkpoint's files are never written to again: a new one has new files.

    Args:
        source: a file or a folder.
        target: the folder that is to hold it, or its contents.

    Raises:
        OSError: the disk is full, or refuses.
    """
    files = [file for file in sorted(source.rglob("*")) if file.is_file()] if source.is_dir() else [source]
    base = source if source.is_dir() else source.parent
    for file in files:
        place = target / file.relative_to(base)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.part")
        part.unlink(missing_ok=True)
        try:
            try:
                os.link(file, part)
            except OSError:
                shutil.copyfile(file, part)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)  # renaming a link onto another one of the same file leaves both
