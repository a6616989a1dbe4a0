"""One process at a time in a run folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kit.errors import SettingsError
from kit.locking import Held, take

__all__ = ["claimed"]

_NAME = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder while the body runs; the system lets go of it however the process ends.

    Reading it, and writing figures and scores into it, needs no claim.

    Args:
        folder: of the run; exists.

    Raises:
        SettingsError: another process holds it, or nothing can be written there.
    """
    held = _taken(folder)
    try:
        os.truncate(held.descriptor, 0)
        os.pwrite(held.descriptor, _owner().encode(), 0)
        yield
    finally:
        held.release(remove=True)


def _taken(folder: Path) -> Held:
    try:
        held = take(folder / _NAME)
    except OSError as error:
        msg = (
            f"{folder}: nothing can be written there ({error.strerror}); make it writable, or choose another "
            "folder with --run.dir"
        )
        raise SettingsError(msg) from error
    if held is None:
        msg = (
            f"{folder}: {_holder(folder / _NAME)} is training in it. Wait for it, or stop it with Ctrl-C or SIGTERM, "
            "which leaves a checkpoint to go on from; or choose another --run.name"
        )
        raise SettingsError(msg)
    return held


def _owner() -> str:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started})


def _holder(file: Path) -> str:
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['started']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
