"""What ``--path`` of a build means: a path that exists, or a name in the registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.config.suggestions import near_names
from kit.data.sources.base import SourceLocation
from kit.io.errors import StoreError

if TYPE_CHECKING:
    from kit.registry import Entry

_READABLE = ("states", "source", "zarr")
"""Kinds of registry entries that hold fields; statistics and weights of a data set are not read."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_FETCHED = ("cds", "hrrr")
"""Sources that find out themselves what a path means."""


@dataclass(frozen=True)
class SourceOrigin:
    """Files and folders to read, and what the registry knows of them."""

    paths: tuple[SourceLocation, ...]
    licence: str = ""
    product: str | None = None
    """Product that the registry states, of ``kit.data.products``."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """For the store: ``registry``, the name, and ``registry_files``, the entries with their hashes."""


def locate(path: str, source: str) -> SourceOrigin:
    """Find what ``--path`` means: a path that exists, else a data set or an entry of the registry.

    The files of the registry are fetched where they are not in the cache, and verified.

    Args:
        path: Path or name as it was given.
        source: Kind of the data, for messages.

    Raises:
        StoreError: It is neither, or the name's files hold no fields.
        RegistryError: A file cannot be fetched, has no hash, or is not the one that the registry describes.
    """
    if source in _FETCHED or (source == "zarr" and _ADDRESS.match(path)):
        return SourceOrigin((path,))
    if Path(path).exists():
        return SourceOrigin((Path(path),))
    # Imported here: of all builds, only those by name need the registry.
    from kit import registry

    known = registry.entries()
    # Names of data sets come before those of single files.
    entries = registry.dataset(path)
    if not entries and path in known:
        entries = [known[path]]
    if not entries:
        raise StoreError(_unknown(path, source, known))
    readable = [entry for entry in entries if entry.kind in _READABLE]
    if not readable:
        kinds = ", ".join(sorted({entry.kind for entry in entries}))
        msg = f"{path}: the registry's files of this name hold {kinds}; a store is built from states"
        raise StoreError(msg)
    if source != "zarr" and any(entry.kind == "zarr" for entry in readable):
        msg = f"{path}: is a Zarr store, which is read where it is: --source zarr --path {path}"
        raise StoreError(msg)
    paths: list[SourceLocation] = []
    files: list[dict[str, Any]] = []
    attributes: dict[str, Any] = {"registry": path, "registry_files": files}
    for entry in readable:
        # Of a Zarr store only the chunks that are needed are read, each from where it is.
        if entry.kind == "zarr":
            paths.append(entry.urls[0])
        else:
            paths.append(registry.fetch(entry.name))
        facts = {"name": entry.name, "file": entry.file}
        # Fetching may just have recorded a hash.
        described = registry.entries()[entry.name]
        if described.sha256:
            facts["sha256"] = described.sha256
        if described.git_blob:
            facts["git_blob"] = described.git_blob
        files.append(facts)
        if entry.synthetic:
            attributes["synthetic"] = True
    licence = "; ".join(dict.fromkeys(entry.licence for entry in readable))
    # Of several products none can be stated.
    products = {entry.product for entry in readable}
    product = products.pop() if len(products) == 1 else None
    return SourceOrigin(tuple(paths), licence, product, attributes)


def _unknown(name: str, source: str, known: Mapping[str, Entry]) -> str:
    if len(Path(name).parts) > 1:
        return f"{name}: no such file or folder; --path names the {source} data, or a data set of the registry"
    readable = [entry for entry in known.values() if entry.kind in _READABLE]
    datasets = dict.fromkeys(entry.dataset or entry.name for entry in readable)
    near = near_names(name, datasets | dict.fromkeys(entry.name for entry in readable)) or list(datasets)
    return (
        f"{name}: no such file or folder, and no data set of the registry; --path names the {source} data. The "
        f"nearest data sets are {', '.join(near)} (all: kit data list)"
    )
