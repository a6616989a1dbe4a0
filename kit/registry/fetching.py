"""From a name to a file whose bytes have just been verified."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from kit.io.atomic import sync
from kit.io.errors import RegistryError
from kit.io.progress import ProgressCallback, current
from kit.io.retry import Limits, SourceError
from kit.registry import catalogue, hub
from kit.registry.download import Source, download
from kit.registry.entry import EMBEDDED, HUB, Entry, HubFile, mismatch, shown
from kit.registry.partial_download import PartialDownload
from kit.registry.paths import place

__all__ = ["arrive", "fetch", "fetch_all", "locked", "offline", "refuse_stores", "settle", "unpinned"]


def fetch(name: str, *, watch: ProgressCallback | None = None, limits: Limits | None = None) -> Path:
    """Return the path of a registry file whose bytes have just been verified; downloads it if it is absent.

    Several processes may do so at once: one downloads, the others wait for it.

    Args:
        name: the entry's name.
        watch: is told how a download goes; by default the watch in force.
        limits: of the download's patience.

    Raises:
        RegistryError: the name is unknown, the entry has no hash, the file is absent and cannot be fetched, or its
            size or its hash is not the registry's.
    """
    entry = catalogue.find(name)
    refuse_stores([entry])
    path = place(entry)
    if path is None:
        raise RegistryError(unpinned([entry]))
    if not path.is_file():
        if entry.scheme == EMBEDDED:
            msg = f"{name}: the package's own file {path} is missing; install the kit again"
            raise RegistryError(msg)
        if _download(entry, path, watch or current(), limits or Limits()):
            return path
    _verify(entry, path)
    return path


def fetch_all(entries: Sequence[Entry]) -> list[tuple[Entry, Path]]:
    """Fetch several files; none of them if one has no hash, or if some are missing offline.

    Raises:
        RegistryError: as for ``fetch``; names all entries that have no hash, or that are missing offline.
    """
    refuse_stores(entries)
    if missing := [entry for entry in entries if entry.hash is None]:
        raise RegistryError(unpinned(missing))
    absent = [(entry, path) for entry in entries if (path := place(entry)) and not path.is_file()]
    absent = [(entry, path) for entry, path in absent if entry.scheme != EMBEDDED]
    if offline() and absent:
        raise RegistryError(_not_here(absent))
    return [(entry, fetch(entry.name)) for entry in entries]


def refuse_stores(entries: Sequence[Entry]) -> None:
    """Refuse entries that are stores of chunks.

    Raises:
        RegistryError: there is one; says how it is used.
    """
    for entry in entries:
        if not entry.is_fetched:
            msg = (
                f"{entry.name}: is a Zarr store at {entry.urls[0]}, of which a build reads what it needs, where it is; "
                f"all of it is too large to fetch, and has no hash: kit data build --source zarr --path {entry.name}"
            )
            raise RegistryError(msg)


def unpinned(entries: Sequence[Entry]) -> str:
    """Say why entries without a hash are refused, and which command records one."""
    names = [entry.name for entry in entries]
    return (
        f"{', '.join(names)}: no hash in the registry, so that other bytes could not be told from the right ones; have "
        f"what is there now recorded first: kit data pin {' '.join(names)}"
    )


def offline() -> bool:
    """Say whether ``KIT_OFFLINE`` asks to use nothing but what is on this machine.

    Raises:
        RegistryError: it is neither 0 nor 1.
    """
    said = os.environ.get("KIT_OFFLINE", "").strip().lower()
    if said not in {"", "0", "1", "false", "true", "no", "yes", "off", "on"}:
        msg = f"KIT_OFFLINE is {said!r}; expected 1 (nothing is fetched) or 0"
        raise RegistryError(msg)
    return said in {"1", "true", "yes", "on"}


@contextmanager
def locked(path: Path, watch: ProgressCallback, name: str) -> Iterator[None]:
    """Be the only process that works on a file; says so when it has to wait.

    Raises:
        RegistryError: the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            watch.said(f"{name}: another process is at it; waiting for it to end")
            lock.acquire()
    except OSError as error:
        msg = (
            f"{name}: {path.parent} cannot be written to: {error.strerror or error}. Mend that, or choose another "
            "folder with KIT_CACHE"
        )
        raise RegistryError(msg) from error
    try:
        yield
    finally:
        lock.release()


