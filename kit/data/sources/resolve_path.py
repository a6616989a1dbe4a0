"""Where the data of a build lie: at a path, or in the registry, by name."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.sources.base import Place
from kit.io.errors import StoreError

if TYPE_CHECKING:
    from kit.registry import Entry

__all__ = ["Origin", "locate"]

_READABLE = ("states", "source", "zarr")
"""Kinds of registry entries that hold fields; statistics and weights of a data set are not read."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_FETCHED = ("cds", "hrrr")
"""Sources that find out themselves what a path means."""


@dataclass(frozen=True)
class Origin:
    """Files and folders to read, and what the registry knows of them."""

    paths: tuple[Place, ...]
    licence: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    """For the store: ``registry``, the name, and ``registry_files``, the entries with their hashes."""


def locate(path: str, source: str) -> Origin:
    """Find what ``--path`` means: a path that exists, else a data set or an entry of the registry.

    The files of the registry are fetched where they are not in the cache, and verified.

    Args:
        path: as it was given.
        source: kind of the data, for messages.

    Raises:
        StoreError: it is neither, or the name's files hold no fields.
        RegistryError: a file cannot be fetched, has no hash, or is not the one that the registry describes.
    """
    if source in _FETCHED or (source == "zarr" and _ADDRESS.match(path)):
        return Origin((path,))
    if Path(path).exists():
        return Origin((Path(path),))
    # Imported here: of all builds, only those by name need the registry.
    from kit import registry

    name, known = path, registry.entries()
    entries = registry.dataset(name) or ([known[name]] if name in known else [])
    if not entries:
        raise StoreError(_unknown(name, source, list(known.values())))
    readable = [entry for entry in entries if entry.kind in _READABLE]
    if not readable:
        kinds = ", ".join(sorted({entry.kind for entry in entries}))
        msg = f"{name}: the registry's files of this name hold {kinds}; a store is built from states"
        raise StoreError(msg)
    stores = [entry for entry in readable if entry.kind == "zarr"]
    if stores and source != "zarr":
        msg = f"{name}: is a Zarr store, which is read where it is: --source zarr --path {name}"
        raise StoreError(msg)
    return Origin(
        paths=tuple(entry.urls[0] if entry in stores else registry.fetch(entry.name) for entry in readable),
        licence="; ".join(dict.fromkeys(entry.licence for entry in readable)),
        attributes={
            "registry": name,
            "registry_files": [_facts(entry) for entry in readable],
            **({"synthetic": True} if any(entry.synthetic for entry in readable) else {}),
        },
    )


def _facts(entry: Entry) -> dict[str, Any]:
    hashes = {"sha256": entry.sha256, "git_blob": entry.git_blob}
    return {"name": entry.name, "file": entry.file, **{key: value for key, value in hashes.items() if value}}


def _unknown(name: str, source: str, entries: list[Entry]) -> str:
    readable = [entry for entry in entries if entry.kind in _READABLE]
    if len(Path(name).parts) > 1:
        return f"{name}: no such file or folder; --path names the {source} data, or a data set of the registry"
    sets = dict.fromkeys(entry.dataset or entry.name for entry in readable)
    names = [*sets, *(entry.name for entry in readable if entry.name not in sets)]
    near = difflib.get_close_matches(name, names, n=3) or list(sets)
    return (
        f"{name}: no such file or folder, and no data set of the registry; --path names the {source} data. The "
        f"nearest data sets are {', '.join(near)} (all: kit data list)"
    )
