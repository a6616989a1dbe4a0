"""Paths of the registry's files on this machine."""

import os
from pathlib import Path
from typing import Any

from kit.registry.entry import EMBEDDED, Entry

RESOURCES = Path(__file__).parents[1] / "resources"
"""Folder of the files of the embedded scheme."""


def cache_dir() -> Path:
    """Return the folder for fetched files and built stores: ``KIT_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("KIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    # pooch knows each system's place for caches.
    import pooch

    return Path(pooch.os_cache("aurora-finetune-kit"))


def user_registry() -> Path:
    """Return the file of the user's own entries and pins: ``KIT_REGISTRY``, else in the cache."""
    chosen = os.environ.get("KIT_REGISTRY")
    return Path(chosen).expanduser() if chosen else cache_dir() / "registry.toml"


def place(entry: Entry) -> Path | None:
    """Return the path that an entry's file has, or would have; None if it has no hash by which to know it."""
    if entry.scheme == EMBEDDED:
        return RESOURCES / entry.file
    # The hash is part of the path: files of one name, from two versions of an entry, do not replace each other.
    return None if entry.hash is None else cache_dir() / "files" / entry.hash[:12] / entry.file


def state(entry: Entry) -> dict[str, Any]:
    """Describe an entry for people and machines.

    Returns:
        Its fields, its ``scheme``, whether it is ``pinned`` by a hash, whether its file is here (``cached``; its bytes
        are not looked at), and whether it is ever ``fetched`` rather than read where it is.
    """
    path = place(entry)
    return {
        **entry.model_dump(),
        "scheme": entry.scheme,
        "pinned": entry.hash is not None,
        "cached": path is not None and path.is_file(),
        "fetched": entry.is_fetched,
    }
