"""Fetching: from an entry's name to a file whose bytes have just been verified."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kit.io.errors import RegistryError
from kit.io.progress import ProgressCallback, current
from kit.io.retry import Limits, SourceError
from kit.registry import catalogue, hub
from kit.registry.download import Source, download
from kit.registry.entry import EMBEDDED, HUB, Entry, HubFile, mismatch, place, shown, user_registry
from kit.registry.locking import locked
from kit.registry.own_list import record
from kit.registry.partial_download import PartialDownload

# Whether the blocks that are running now refuse files without a hash, the innermost last.
_strict: list[bool] = []


@contextmanager
def strictly(strict: bool) -> Iterator[None]:
    """Refuse inside the block, if asked to, every file that no list has a hash for.

    Args:
        strict: Setting ``registry.strict``.
    """
    _strict.append(strict)
    try:
        yield
    finally:
        _strict.pop()


def fetch(name: str, *, watch: ProgressCallback | None = None, limits: Limits | None = None) -> Path:
    """Return the path of a registry file whose bytes have just been verified; download it if it is absent.

    Of a hub's file that has no hash yet, the hash is the one that the hub states for the commit; it is recorded in the
    user's own list once the bytes have it. Several processes may do so at once: one downloads, the others wait for it.

    Args:
        name: Name of the entry.
        watch: Receiver of the download's progress; by default the one in force.
        limits: Patience with the servers.

    Raises:
        RegistryError: the name is unknown, the entry has no hash and gets none, the file is absent and cannot be
            fetched, or its size or its hash is not the registry's.
    """
    entry = catalogue.find(name)
    check_fetchable([entry])
    watch, limits = watch or current(), limits or Limits()
    if entry.hash is not None:
        return _fetch_known(entry, watch, limits)
    described = identify(entry, watch=watch, limits=limits)
    path = _fetch_known(described, watch, limits)
    # After the bytes have it: a hash that the hub states and does not keep is not recorded.
    accept(described, watch=watch)
    return path


def identify(entry: Entry, *, watch: ProgressCallback | None = None, limits: Limits | None = None) -> Entry:
    """Add the hash and size that a hub states for an entry's commit; nothing is downloaded or recorded.

    Args:
        entry: Entry without a hash.
        watch: Receiver of what goes wrong meanwhile; by default the one in force.
        limits: Patience with the hub.

    Raises:
        RegistryError: ``registry.strict`` or ``KIT_OFFLINE`` is set, no hub has a hash of the file, or none answers.
    """
    if fault := _unidentifiable([entry]):
        raise RegistryError(fault)
    stated = hub.stated(entry, limits or Limits(), watch or current())
    if stated is None:
        raise RegistryError(_unpinned([entry], "and no hub states one"))
    return entry.model_copy(update=stated[0].marks())


def accept(described: Entry, *, watch: ProgressCallback | None = None) -> None:
    """Record the hash that a hub stated, now that a file has it, and say so.

    Raises:
        RegistryError: the user's list cannot be written, or another process has recorded another hash.
    """
    watch = watch or current()
    marks = described.model_dump(include=set(catalogue.PIN_FIELDS), exclude_none=True)
    is_new = record(described.name, marks, watch)
    known = catalogue.find(described.name)
    kind = "SHA-256" if known.sha256 else "git object id"
    if known.hash != described.hash:
        msg = (
            f"{described.name}: {user_registry()} says {kind} {known.hash} since a moment ago, the hub {described.hash}"
            "; run the same again, which holds the file against the recorded one"
        )
        raise RegistryError(msg)
    if is_new:
        watch.said(
            f"{described.name}: has the {kind} that the hub states for its commit, {known.hash}; recorded in "
            f"{user_registry()}, and nothing else is taken for it from now on"
        )


def _fetch_known(entry: Entry, watch: ProgressCallback, limits: Limits) -> Path:
    """Return the verified file of an entry that has a hash."""
    name, path = entry.name, place(entry)
    assert path is not None
    if not path.is_file():
        if entry.scheme == EMBEDDED:
            msg = f"{name}: the package's own file {path} is missing; install the kit again"
            raise RegistryError(msg)
        if offline():
            raise RegistryError(_absent_offline([(entry, path)]))
        with locked(path, watch, name):
            # Another process may have put it there while this one waited; it is then verified like any other file.
            if not path.is_file():
                part = PartialDownload(path)
                fetch_into(part, entry, path, watch, limits)
                part.publish(path)
                return path
    # Every use hashes: a note of size and time of change would let through a changed byte under an old date.
    difference = mismatch(entry, path)
    if difference is None:
        return path
    # Refused, not fetched again in silence: whether a disk fails or somebody changed it is worth knowing.
    found, expected = difference
    mend = "install the kit again" if entry.scheme == EMBEDDED else "delete the file and fetch it again"
    msg = (
        f"{entry.name}: {found}, the registry says {expected}. {path} was not used: it is damaged or was changed; "
        f"{mend}, or if the change is meant, update the entry"
    )
    raise RegistryError(msg)


def fetch_all(entries: Sequence[Entry]) -> list[tuple[Entry, Path]]:
    """Fetch several files; none of them if one can have no hash, or if some are missing offline.

    Returns:
        The entries, with the hashes that they have now, and the paths of their files.

    Raises:
        RegistryError: as for ``fetch``; names all entries that can have no hash, or that are missing offline.
    """
    check_fetchable(entries)
    if fault := _unidentifiable([entry for entry in entries if entry.hash is None]):
        raise RegistryError(fault)
    # Offline, one message names all that is missing: the next machine with a network can bring it at once.
    fetched = [entry for entry in entries if entry.scheme != EMBEDDED]
    absent = [(entry, path) for entry in fetched if (path := place(entry)) and not path.is_file()]
    if offline() and absent:
        raise RegistryError(_absent_offline(absent))
    paths = [fetch(entry.name) for entry in entries]
    return [(catalogue.find(entry.name), path) for entry, path in zip(entries, paths, strict=True)]


def check_fetchable(entries: Sequence[Entry]) -> None:
    """Check that no entry is a store of chunks or a climatology, which is read where it is.

    Raises:
        RegistryError: there is one; says how it is used.
    """
    for entry in entries:
        if entry.kind == "climatology":
            msg = (
                f"{entry.name}: is a climatology at {entry.urls[0]}, of which an evaluation reads what it needs, where "
                f"it is; it has no hash: kit evaluate --climatology {entry.name}"
            )
            raise RegistryError(msg)
        if not entry.is_fetched:
            msg = (
                f"{entry.name}: is a Zarr store at {entry.urls[0]}, of which a build reads what it needs, where it is; "
                f"all of it is too large to fetch, and has no hash: kit data build --source zarr --path {entry.name}"
            )
            raise RegistryError(msg)


def _unidentifiable(entries: Sequence[Entry]) -> str | None:
    """Explain why entries without a hash cannot get one now; None if their hubs may be asked for it."""
    if not entries:
        return None
    if _strict and _strict[-1]:
        return _unpinned(entries, "and registry.strict is set")
    if offline() or hub.offline():
        variable = "KIT_OFFLINE" if offline() else "HF_HUB_OFFLINE"
        return _unpinned(entries, f"and {variable} is set, so that no hub is asked for it; on a machine with a network")
    # Where no hub states a hash, whatever came would have to be believed.
    silent = [entry for entry in entries if not any(url.startswith(f"{HUB}:") for url in entry.urls)]
    return _unpinned(silent, "and no hub states one") if silent else None


def _unpinned(entries: Sequence[Entry], why: str) -> str:
    """Explain why entries without a hash are not fetched, and which command records one."""
    names = [entry.name for entry in entries]
    return (
        f"{', '.join(names)}: no hash in the registry, so that a download could not be verified, {why}; have what is "
        f"there now recorded first: kit data pin {' '.join(names)}"
    )


def offline() -> bool:
    """Read ``KIT_OFFLINE``, which asks to use nothing but what is on this machine.

    Raises:
        RegistryError: it is neither 0 nor 1.
    """
    value = os.environ.get("KIT_OFFLINE", "").strip().lower()
    if value not in {"", "0", "1", "false", "true", "no", "yes", "off", "on"}:
        msg = f"KIT_OFFLINE is {value!r}; expected 1 (nothing is fetched) or 0"
        raise RegistryError(msg)
    return value in {"1", "true", "yes", "on"}


def fetch_into(part: PartialDownload, entry: Entry, path: Path, watch: ProgressCallback, limits: Limits) -> None:
    """Download a file into a partial one and verify it, trying the entry's addresses in order.

    Args:
        part: Partial download, continued where it can be.
        entry: Entry that the file must fit.
        path: Final place of the file, for the message.
        watch: Receiver of the progress.
        limits: Patience with the servers.

    Raises:
        RegistryError: no address has it; says what each of them did, and what to do.
    """
    failures: list[str] = []
    for url in entry.urls:
        # An address that has a mirror behind it is given up sooner.
        allowed = limits if url == entry.urls[-1] else replace(limits, attempts=min(limits.attempts, 2))
        is_hub = url.startswith(f"{HUB}:")
        try:
            source = _hub_source(entry, url, watch, allowed) if is_hub else Source(url, url)
            download(source, part, entry.size, allowed, watch, entry.name)
            difference = mismatch(entry, part.path)
            if difference is None:
                return
            # Wrong bytes are never continued.
            part.discard()
            found, expected = difference
            failure = (
                f"{found}, the registry says {expected}; what arrived was deleted: it was damaged on the way, or "
                "the source changed"
            )
        except SourceError as error:
            failure = str(error)
        failures.append(f"{shown(url)}: {failure}")
        watch.said(f"{entry.name}: {failures[-1]}")
    tried = "\n  ".join(failures)
    msg = f"{entry.name} could not be fetched:\n  {tried}\n{_by_hand(entry, path)}"
    if part.length:
        msg += f" The next attempt goes on after {part.length} bytes."
    raise RegistryError(msg)


def _hub_source(entry: Entry, url: str, watch: ProgressCallback, limits: Limits) -> Source:
    """Find a hub's file; the hub is asked first whether its file is the one that the registry means.

    Raises:
        SourceError: it is not, or the hub may not be asked.
    """
    if hub.offline():
        msg = "HF_HUB_OFFLINE is set"
        raise SourceError(msg)
    # The hub's record comes with the headers: another file is noticed before its bytes are downloaded.
    file = HubFile.of(url)
    facts = hub.facts(file, limits, watch)
    for what, found, expected in (
        ("size", facts.size, entry.size),
        ("SHA-256", facts.sha256, entry.sha256),
        ("git object id", facts.git_blob, entry.git_blob),
    ):
        if found is not None and expected is not None and found != expected:
            msg = f"the hub's own {what} for it is {found}, the registry says {expected}; nothing was downloaded"
            raise SourceError(msg)
    return Source(url, hub.address(file), hub.token())


def _absent_offline(absent: Sequence[tuple[Entry, Path]]) -> str:
    """Explain that files are not here, and how to bring each of them by hand."""
    names = ", ".join(entry.name for entry, _ in absent)
    ways = [_by_hand(entry, path) for entry, path in absent]
    if len(ways) == 1:
        return f"{names} is not on this machine, and KIT_OFFLINE is set. {ways[0]}"
    return "\n".join([f"{names} are not on this machine, and KIT_OFFLINE is set.", *ways])


def _by_hand(entry: Entry, path: Path) -> str:
    """Explain how to download a file without the kit: from where, how to know it, and where to put it."""
    addresses = [hub.address(HubFile.of(url)) if url.startswith(f"{HUB}:") else shown(url) for url in entry.urls]
    text = f"By hand: download {' or '.join(addresses)}"
    marks = [f"{entry.size} bytes"] if entry.size is not None else []
    if entry.hash is not None:
        marks.append(f"{'SHA-256' if entry.sha256 else 'git object id'} {entry.hash}")
    if marks:
        text += f" ({', '.join(marks)})"
    # Without a hash there is no place for it: its folder in the cache is named by the hash.
    if entry.hash is not None:
        text += f" and put it at {path}"
    return f"{text}."
