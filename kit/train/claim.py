"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kit.errors import SettingsError

__all__ = ["claimed"]

_logger = logging.getLogger(__name__)

_NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder while the body runs; the system lets go of it however the process ends.

    Reading it, and writing figures and scores into it, needs no claim.

    Args:
        folder: of the run; exists.

    Raises:
        SettingsError: another process holds it, or nothing can be written there.
    """
    file = folder / _NAME
    descriptor = _locked(folder, file)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, _owner().encode(), 0)
        yield
    finally:
        # Removed while it is held: whoever waits for it sees that it is gone, and takes another.
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(folder: Path, file: Path) -> int:
    while True:
        try:
            # Not inherited by processes that are started: it goes with this one.
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            msg = (
                f"{folder}: nothing can be written there ({error.strerror}); make it writable, or choose another "
                "folder with --run.dir"
            )
            raise SettingsError(msg) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            msg = (
                f"{folder}: {holder} is training in it. Wait for it, or stop it with Ctrl-C or SIGTERM, which leaves a "
                "checkpoint to go on from; or choose another --run.name"
            )
            raise SettingsError(msg) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            _logger.warning("%s: this file system has no locks; see to it that no other process trains there", folder)
            return descriptor
        if _is_current(descriptor, file):
            return descriptor
        os.close(descriptor)


def _is_current(descriptor: int, file: Path) -> bool:
    """Whether the file that is locked is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _owner() -> str:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})


def _holder(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}, since {owner['started']},"
    except (ValueError, KeyError, TypeError):
        return "another process"
