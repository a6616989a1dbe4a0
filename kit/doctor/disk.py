"""Folders that runs write to: there, writable, with room; and the kit's own files, whole."""

import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from kit import registry
from kit.doctor.diagnosis import Diagnosis, error, ok, skipped, warning
from kit.io.atomic import move
from kit.io.errors import RegistryError
from kit.registry import Entry
from kit.registry.entry import EMBEDDED, mismatch, place

_GIB = 2**30
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "beegfs", "gpfs")


@dataclass(frozen=True)
class WatchedFolder:
    """A folder, and what can be done there.

    Attributes:
        name: Use of the folder, such as ``runs``.
        path: Its path.
        purpose: What needs the room, in words.
        enough: Bytes free for that.
        least: Bytes free without which nothing works.
        setting: Option or variable that chooses another folder.
        is_file: Whether something that is no folder is in its place, or in the place of a parent.
        refusal: Why no file can be made and renamed there; empty if one can.
        free: Bytes free.
        system: Type of the file system.
    """

    name: str
    path: Path
    purpose: str
    enough: int
    least: int
    setting: str
    is_file: bool = False
    refusal: str = ""
    free: int = 0
    system: str = ""


def watched_folders(run_dir: Path) -> list[WatchedFolder]:
    """List the folders that matter, not looked at yet.

    A full fine-tuning of the 1.3 B model in fp32 writes 5 GB of weights and 10 GB of AdamW's state as ``last``, 5 GB as
    ``best``, and each new one beside the old one before it takes its place: 40 GB. The default run takes 0.2 GB.
    """
    full = "a full fine-tuning of the 1.3 B model writes up to 40 GB, an adapter's less than 1"
    weights = "weights of the 1.3 B model are 5 GB, and stores are as large as their states"
    temporary = Path(tempfile.gettempdir())
    return [
        WatchedFolder("runs", run_dir, full, 40 * _GIB, _GIB // 2, "--run.dir"),
        WatchedFolder("cache", registry.cache_dir(), weights, 10 * _GIB, _GIB // 2, "KIT_CACHE"),
        WatchedFolder("temporary files", temporary, "libraries unpack there", _GIB, _GIB // 16, "TMPDIR"),
    ]


def probe_folder(folder: WatchedFolder) -> WatchedFolder:
    """Look at a folder, or at the nearest parent that exists; makes no folder, and leaves nothing behind."""
    path = folder.path.absolute()
    # A folder that is missing is made by the first run, in the nearest parent that exists.
    while not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        return replace(folder, is_file=True, refusal=f"{path} is not a folder")
    # A file is made and renamed, as everything that the kit writes is.
    part = path / f".kit-doctor-{uuid.uuid4().hex[:12]}.part"
    whole = part.with_suffix(".whole")
    try:
        part.write_bytes(b"kit" * 1000)
        move(part, whole)
    except OSError as refusal:
        return replace(folder, refusal=f"{refusal.strerror or refusal}")
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
            whole.unlink(missing_ok=True)
    # The mount point nearest to the folder.
    mounted = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    system = next((mounted[parent] for parent in (path, *path.resolve().parents) if parent in mounted), "")
    return replace(folder, free=shutil.disk_usage(path).free, system=system)


def check_folder(folder: WatchedFolder) -> Diagnosis:
    """Decide whether a folder will do."""
    name = f"disk {folder.name}"
    free = round(folder.free / _GIB, 2)
    facts = {"path": str(folder.path), "free_gib": free}
    another = f"choose another folder with {folder.setting}"
    if folder.is_file:
        return error(name, f"{folder.path}: {folder.refusal}", f"move it away, or {another}", **facts)
    if folder.refusal:
        remedy = f"{another}, or have it made writable for user {os.getuid()}"
        return error(name, f"{folder.path}: no file can be made there ({folder.refusal})", remedy, **facts)
    room = f"{folder.path}: {free:g} GiB free"
    if folder.free < folder.least:
        detail = f"{room}, less than the {folder.least / _GIB:g} GiB that anything takes"
        return error(name, detail, f"free some, or {another}", **facts)
    if folder.free < folder.enough:
        return warning(name, f"{room}; {folder.purpose}", f"free some, or {another}, if you mean to", **facts)
    # The database of runs lies there unless track.uri names another.
    if folder.name == "runs" and folder.system in _REMOTE:
        detail = f"{room}, on {folder.system}: SQLite, which keeps mlflow.db there, cannot rely on locks over a network"
        remedy = "one run at a time is fine; for several at once put track.uri on a local disk or a server"
        return warning(name, detail, remedy, system=folder.system, **facts)
    return ok(name, f"{room}, files can be made and renamed there", system=folder.system, **facts)


def check_files(*, verify: bool) -> list[Diagnosis]:
    """Read the registry, and hash the files that the package carries.

    Args:
        verify: Whether to hash the registry's files in the cache as well, which may take minutes.
    """
    try:
        entries = registry.entries().values()
    except RegistryError as failure:
        return [error("registry", str(failure), "mend the file that is named, or take KIT_REGISTRY away")]
    found, cached = [], []
    for entry in entries:
        path = place(entry)
        if entry.scheme == EMBEDDED:
            assert path is not None, "an embedded file has a hash"
            found.append(_check_hash(entry, path))
        elif verify and path is not None and path.is_file():
            cached.append(_check_hash(entry, path))
    if not verify:
        return [*found, skipped("cache files", "not hashed; --verify does")]
    if not cached:
        cached = [ok("cache files", "none of the registry's files is in the cache")]
    return found + cached


def _check_hash(entry: Entry, path: Path) -> Diagnosis:
    name = f"file {entry.name}"
    try:
        different = mismatch(entry, path)
        if different is None:
            return ok(name, f"whole, {path.stat().st_size} bytes")
    except OSError as failure:
        return error(name, f"{path}: {failure.strerror or failure}", "install the kit again")
    detail = f"{path}: {different[0]}, the registry says {different[1]}: damaged or changed"
    if entry.scheme == EMBEDDED:
        return error(name, detail, "install the kit again")
    # It is refused where it is used, so that no run goes wrong with it.
    return warning(name, detail, f"delete {path}; kit data fetch {entry.name} fetches it again")
