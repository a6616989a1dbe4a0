"""Claims on pieces of work that several processes share, and that a process which was killed lets go of.

A claim is a file that names its owner, and whose time of change its owner renews. Whether an owner of this machine
still lives is asked of the system; an owner elsewhere is given up when its claim has not been renewed for a while. A
lock would not do: file systems of clusters often have none that reach beyond one machine.

Nobody's result depends on a claim: two processes that do the same piece write the same bytes.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from kit.io.documents import DocumentError, read_json
from kit.io.locks import take

_logger = logging.getLogger(__name__)

RENEWED_EVERY = 10.0
"""Seconds between two renewals of a claim."""
GIVEN_UP_AFTER = 120.0
"""Seconds without a renewal after which a claim of another machine is given up."""
_LOCK = ".lock"


@dataclass(frozen=True)
class Owner:
    """Process that holds a claim.

    Attributes:
        machine: Machine, since it was started, and the process numbers that count on it: containers have their own.
        host: Name of the machine, for messages.
        process: Number of the process.
        started: When the process began, seconds since 1970: numbers are given out again.
        token: Name of this claim alone.
    """

    machine: str
    host: str
    process: int
    started: float
    token: str

    @classmethod
    def present(cls) -> "Owner":
        """Describe this process, with a token of its own."""
        process = psutil.Process()
        return cls(_machine(), socket.gethostname(), process.pid, process.create_time(), uuid.uuid4().hex)

    def is_gone(self) -> bool:
        """Decide whether the process has ended; False where it is of another machine, of which nothing is known."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.process)
            return process.status() == psutil.STATUS_ZOMBIE or bool(process.create_time() != self.started)
        except psutil.NoSuchProcess:
            return True


class Claims:
    """Claims in a folder, one file for each piece of work.

    Args:
        folder: Folder of the claims, which exists.
        renewed_every: Seconds between two renewals.
        given_up_after: Seconds without a renewal after which a claim of another machine is given up.
    """

    def __init__(
        self, folder: Path, *, renewed_every: float = RENEWED_EVERY, given_up_after: float = GIVEN_UP_AFTER
    ) -> None:
        self._folder = folder
        self._renewed_every = renewed_every
        self._given_up_after = given_up_after
        # What each claim of others looked like, and when by this process's clock: another machine's may be wrong.
        self._seen: dict[str, tuple[int, float]] = {}

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Hold a claim while the block runs, if nobody else has it.

        Args:
            name: Name of the piece of work.

        Yields:
            Whether it is held; if not, the work is another process's.

        Raises:
            FileNotFoundError: the folder is gone.
        """
        file = self._folder / name
        owner = Owner.present()
        if not self._take(file, owner):
            yield False
            return
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(file, ended), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            ended.set()
            renewing.join()
            found = _read(file)
            # It may have been given up meanwhile, and be another's.
            if found is not None and found.token == owner.token:
                file.unlink(missing_ok=True)

    def _take(self, file: Path, owner: Owner) -> bool:
        if _create(file, owner):
            return True
        if not self._is_dead(file):
            return False
        # One at a time: of two that find the same dead claim, the second would remove the first one's new claim.
        lock = take(self._folder / _LOCK, wait=True, quiet=True)
        assert lock is not None
        try:
            if self._is_dead(file):
                _logger.info("the claim on %s is given up: its owner is gone", file.name)
                file.unlink(missing_ok=True)
            return _create(file, owner)
        finally:
            lock.release()

    def _is_dead(self, file: Path) -> bool:
        """Decide whether nobody works on a piece that is claimed."""
        try:
            stamp = file.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        owner = _read(file)
        if owner is not None and owner.is_gone():
            return True
        if owner is not None and owner.machine == _machine():
            return False
        now = time.monotonic()
        before, since = self._seen.setdefault(file.name, (stamp, now))
        if before != stamp:
            self._seen[file.name] = (stamp, now)
            return False
        return now - since > self._given_up_after

    def _renew(self, file: Path, ended: threading.Event) -> None:
        while not ended.wait(self._renewed_every):
            # Given up by others, after a pause of this machine: the work goes on, and its result is the same.
            with contextlib.suppress(OSError):
                os.utime(file)


def _machine() -> str:
    """Name this machine since its start, and the space of its process numbers that this process is in."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else f"{psutil.boot_time():.0f}"
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{started} {namespace}"


def _create(file: Path, owner: Owner) -> bool:

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        json.dump(asdict(owner), stream)
    return True


def _read(file: Path) -> Owner | None:
    """Read who holds a claim; None where it is gone, or where its owner was killed before it had written its name."""
    try:
        content: Any = read_json(file)
        owner, process = Owner(**content), content["process"]
    except (OSError, DocumentError, TypeError):
        return None
    # The system is asked for it.
    if not isinstance(process, int) or process < 0:
        return None
    return owner
