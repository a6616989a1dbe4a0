"""Every file that the kit may use: where it comes from, what it holds, and the hash that it must have.

The list is ``data-registry.toml``, a package resource, so that an installed kit needs no checkout. A file is
verified each time it is used, not only when it arrives.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from kit.errors import RegistryError

__all__ = ["REGISTRY_PATH", "Entry", "cache_dir", "entries", "fetch"]

REGISTRY_PATH = Path(__file__).parent / "data-registry.toml"
"""The list itself."""
RESOURCES = Path(__file__).parent / "resources"
"""Where files of the embedded scheme lie."""
_EMBEDDED = "embedded"
_NETWORK = ("http", "https")


class Entry(BaseModel):
    """One file of the registry."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """The table's name: what ``data.store``, ``model.weights`` and ``fetch`` call it."""
    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """The file's own name, without a folder."""
    url: str = Field(pattern=r"^[a-z]+:.+$")
    """Where it comes from: ``embedded:FILE`` is a package resource; otherwise an address."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file's bytes."""
    size: PositiveInt
    """Length in bytes."""
    licence: str = Field(min_length=1)
    """Licence of the contents, and whom to credit."""
    kind: Literal["states", "weights", "source", "statistics"]
    """``states`` can be built into a store by itself, ``source`` is one file among several of a data set,
    ``weights`` are a model's, ``statistics`` are numbers about a data set."""
    dataset: str | None = None
    """The set that the file belongs to, where there are several."""
    description: str = Field(min_length=1)
    """What it holds."""
    synthetic: bool = False
    """True if a model made it rather than an observing system or a reanalysis."""

    @property
    def scheme(self) -> str:
        """The part of ``url`` before the colon: how the file is had."""
        return self.url.partition(":")[0]

    @model_validator(mode="after")
    def _embedded_names_its_file(self) -> Self:
        if self.scheme == _EMBEDDED and self.url != f"{_EMBEDDED}:{self.file}":
            msg = f"url of an embedded file is {_EMBEDDED}:{self.file}, got {self.url!r}"
            raise ValueError(msg)
        return self


def entries() -> dict[str, Entry]:
    """Read the registry.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        RegistryError: the registry is not TOML, or an entry does not fit the schema; names entry and field.
    """
    try:
        tables = tomllib.loads(REGISTRY_PATH.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        msg = f"{REGISTRY_PATH}: not valid TOML: {error}"
        raise RegistryError(msg) from error
    return {name: _entry(name, table) for name, table in tables.items()}


def fetch(name: str) -> Path:
    """Return the path of a registry file whose bytes have just been verified.

    Args:
        name: the entry's name.

    Raises:
        RegistryError: the name is unknown, the file is absent and cannot be fetched, or its size or its
            SHA-256 is not the registry's.
    """
    known = entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        msg = f"the registry has no {name!r}; the nearest are {', '.join(near)} (all: kit data list)"
        raise RegistryError(msg)
    entry = known[name]
    path = _place(entry)
    if not path.is_file():
        raise RegistryError(_absent(entry, path))
    _verify(entry, path)
    return path


def cache_dir() -> Path:
    """Return the folder for fetched files and built stores: ``KIT_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("KIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("aurora-finetune-kit"))


def _entry(name: str, table: object) -> Entry:
    values = table if isinstance(table, dict) else {"": table}
    try:
        return Entry.model_validate({"name": name, **values})
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        msg = f"{REGISTRY_PATH}: entry [{name}] does not fit the schema: {faults}"
        raise RegistryError(msg) from error


def _place(entry: Entry) -> Path:
    """Say where the file lies, or would lie."""
    if entry.scheme == _EMBEDDED:
        return RESOURCES / entry.file
    if entry.scheme in _NETWORK:
        return cache_dir() / "files" / entry.sha256[:12] / entry.file
    msg = (
        f"{entry.name}: the scheme of {entry.url!r} is unknown; expected one of {', '.join((_EMBEDDED, *_NETWORK))} "
        f"(in {REGISTRY_PATH})"
    )
    raise RegistryError(msg)


def _absent(entry: Entry, path: Path) -> str:
    if entry.scheme == _EMBEDDED:
        return f"{entry.name}: the package's own file {path} is missing; install the kit again"
    return (
        f"{entry.name}: fetching over {entry.scheme} is not supported yet. Download {entry.url} by hand "
        f"({entry.size} bytes, SHA-256 {entry.sha256}) and put it at {path}"
    )


def _verify(entry: Entry, path: Path) -> None:
    import pooch

    size = path.stat().st_size
    if size != entry.size:
        found, expected = f"size is {size} bytes", str(entry.size)
    elif (digest := pooch.file_hash(str(path), alg="sha256")) != entry.sha256:
        found, expected = f"SHA-256 is {digest}", entry.sha256
    else:
        return
    mend = "install the kit again" if entry.scheme == _EMBEDDED else "delete the file and download it again"
    msg = (
        f"{entry.name}: {found}, {REGISTRY_PATH} says {expected}. {path} was not used: it is damaged or was changed; "
        f"{mend}, or if the change is meant, update the entry"
    )
    raise RegistryError(msg)
