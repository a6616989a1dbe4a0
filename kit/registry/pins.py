"""Hashes for entries that have none: what is there now, recorded in the user's own list, for every later use."""

from dataclasses import dataclass

from kit.io.errors import RegistryError
from kit.io.hashes import sha256_of_file, sha256_of_text
from kit.io.progress import ProgressCallback, current
from kit.io.retry import Limits
from kit.registry import catalogue, hub
from kit.registry.entry import Entry, cache_dir, place, shown
from kit.registry.fetching import check_fetchable, fetch_into, offline
from kit.registry.locking import locked
from kit.registry.own_list import record
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
    stated = hub.stated(entry, limits, watch)
    if stated is None:
        return _from_bytes(entry, watch, limits)
    facts, url = stated
    record(name, facts.marks(), watch)
    return Pin(name, facts.sha256, facts.git_blob, facts.size, f"the hub's own record of {url}")


def _from_bytes(entry: Entry, watch: ProgressCallback, limits: Limits) -> Pin:
    """Fetch the file, hash it, record that, and keep the file under its hash."""
    # Its place in the cache is named by the hash that is not known yet: until then, by the address.
    waiting = cache_dir() / "files" / f"unpinned-{sha256_of_text(entry.urls[0])[:12]}" / entry.file
    with locked(waiting, watch, entry.name):
        part = PartialDownload(waiting)
        fetch_into(part, entry, waiting, watch, limits)
        source = f"the bytes that came from {shown(entry.urls[0])}" if len(entry.urls) == 1 else "the bytes that came"
        digest, size = sha256_of_file(part.path), part.length
        # Recorded before the file moves: a file under a hash that no list knows would never be used.
        record(entry.name, {"sha256": digest, "size": size}, watch)
        path = place(catalogue.find(entry.name))
        assert path is not None
        with locked(path, watch, entry.name):
            part.publish(path)
    return Pin(entry.name, digest, None, size, source)
