"""Hashes for entries that have none: what is there now, recorded in the user's own list, for every later use."""

import json
import re
from dataclasses import dataclass
from typing import Any

from kit.io.atomic import write_atomically
from kit.io.documents import DocumentError, parse_toml, read_text
from kit.io.errors import RegistryError
from kit.io.hashes import sha256_of_file, sha256_of_text
from kit.io.progress import ProgressCallback, current
from kit.io.retry import Limits, SourceError
from kit.registry import catalogue, hub
from kit.registry.entry import HUB, Entry, HubFile, cache_dir, place, shown, user_registry
from kit.registry.fetching import check_fetchable, fetch_into, locked, offline
from kit.registry.partial_download import PartialDownload


@dataclass(frozen=True)
class Pin:
    """Hash of an entry, and its origin.

    Attributes:
        name: Name of the entry.
        sha256: SHA-256 of the file, if that is known.
        git_blob: Git object id of the file, if that is known.
        size: Length in bytes, if that is known.
        source: Origin of the hash, for people.
        new: Whether it was recorded just now.
    """

    name: str
    sha256: str | None
    git_blob: str | None
    size: int | None
    source: str
    new: bool = True


def pin(name: str, *, watch: ProgressCallback | None = None, limits: Limits | None = None) -> Pin:
    """Record the hash of an entry that has none, in the user's own registry.

    A hub is asked for its own record of the file; of other files the bytes are fetched, hashed, and kept.

    Args:
        name: Name of the entry.
        watch: Receiver of the download's progress; by default the one in force.
        limits: Patience with the servers.

    Returns:
        The hash; not new if the entry had one, which is then left as it is.

    Raises:
        RegistryError: the name is unknown, no source answers, or the user's registry cannot be written.
    """
    entry = catalogue.find(name)
    check_fetchable([entry])
    if entry.hash is not None:
        return Pin(name, entry.sha256, entry.git_blob, entry.size, "the registry", new=False)
    if offline():
        msg = f"{name}: its hash has to be asked for, and KIT_OFFLINE is set"
        raise RegistryError(msg)
    watch, limits = watch or current(), limits or Limits()
    # A hub's record of a file of gigabytes comes with the headers; anything else has to be downloaded to be hashed.
    found = _from_hub(entry, watch, limits)
    if found is None:
        return _from_bytes(entry, watch, limits)
    _record(found, watch)
    return found


def _from_hub(entry: Entry, watch: ProgressCallback, limits: Limits) -> Pin | None:
    """Take a hub's own record; None if no hub has one.

    Raises:
        RegistryError: the hub does not have the file, and nobody else could; or it has one of another size.
    """
    failures: list[str] = []
    for url in entry.urls:
        if hub.offline() or not url.startswith(f"{HUB}:"):
            continue
        try:
            facts = hub.facts(HubFile.of(url), limits, watch)
        except SourceError as error:
            failures.append(f"{url}: {error}")
            continue
        if entry.size is not None and facts.size not in (None, entry.size):
            msg = f"{entry.name}: the hub says {facts.size} bytes, the registry {entry.size}; nothing was recorded"
            raise RegistryError(msg)
        size = facts.size or entry.size
        # An entry with a SHA-256 must have a size.
        if facts.git_blob is not None or (facts.sha256 is not None and size is not None):
            return Pin(entry.name, facts.sha256, facts.git_blob, size, f"the hub's own record of {url}")
    if failures and len(failures) == len(entry.urls):
        msg = f"{entry.name}: no hash was recorded:\n  " + "\n  ".join(failures)
        raise RegistryError(msg)
    return None


def _from_bytes(entry: Entry, watch: ProgressCallback, limits: Limits) -> Pin:
    """Fetch the file, hash it, record that, and keep the file under its hash."""
    # Its place in the cache is named by the hash that is not known yet: until then, by the address.
    waiting = cache_dir() / "files" / f"unpinned-{sha256_of_text(entry.urls[0])[:12]}" / entry.file
    with locked(waiting, watch, entry.name):
        part = PartialDownload(waiting)
        fetch_into(part, entry, waiting, watch, limits)
        source = f"the bytes that came from {shown(entry.urls[0])}" if len(entry.urls) == 1 else "the bytes that came"
        found = Pin(entry.name, sha256_of_file(part.path), None, part.length, source)
        # Recorded before the file moves: a file under a hash that no list knows would never be used.
        _record(found, watch)
        path = place(catalogue.find(entry.name))
        assert path is not None
        with locked(path, watch, entry.name):
            part.publish(path)
    return found


def _record(found: Pin, watch: ProgressCallback) -> None:
    """Add a hash to the user's list; the rest of the file stays as it is.

    Raises:
        RegistryError: the list is not TOML, or cannot be written.
    """
    path = user_registry()
    with locked(path, watch, str(path)):
        tables: dict[str, Any] = {}
        # The file keeps its permissions: addresses in it may be somebody's secret.
        text, mode = "", 0o644
        if path.exists():
            tables, text, mode = catalogue.read_tables(path), read_text(path), path.stat().st_mode & 0o777
        there = tables.get(found.name, {})
        values = {key: value for key in catalogue.PIN_FIELDS if (value := getattr(found, key)) is not None}
        changed = {**tables, found.name: {**values, **there}}
        added = {key: value for key, value in values.items() if key not in there}
        text = _with_pin(text, found.name, added)
        try:
            fits = parse_toml(text) == changed
        except DocumentError:
            fits = False
        if not fits:
            # The file writes its tables in a way that lines cannot be added to: written anew, without its comments.
            import tomli_w

            text = tomli_w.dumps(changed)
        try:
            write_atomically(path, text, mode)
        except OSError as error:
            msg = f"{path} cannot be written: {error.strerror or error}; set KIT_REGISTRY to a file that can"
            raise RegistryError(msg) from error


def _with_pin(text: str, name: str, values: dict[str, Any]) -> str:
    """Add lines to a table, or a table to a text; the comments stay."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    spelling = re.escape(name)
    # Without quotes, a dot would part the names of two nested tables.
    spellings = f'"{spelling}"' if "." in name else f'"{spelling}"|{spelling}'
    header = re.search(rf"^\[(?:{spellings})\][^\n]*(?:\n|\Z)", text, flags=re.MULTILINE)
    if header is not None:
        above, below = text[: header.end()].removesuffix("\n"), text[header.end() :]
        return f"{above}\n{lines}{below}"
    if text:
        text = text.removesuffix("\n") + "\n\n"
    return f"{text}[{json.dumps(name)}]\n{lines}"
