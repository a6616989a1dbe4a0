"""The list of files: the package's own, with the user's laid over it."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kit.io.errors import RegistryError
from kit.registry.entry import EMBEDDED, Entry
from kit.registry.paths import user_registry

__all__ = ["PIN_FIELDS", "REGISTRY_PATH", "chosen", "dataset", "entries", "find", "read_tables"]

REGISTRY_PATH = Path(__file__).parents[1] / "data-registry.toml"
"""The package's list."""
PIN_FIELDS = ("sha256", "git_blob", "size")
"""What a user's list may add to an entry of the package that has no hash."""


def entries() -> dict[str, Entry]:
    """Read the registry: the package's list, then the user's entries and pins.

    Returns:
        The entries by name, in the order of the files.

    Raises:
        RegistryError: a list cannot be read or is not TOML, an entry does not fit the schema, or the user's list
            contradicts the package's; names file, entry and field.
    """
    known = {name: _entry(REGISTRY_PATH, name, table) for name, table in read_tables(REGISTRY_PATH).items()}
    mine = user_registry()
    # Without a file there are no own entries; `kit data pin` makes it.
    for name, table in (read_tables(mine) if mine.exists() else {}).items():
        known[name] = _laid_over(mine, known[name], table) if name in known else _own(mine, name, table)
    return known


def find(name: str) -> Entry:
    """Return one entry.

    Raises:
        RegistryError: the name is unknown; names the nearest.
    """
    known = entries()
    if name in known:
        return known[name]
    names = {*known, *(entry.dataset for entry in known.values() if entry.dataset)}
    near = difflib.get_close_matches(name, names, n=3)
    nearest = f"the nearest are {', '.join(near)}; " if near else ""
    msg = f"the registry has no {name!r}; {nearest}all: kit data list"
    if os.environ.get("KIT_REGISTRY") and not user_registry().exists():
        msg += f". KIT_REGISTRY names {user_registry()}, which is not there"
    raise RegistryError(msg)


def chosen(names: Sequence[str]) -> list[Entry]:
    """Return the entries that are named, by themselves or by their data set; each once.

    Raises:
        RegistryError: a name is neither an entry's nor a data set's; names the nearest.
    """
    found = [entry for name in names for entry in dataset(name) or [find(name)]]
    return list(dict.fromkeys(found))


def dataset(name: str) -> list[Entry]:
    """Return all entries of a data set, in the order of the registry; none if there is no such set."""
    return [entry for entry in entries().values() if entry.dataset == name]


def read_tables(path: Path) -> dict[str, Any]:
    """Read a list's tables.

    Raises:
        RegistryError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not valid TOML: {error}"
        raise RegistryError(msg) from error
    except OSError as error:
        msg = f"{path}: the registry cannot be read: {error.strerror}"
        raise RegistryError(msg) from error


def _entry(path: Path, name: str, table: object) -> Entry:
    values = table if isinstance(table, dict) else {"": table}
    try:
        return Entry.model_validate({"name": name, **values})
    except ValidationError as error:
        # A list of addresses is the other form of url: that one address is none is no fault of it.
        told = [fault for fault in error.errors() if not (fault["type"] == "tuple_type" and _is_text(values, fault))]
        faults = {f"{_where(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}": None for fault in told}
        msg = f"{path}: entry [{name}] does not fit the schema: {'; '.join(faults)}"
        raise RegistryError(msg) from error


def _is_text(values: Mapping[str, object], fault: ErrorDetails) -> bool:
    return isinstance(values.get(str(fault["loc"][0])), str)


def _where(place: tuple[int | str, ...]) -> str:
    known = [str(part) for part in place if isinstance(part, str) and "[" not in part]
    return known[0] if known else "entry"


def _own(path: Path, name: str, table: object) -> Entry:
    """Read an entry that only the user's list has."""
    if isinstance(table, Mapping) and table and set(table) <= set(PIN_FIELDS):
        msg = f"{path}: pins [{name}], but the registry has no such entry; remove that table from the file"
        raise RegistryError(msg)
    entry = _entry(path, name, table)
    if entry.scheme == EMBEDDED:
        msg = f"{path}: entry [{name}]: embedded files are the package's own; give the file's address"
        raise RegistryError(msg)
    return entry


def _laid_over(path: Path, entry: Entry, table: object) -> Entry:
    """Add the user's pin to an entry of the package."""
    values = table if isinstance(table, Mapping) else {"": table}
    strange = sorted(set(values) - set(PIN_FIELDS))
    if strange:
        msg = (
            f"{path}: [{entry.name}] is an entry of the kit; expected only {', '.join(PIN_FIELDS)} there, got "
            f"{', '.join(strange)}. Give an entry of your own another name"
        )
        raise RegistryError(msg)
    packaged = entry.model_dump()
    contradicted = [key for key, value in values.items() if packaged[key] is not None and packaged[key] != value]
    if contradicted or (entry.hash is not None and not set(values) <= {k for k in PIN_FIELDS if packaged[k]}):
        said = ", ".join(f"{key} {values[key]}" for key in contradicted or values)
        ours = ", ".join(f"{key} {packaged[key]}" for key in PIN_FIELDS if packaged[key] is not None)
        msg = (
            f"{path}: [{entry.name}] says {said}, but the kit's own list says {ours}, and the kit's holds; remove "
            f"that table from the file"
        )
        raise RegistryError(msg)
    return _entry(path, entry.name, {**{k: v for k, v in packaged.items() if k != "name"}, **values})