def arrive(entry: Entry, part: PartialDownload, path: Path, watch: ProgressCallback, limits: Limits) -> None:
    """Bring a whole file that the entry describes to a part, from the first of the entry's sources that has it.

    Raises:
        RegistryError: none has it; says what each of them did, and what to do.
    """
    failures: list[str] = []
    for url in entry.urls:
        # What has a mirror behind it is given up sooner.
        allowed = limits if url == entry.urls[-1] else replace(limits, attempts=min(limits.attempts, 2))
        try:
            source = _source(entry, url, watch, allowed)
            download(source, part, entry.size, allowed, watch, entry.name)
            _accept(entry, part)
        except SourceError as error:
            failures.append(f"{shown(url)}: {error}")
            watch.said(f"{entry.name}: {failures[-1]}")
        else:
            return
    kept = f" The next attempt goes on after {part.length} bytes." if part.length else ""
    tried = "\n  ".join(failures)
    msg = f"{entry.name} could not be fetched:\n  {tried}\n{_by_hand(entry, path)}{kept}"
    raise RegistryError(msg)


def settle(part: PartialDownload, path: Path) -> None:
    """Move a verified part to its place; it is there whole, or not at all."""
    sync(part.path)
    part.path.replace(path)
    part.discard()
    # Not every file system holds folders.
    with suppress(OSError):
        sync(path.parent)


def _download(entry: Entry, path: Path, watch: ProgressCallback, limits: Limits) -> bool:
    """Bring a file to its place, verified on the way; False if another process has put it there meanwhile."""
    if offline():
        raise RegistryError(_not_here([(entry, path)]))
    with locked(path, watch, entry.name):
        if path.is_file():
            return False
        part = PartialDownload(path)
        arrive(entry, part, path, watch, limits)
        settle(part, path)
        return True


def _source(entry: Entry, url: str, watch: ProgressCallback, limits: Limits) -> Source:
    """Say where an address leads; a hub is asked first whether it has the file that the registry means.

    Raises:
        SourceError: it has not, or may not be asked.
    """
    if not url.startswith(f"{HUB}:"):
        return Source(url, url)
    if hub.offline():
        msg = "HF_HUB_OFFLINE is set"
        raise SourceError(msg)
    file = HubFile.of(url)
    there = hub.facts(file, limits, watch)
    for what, told, expected in (
        ("size", there.size, entry.size),
        ("SHA-256", there.sha256, entry.sha256),
        ("git object id", there.git_blob, entry.git_blob),
    ):
        if told is not None and expected is not None and told != expected:
            msg = f"the hub's own {what} for it is {told}, the registry says {expected}; nothing was downloaded"
            raise SourceError(msg)
    return Source(url, hub.address(file), hub.token())


def _accept(entry: Entry, part: PartialDownload) -> None:
    """Check what arrived.

    Raises:
        SourceError: it is not the file that the registry describes; it is deleted.
    """
    if (different := mismatch(entry, part.path)) is not None:
        part.discard()
        found, expected = different
        msg = (
            f"{found}, the registry says {expected}; what arrived was deleted: it was damaged on the way, or "
            "the source changed"
        )
        raise SourceError(msg)


def _not_here(absent: Sequence[tuple[Entry, Path]]) -> str:
    names = ", ".join(entry.name for entry, _ in absent)
    told = f"{names} {'is' if len(absent) == 1 else 'are'} not on this machine, and KIT_OFFLINE is set."
    ways = [_by_hand(entry, path) for entry, path in absent]
    return f"{told} {ways[0]}" if len(ways) == 1 else "\n".join([told, *ways])


def _by_hand(entry: Entry, path: Path) -> str:
    known = [f"{entry.size} bytes"] if entry.size is not None else []
    known += (
        [f"SHA-256 {entry.sha256}"] if entry.sha256 else [f"git object id {entry.git_blob}"] if entry.git_blob else []
    )
    addresses = [hub.address(HubFile.of(url)) if url.startswith(f"{HUB}:") else shown(url) for url in entry.urls]
    facts = f" ({', '.join(known)})" if known else ""
    where = "" if entry.hash is None else f" and put it at {path}"
    return f"By hand: download {' or '.join(addresses)}{facts}{where}."


def _verify(entry: Entry, path: Path) -> None:
    """Check a file before it is used.

    Raises:
        RegistryError: it is not the file that the registry describes.
    """
    if (different := mismatch(entry, path)) is None:
        return
    found, expected = different
    mend = "install the kit again" if entry.scheme == EMBEDDED else "delete the file and fetch it again"
    msg = (
        f"{entry.name}: {found}, the registry says {expected}. {path} was not used: it is damaged or was changed; "
        f"{mend}, or if the change is meant, update the entry"
    )
    raise RegistryError(msg)
