"""Folders that runs write to: there, writable, with room; and the kit's own files, whole."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from kit import registry
from kit.doctor.finding import Finding, error, ok, skipped, warning
from kit.io.errors import RegistryError
from kit.registry import Entry
from kit.registry.entry import EMBEDDED, mismatch
from kit.registry.paths import place

__all__ = ["Place", "check_files", "check_place", "places", "probe_place"]

_GIB = 2**30
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "beegfs", "gpfs")
_FEW_FILES = 10_000
"""A store of a year of states has some 1500 chunks for each of its variables."""


@dataclass(frozen=True)
class Place:
    """A folder, and what can be done there.

    Attributes:
        name: what it is for.
        path: of it.
        purpose: what needs the room.
        enough: bytes free for that.
        least: bytes free without which nothing works.
        setting: what chooses another one.
        is_file: whether something that is no folder is in its place, or in the place of a parent.
        refusal: why no file can be made and renamed there; empty if one can.
        free: bytes.
        files: that can still be made; None where the file system does not count them.
        system: type of the file system.
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
    files: int | None = None
    system: str = ""


def places(run_dir: Path) -> list[Place]:
    """The folders that matter, not looked at yet.

    A full fine-tuning of the 1.3 B model in fp32 writes 5 GB of weights and 10 GB of AdamW's state as ``last``, 5 GB as
    ``best``, and each new one beside the old one before it takes its place: 40 GB. The default run takes 0.2 GB.
    """
    full = "a full fine-tuning of the 1.3 B model writes up to 40 GB, an adapter's less than 1"
    weights = "weights of the 1.3 B model are 5 GB, and stores are as large as their states"
    return [
        Place("runs", run_dir, full, 40 * _GIB, _GIB // 2, "--run.dir"),
        Place("cache", registry.cache_dir(), weights, 10 * _GIB, _GIB // 2, "KIT_CACHE"),
        Place("temporary files", Path(tempfile.gettempdir()), "libraries unpack there", _GIB, _GIB // 16, "TMPDIR"),
    ]


def probe_place(folder: Place) -> Place:
    """Look at a folder, or at the nearest parent that exists; makes no folder, and leaves nothing behind."""
    path = folder.path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    facts = {**vars(folder)}
    if not path.is_dir():
        return Place(**facts | {"is_file": True, "refusal": f"{path} is not a folder"})
    if refusal := _try_to_write(path):
        return Place(**facts | {"refusal": refusal})
    facts["free"] = shutil.disk_usage(path).free
    counts = os.statvfs(path)
    facts["files"] = counts.f_favail if counts.f_files else None
    facts["system"] = _system(path)
    return Place(**facts)


def _try_to_write(folder: Path) -> str:
    """Make a file and rename it, as everything that the kit writes is; says what was refused."""
    part = folder / f".kit-doctor-{uuid.uuid4().hex[:12]}.part"
    whole = part.with_suffix(".whole")
    try:
        part.write_bytes(b"kit" * 1000)
        part.replace(whole)
    except OSError as refusal:
        return f"{refusal.strerror or refusal}"
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
            whole.unlink(missing_ok=True)
    return ""


def _system(path: Path) -> str:
    mounted = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounted[parent] for parent in (path, *path.resolve().parents) if parent in mounted), "")


def check_place(folder: Place) -> Finding:
    """Decide whether a folder will do."""
    name = f"disk {folder.name}"
    facts = {"path": str(folder.path), "free_gib": round(folder.free / _GIB, 2), "files": folder.files}
    another = f"choose another folder with {folder.setting}"
    if folder.is_file:
        return error(name, f"{folder.path}: {folder.refusal}", f"move it away, or {another}", **facts)
    if folder.refusal:
        remedy = f"{another}, or have it made writable for user {os.getuid()}"
        return error(name, f"{folder.path}: no file can be made there ({folder.refusal})", remedy, **facts)
    told = f"{folder.path}: {facts['free_gib']:g} GiB free"
    if folder.free < folder.least:
        detail = f"{told}, less than the {folder.least / _GIB:g} GiB that anything takes"
        return error(name, detail, f"free some, or {another}", **facts)
    if folder.free < folder.enough:
        return warning(name, f"{told}; {folder.purpose}", f"free some, or {another}, if you mean to", **facts)
    if folder.files is not None and folder.files < _FEW_FILES:
        detail = f"{told}, but only {folder.files} more files can be made: a store has one for each time and variable"
        return warning(name, detail, f"delete files that are not needed, or {another}", **facts)
    if folder.name == "runs" and folder.system in _REMOTE:
        detail = f"{told}, on {folder.system}: SQLite, which keeps mlflow.db there, cannot rely on locks over a network"
        remedy = "one run at a time is fine; for several at once put track.uri on a local disk or a server"
        return warning(name, detail, remedy, system=folder.system, **facts)
    return ok(name, f"{told}, files can be made and renamed there", system=folder.system, **facts)


def check_files(*, verify: bool) -> list[Finding]:
    """Read the registry, and hash the files that the package carries; those in the cache if that is asked for."""
    try:
        entries = registry.entries().values()
    except RegistryError as trouble:
        return [error("registry", str(trouble), "mend the file that is named, or take KIT_REGISTRY away")]
    carried = [entry for entry in entries if entry.scheme == EMBEDDED]
    found = [_hashed(entry, place(entry)) for entry in carried]
    if not verify:
        return [*found, skipped("cache files", "not hashed; --verify does")]
    held = [(entry, path) for entry in entries if (path := place(entry)) and entry not in carried and path.is_file()]
    if not held:
        return [*found, ok("cache files", "none of the registry's files is in the cache")]
    return [*found, *(_hashed(entry, path) for entry, path in held)]


def _hashed(entry: Entry, path: Path | None) -> Finding:
    name = f"file {entry.name}"
    assert path is not None, "an embedded file has a hash"
    try:
        different = mismatch(entry, path)
    except OSError as trouble:
        return error(name, f"{path}: {trouble.strerror or trouble}", "install the kit again")
    if different is None:
        return ok(name, f"whole, {path.stat().st_size} bytes")
    detail = f"{path}: {different[0]}, the registry says {different[1]}: damaged or changed"
    if entry.scheme == EMBEDDED:
        return error(name, detail, "install the kit again")
    # It is refused where it is used, so that no run goes wrong with it.
    return warning(name, detail, f"delete {path}; kit data fetch {entry.name} fetches it again")
