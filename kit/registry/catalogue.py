"""The registry's list of files: the package's own, with the user's laid over it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kit.config.suggestions import near_names
from kit.io.documents import DocumentError, read_toml
from kit.io.errors import RegistryError
from kit.registry.entry import EMBEDDED, Entry, user_registry

REGISTRY_PATH = Path(__file__).parents[1] / "data-registry.toml"
"""File of the package's list."""
PIN_FIELDS = ("sha256", "git_blob", "size")
"""Fields that a user's list may add to an entry of the package that has no hash."""


def entries() -> dict[str, Entry]:
    """Read the registry: the package's list, then the user's entries and pins.

    Returns:
        The entries by name, in the order of the files.

    Raises:
        RegistryError: a list cannot be read or is not TOML, an entry does not fit the schema, or the user's list
            contradicts the package's; names file, entry and field.
    """
    known = {name: _entry(REGISTRY_PATH, name, table) for name, table in read_tables(REGISTRY_PATH).items()}
    own = user_registry()
    # Without a file there are no own entries; `kit data pin` makes it.
    if own.exists():
        for name, table in read_tables(own).items():
            known[name] = _pinned(own, known[name], table) if name in known else _own(own, name, table)
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
    near = near_names(name, names)
    nearest = f"the nearest are {', '.join(near)}; " if near else ""
    # A list of one's own that is named and not there would explain why a name is missing.
    msg = f"the registry has no {name!r}; {nearest}all: kit data list"
    if os.environ.get("KIT_REGISTRY") and not user_registry().exists():
        msg += f". KIT_REGISTRY names {user_registry()}, which is not there"
    raise RegistryError(msg)


def chosen(names: Sequence[str]) -> list[Entry]:
    """Find entries by their own names or by their data sets' names; each once.

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
        return read_toml(path)
    except DocumentError as error:
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
        faults: list[str] = []
        for fault in error.errors():
            # pydantic puts the form that it tried of a union behind the field, such as ``tuple[...]``.
            fields = [part for part in fault["loc"] if isinstance(part, str) and "[" not in part] or ["entry"]
            # A list of addresses is the other form of url: that one address is none is no fault of it.
            if fault["type"] == "tuple_type" and isinstance(values.get(fields[0]), str):
                continue
            faults.append(f"{fields[0]}: {fault['msg'].removeprefix('Value error, ')}")
        msg = f"{path}: entry [{name}] does not fit the schema: {'; '.join(dict.fromkeys(faults))}"
        raise RegistryError(msg) from error


def _own(path: Path, name: str, table: object) -> Entry:
    # A pin of an entry that a later version of the kit has dropped or renamed.
    if isinstance(table, Mapping) and table and set(table) <= set(PIN_FIELDS):
        msg = f"{path}: pins [{name}], but the registry has no such entry; remove that table from the file"
        raise RegistryError(msg)
    entry = _entry(path, name, table)
    if entry.scheme == EMBEDDED:
        msg = f"{path}: entry [{name}]: embedded files are the package's own; give the file's address"
        raise RegistryError(msg)
    return entry


def _pinned(path: Path, entry: Entry, table: object) -> Entry:
    """Add the user's pin to an entry of the package."""
    values = table if isinstance(table, Mapping) else {"": table}
    strange = sorted(set(values) - set(PIN_FIELDS))
    if strange:
        msg = (
            f"{path}: [{entry.name}] is an entry of the kit; expected only {', '.join(PIN_FIELDS)} there, got "
            f"{', '.join(strange)}. Give an entry of your own another name"
        )
        raise RegistryError(msg)
    # A pin that contradicts the kit's hash, as of a version before it had one, is an error: one of the two is wrong.
    packaged = entry.model_dump(include=set(PIN_FIELDS), exclude_none=True)
    contradicted = [key for key in values if key in packaged and packaged[key] != values[key]]
    # An entry that has a hash takes nothing more: a pin of another kind could not be held against it.
    if contradicted or (entry.hash is not None and not values.keys() <= packaged.keys()):
        theirs = ", ".join(f"{key} {values[key]}" for key in contradicted or values)
        ours = ", ".join(f"{key} {packaged[key]}" for key in PIN_FIELDS if key in packaged)
        msg = (
            f"{path}: [{entry.name}] says {theirs}, but the kit's own list says {ours}, and the kit's holds; remove "
            f"that table from the file"
        )
        raise RegistryError(msg)
    return _entry(path, entry.name, {**entry.model_dump(), **values})
