"""Hashes for entries that have none: what is there now, recorded in the user's own list, for every later use."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.io import hashes
from kit.io.errors import RegistryError
from kit.io.progress import ProgressCallback, current
from kit.io.retry import Limits, SourceError
from kit.registry import catalogue, hub
from kit.registry.entry import HUB, Entry, HubFile, shown
from kit.registry.fetching import arrive, locked, offline, refuse_stores, settle
from kit.registry.partial_download import PartialDownload
from kit.registry.paths import cache_dir, place, user_registry

__all__ = ["Pin", "pin"]


@dataclass(frozen=True)
class Pin:
    """An entry's hash, and where it is from.

    Attributes:
        name: of the entry.
        sha256: its SHA-256, if that is known.
        git_blob: its git object id, if that is known.
        size: bytes, if that is known.
        source: who says so.
        new: whether it was recorded just now.
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
        name: the entry's name.
        watch: is told how a download goes; by default the watch in force.
        limits: of the download's patience.

    Returns:
        The hash; not new if the entry had one, which is then left as it is.

    Raises:
        RegistryError: the name is unknown, no source answers, or the user's registry cannot be written.
    """
    entry = catalogue.find(name)
    refuse_stores([entry])
    if entry.hash is not None:
        return Pin(name, entry.sha256, entry.git_blob, entry.size, "the registry", new=False)
    if offline():
        msg = f"{name}: its hash has to be asked for, and KIT_OFFLINE is set"
        raise RegistryError(msg)
    watch, limits = watch or current(), limits or Limits()
    if (told := _from_hub(entry, watch, limits)) is not None:
        _record(told, watch)
        return told
    return _from_bytes(entry, watch, limits)


def _from_hub(entry: Entry, watch: ProgressCallback, limits: Limits) -> Pin | None:
    """Take a hub's own record; None if no hub has one.

    Raises:
        RegistryError: the hub does not have the file, and nobody else could; or it has one of another size.
    """
    addresses = [url for url in entry.urls if url.startswith(f"{HUB}:")]
    failures: list[str] = []
    for url in [] if hub.offline() else addresses:
        try:
            facts = hub.facts(HubFile.of(url), limits, watch)
        except SourceError as error:
            failures.append(f"{url}: {error}")
            continue
        if entry.size is not None and facts.size not in (None, entry.size):
            msg = f"{entry.name}: the hub says {facts.size} bytes, the registry {entry.size}; nothing was recorded"
            raise RegistryError(msg)
        size = facts.size or entry.size
        if facts.git_blob is not None or (facts.sha256 is not None and size is not None):
            return Pin(entry.name, facts.sha256, facts.git_blob, size, f"the hub's own record of {url}")
    if failures and len(failures) == len(entry.urls):
        msg = f"{entry.name}: no hash was recorded:\n  " + "\n  ".join(failures)
        raise RegistryError(msg)
    return None


def _from_bytes(entry: Entry, watch: ProgressCallback, limits: Limits) -> Pin:
    """Fetch the file, hash it, record that, and keep the file under its hash."""
    key = hashlib.sha256(entry.urls[0].encode()).hexdigest()[:12]
    waiting = cache_dir() / "files" / f"unpinned-{key}" / entry.file
    with locked(waiting, watch, entry.name):
        part = PartialDownload(waiting)
        arrive(entry, part, waiting, watch, limits)
        found = Pin(
            entry.name,
            hashes.digest(part.path, "sha256"),
            None,
            part.length,
            f"the bytes that came from {shown(entry.urls[0])}" if len(entry.urls) == 1 else "the bytes that came",
        )
        _record(found, watch)
        path = place(catalogue.find(entry.name))
        if path is None:
            msg = f"{entry.name}: its hash was recorded in {user_registry()}, but is not there any more"
            raise RegistryError(msg)
        with locked(path, watch, entry.name):
            settle(part, path)
    return found


def _record(found: Pin, watch: ProgressCallback) -> None:
    """Add a hash to the user's list; the rest of the file stays as it is.

    Raises:
        RegistryError: the list is not TOML, or cannot be written.
    """
    values: dict[str, Any] = {"sha256": found.sha256, "git_blob": found.git_blob, "size": found.size}
    values = {key: value for key, value in values.items() if value is not None}
    path = user_registry()
    with locked(path, watch, str(path)):
        tables = catalogue.read_tables(path) if path.exists() else {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        there = tables.get(found.name, {})
        changed = {**tables, found.name: {**values, **there}}
        text = _with_pin(text, found.name, {key: value for key, value in values.items() if key not in there})
        if _tables(text) != changed:
            # The file writes its tables in a way that lines cannot be added to: written anew, without its comments.
            import tomli_w

            text = tomli_w.dumps(changed)
        _replace(path, text)


def _tables(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _with_pin(text: str, name: str, values: dict[str, Any]) -> str:
    """Add lines to a table, or a table to a text; the comments stay."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    headers = f'(?:{re.escape(name)}|"{re.escape(name)}")' if "." not in name else f'"{re.escape(name)}"'
    header = re.search(rf"^\[{headers}\][^\n]*(?:\n|\Z)", text, flags=re.MULTILINE)
    if header is None:
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return f"{text}{gap}[{json.dumps(name)}]\n{lines}"
    begun = text[: header.end()]
    return f"{begun}{'' if begun.endswith(chr(10)) else chr(10)}{lines}{text[header.end() :]}"


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is the old one or the new one, never a piece.

    Raises:
        RegistryError: it cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}; set KIT_REGISTRY to a file that can"
        raise RegistryError(msg) from error
