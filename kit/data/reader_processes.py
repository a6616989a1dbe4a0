"""Processes that read data: what they are told, which signals they heed, and what is said when one of them is lost.

They read parts of states into memory that belongs to the process that trains, which waits for them in a thread of its
own. They need neither PyTorch nor Aurora, so that one starts in half a second and takes 60 MB; this module, which they
import, may import nothing large either.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import signal
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize

import numpy as np

from kit.data.chunks import ChunkSlice
from kit.io.errors import KitError, SettingsError, WorkerError

__all__ = ["SharedBuffer", "ReadTask", "Workers"]

_PATIENCE = 5.0
"""Seconds for a process to end by itself."""
_FIRST = 10
"""Ends them when Python ends, before it waits for them."""


class SharedBuffer:
    """Memory that other processes can write to: anonymous, of no size limit but the host's, gone with its last user.

    Shared memory under ``/dev/shm`` would do as well, but containers have 64 MB of it.
    """

    def __init__(self, size: int) -> None:
        if not hasattr(os, "memfd_create"):
            msg = "data.workers needs Linux; leave it at 0: threads of this process read, and about as fast"
            raise SettingsError(msg)
        self.size = size
        self._descriptor = os.memfd_create("states")
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        os.ftruncate(self._descriptor, size)
        self.memory = mmap.mmap(self._descriptor, size)

    @property
    def path(self) -> str:
        """Where another process finds it, as long as this object is there; ``memory`` lasts until nobody uses it."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"


@dataclass(frozen=True)
class ReadTask:
    """One part of a state, and the place in a block where it goes."""

    part: ChunkSlice
    offset: int

    def carry_out(self, path: str) -> None:
        """Read it into the block at a path."""
        values = np.frombuffer(_mapped(path), np.float32, math.prod(self.part.shape), self.offset)
        self.part.read(values.reshape(self.part.shape))


_mappings: OrderedDict[int, mmap.mmap] = OrderedDict()
_MOST_MAPPINGS = 4


def _mapped(path: str) -> mmap.mmap:
    """The block at a path; the last few stay mapped, as blocks are used again and again."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        # A number of its own as long as it is mapped somewhere.
        known = os.fstat(descriptor).st_ino
        if known not in _mappings:
            _mappings[known] = mmap.mmap(descriptor, 0)
        _mappings.move_to_end(known)
        if len(_mappings) > _MOST_MAPPINGS:
            _mappings.popitem(last=False)
        return _mappings[known]
    finally:
        os.close(descriptor)


class Workers:
    """Processes that read; they start when they are first needed, and stay until this object is gone."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._started: dict[Connection, SpawnProcess] = {}
        self._finalize = Finalize(self, _end, (self._started,), exitpriority=_FIRST)

    def read(self, orders: Sequence[ReadTask], path: str) -> None:
        """Have orders carried out, all of them when this returns.

        Args:
            orders: what is read.
            path: of the block.

        Raises:
            KitError: the first thing that went wrong in a process.
            WorkerError: a process is gone.
        """
        with self._lock:
            try:
                failure = self._read(list(reversed(orders)), path)
            except BaseException:
                # What the processes still do would be taken for answers to the next orders.
                _end(self._started)
                raise
        if failure is not None:
            raise failure

    def _read(self, orders: list[ReadTask], path: str) -> KitError | None:
        self._start()
        failure: KitError | None = None
        busy: set[Connection] = set()
        for connection in self._started:
            if orders:
                _give(connection, self._started[connection], orders.pop(), path)
                busy.add(connection)
        while busy:
            for ready in connections.wait(busy):
                assert isinstance(ready, Connection)
                answer = _answer(ready, self._started[ready])
                failure = failure or answer
                if orders and failure is None:
                    _give(ready, self._started[ready], orders.pop(), path)
                else:
                    busy.remove(ready)
        return failure

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self._started) < self._count:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), name="data worker", daemon=True)
            process.start()
            theirs.close()
            self._started[ours] = process


def _give(connection: Connection, process: SpawnProcess, order: ReadTask, path: str) -> None:
    try:
        connection.send((order, path))
    except BrokenPipeError as error:
        raise _lost(process) from error


def _answer(connection: Connection, process: SpawnProcess) -> KitError | None:
    try:
        answer: KitError | None = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        raise _lost(process) from error
    return answer


def _lost(process: SpawnProcess) -> WorkerError:
    process.join(_PATIENCE)
    code = process.exitcode or 0
    what = f"was killed ({signal.strsignal(-code)})" if code < 0 else "ended"
    cause = (
        "most likely the host's memory ran out: use a smaller data.batch_size, or fewer data.workers"
        if code == -signal.SIGKILL
        else "its own messages above say why, if it had any; --data.workers 0 reads without"
    )
    return WorkerError(f"a process that read data (data.workers) {what}; {cause}")


def _end(started: dict[Connection, SpawnProcess]) -> None:
    """End processes: they do when nobody is there to give orders."""
    for connection in started:
        connection.close()
    for process in started.values():
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
    started.clear()


def _serve(orders: Connection) -> None:
    """Carry out orders until nobody is there to give them.

    Signals are left to the process that trains: it finishes its step, and needs its data for that. A terminal sends
    Ctrl-C to all processes of a job, and a queue sends SIGTERM to all of them.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            order, path = orders.recv()
        except EOFError:
            return
        failure: KitError | None = None
        try:
            order.carry_out(path)
        except KitError as error:
            failure = error
        try:
            orders.send(failure)
        except BrokenPipeError:
            return
