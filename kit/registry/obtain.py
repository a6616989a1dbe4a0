"""From a name to a file whose bytes have just been verified."""

from __future__ import annotations

from pathlib import Path

from kit.errors import RegistryError
from kit.registry import catalogue, hashes
from kit.registry.entry import EMBEDDED, Entry, shown
from kit.registry.places import place

__all__ = ["fetch"]


def fetch(name: str) -> Path:
    """Return the path of a registry file whose bytes have just been verified.

    Args:
        name: the entry's name.

    Raises:
        RegistryError: the name is unknown, the file is absent and cannot be fetched, or its size or its
            SHA-256 is not the registry's.
    """
    entry = catalogue.find(name)
    path = place(entry)
    if path is None:
        msg = f"{name}: has no hash, so its bytes could not be told from others; record it first: kit data pin {name}"
        raise RegistryError(msg)
    if not path.is_file():
        raise RegistryError(_absent(entry, path))
    _verify(entry, path)
    return path


def _absent(entry: Entry, path: Path) -> str:
    if entry.scheme == EMBEDDED:
        return f"{entry.name}: the package's own file {path} is missing; install the kit again"
    return (
        f"{entry.name}: fetching over {entry.scheme} is not supported yet. Download {shown(entry.urls[0])} by hand "
        f"({entry.size} bytes, SHA-256 {entry.sha256}) and put it at {path}"
    )


def _verify(entry: Entry, path: Path) -> None:
    if (different := hashes.mismatch(entry, path)) is None:
        return
    found, expected = different
    mend = "install the kit again" if entry.scheme == EMBEDDED else "delete the file and download it again"
    msg = (
        f"{entry.name}: {found}, {catalogue.REGISTRY_PATH} says {expected}. {path} was not used: it is damaged or was "
        f"changed; {mend}, or if the change is meant, update the entry"
    )
    raise RegistryError(msg)
