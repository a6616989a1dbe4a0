"""Atomic files and folders, whole or absent: written under another name, fsynced, then renamed.

The only module that gives files their final names. A rename is atomic, but not durable: after a power loss the new
name may stand for an empty file. So content is fsynced before the rename, and the folder that holds the name after it.
"""

import ctypes
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.io.errors import SettingsError
from kit.io.locks import take
from kit.io.retry import poll

_REMOVAL_SECONDS = 2.0
_SYNC_THREADS = 16
_LOCK = ".lock"
"""Ending of the file that is locked while a result is written; it tells a leftover from work that goes on."""
# What ``write_atomically`` calls a file: process and eight digits keep it apart from parts that others go on with.
_SMALL_PART = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.part")
# Of renameat2(2), by the headers of Linux.
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def check_free(out: Path, setting: str = "--out") -> None:
    """Check that a place is free, before any work is done for it.

    Raises:
        SettingsError: something is there.
    """
    # A dangling link exists for nobody and would still be replaced.
    if out.exists() or out.is_symlink():
        msg = f"{out}: exists already; choose another place with {setting}, or remove it first"
        raise SettingsError(msg)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Yield a free path beside a result, on the same file system; what is there at the end is removed.

    A process that is killed leaves what it had under a hidden name that ends in ``.part``, for ``remove_leftovers``.

    Args:
        out: File or folder that the path is named after; its parents are made.
    """
    make_folder(out.parent)
    part = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}.part"
    # Held to the end: whoever finds the part without its lock knows that nobody writes it any more.
    held = take(part.with_name(part.name + _LOCK), wait=True, quiet=True)
    assert held is not None
    try:
        yield part
    finally:
        # Whatever ended the body, Ctrl-C and a memory error too.
        _remove(part)
        held.release(remove=True)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``out`` if the body succeeds, and is deleted if it does not.

    Args:
        out: File or folder; its parents are made.

    Raises:
        SettingsError: something is at ``out``, before the body or after it.
    """
    check_free(out)
    with scratch(out) as part:
        yield part
        # Hours may have passed: what appeared there meanwhile is somebody's.
        check_free(out)
        publish(part, out)


def _remove(part: Path) -> None:
    if part.is_file() or part.is_symlink():
        part.unlink()
    else:
        remove_tree(part)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what killed processes left of results and small files in a folder; what is being written stays.

    Parts that are gone on with, such as those of downloads and builds of stores, are other commands' and stay too.

    Args:
        folder: Folder in which a command is about to work; a missing one is no error.

    Returns:
        What was removed.
    """
    removed: list[Path] = []
    if not folder.is_dir():
        return removed
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in names:
        if name.endswith(f".part{_LOCK}"):
            part = folder / name.removesuffix(_LOCK)
        elif _SMALL_PART.fullmatch(name):
            part = folder / name
        else:
            continue
        try:
            held = take(folder / name, make=False, quiet=True)
        except OSError:
            # Done with meanwhile, or another user's.
            continue
        if held is None:
            continue
        # A file system without locks lets everybody have one: there nobody can tell what goes on.
        if held.exclusive:
            _remove(part)
            removed.append(part)
        held.release(remove=held.exclusive)
    return removed


def publish(part: Path, out: Path) -> None:
    """Give a finished file or folder its final name, durably; a file of that name is replaced.

    Raises:
        OSError: ``out`` is a folder that is not empty, or on another file system.
    """
    if part.is_dir():
        sync_tree(part)
    else:
        sync(part)
    move(part, out)


def move(source: Path, target: Path, *, durable: bool = True) -> None:
    """Rename a file or folder whose content the disk holds already, and make the new name durable.

    Args:
        source: File or folder.
        target: Final name; a file of that name is replaced.
        durable: Wait until the disk holds the name; not for one of many files whose loss is found and mended later.

    Raises:
        OSError: ``target`` is a folder that is not empty, or on another file system.
    """
    source.replace(target)
    if not durable:
        return
    # The new name first: a crash between the two leaves both names, never none.
    sync(target.parent)
    if source.parent != target.parent:
        sync(source.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders in one step, so that no reader meets a moment without either.

    Args:
        one: File or folder.
        other: File or folder on the same file system.

    Returns:
        Whether it was done; False where the system or the file system cannot, and nothing has changed.

    Raises:
        OSError: one of them is missing, or the system refuses.
    """
    # Python has no name for renameat2(2); the C library has it since glibc 2.28 and musl 1.2.4.
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def write_atomically(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Write a file so that it is whole or absent at any moment; what is there is replaced.

    Args:
        path: File to write.
        content: Its text, encoded as UTF-8, or its bytes.
        mode: Permission bits; by default those of any new file.

    Raises:
        OSError: the folder is missing, full or not writable; what was at ``path`` is still there.
    """
    if isinstance(content, str):
        content = content.encode()
    # Processes of several machines may write the same file: process ids alone could be equal.
    part = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    held = None
    try:
        # Nobody else may read the content before the file has its permissions.
        part.touch(mode=0o666 if mode is None else 0o600)
        held = take(part, wait=True, quiet=True)
        part.write_bytes(content)
        if mode is not None:
            part.chmod(mode)
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)
        if held is not None:
            held.release()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people to read, whole or not at all; what is there is replaced."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, and wait until the disk holds their names; one that exists is no error.

    Raises:
        OSError: something else is there, or the folder cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync(place.parent)


def sync(path: Path) -> None:
    """Wait until the disk holds a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # fsync(2): EINVAL where a file system cannot synchronise this; some network file systems cannot for folders.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until the disk holds a folder with everything in it."""
    # A link's own content is its name, which the folder's fsync covers; it may also lead nowhere.
    everything = [folder, *(inner for inner in folder.rglob("*") if not inner.is_symlink())]
    # File systems put the fsyncs of several threads into one write of their journal: 3,000 small files on ext4 take
    # 16 threads a third to an eighth of the time of one.
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(sync, everything):
            pass


def remove_tree(folder: Path) -> None:
    """Delete a folder into which threads may still be finishing what they had begun; a missing one is no error."""

    def is_gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    poll(is_gone, every=0.05, limit=_REMOVAL_SECONDS)
