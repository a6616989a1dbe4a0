"""One archive of a folder, with the same bytes whoever packs it and whenever."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

__all__ = ["pack"]

_BLOCK = 2**20


def pack(folder: Path, file: Path, name: str) -> str:
    """Write a tar file of a folder: names in order, without times, owners and rights.

    Args:
        folder: what is packed.
        file: what is written.
        name: of the folder inside the archive.

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
    return _digest(file)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
