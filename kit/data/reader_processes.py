"""Processes that read data: their tasks, the signals they heed, and what is reported when one of them is lost.

They read parts of states into memory that belongs to the process that trains, which waits for them in a thread of its
own. They need neither PyTorch nor Aurora, so that one starts in half a second and takes 60 MB; this module, which they
import, may import nothing large either.
"""

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
        """Path by which another process opens it while this object lives; ``memory`` lasts until nobody uses it."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"


_mappings: OrderedDict[int, mmap.mmap] = OrderedDict()
_MOST_MAPPINGS = 4
"""Buffers that stay mapped in a process, the last ones used: they are used again and again."""


@dataclass(frozen=True)
class ReadTask:
    """One slice of a state, and the byte of a shared buffer where it begins."""

    chunk_slice: ChunkSlice
    offset: int

    def read_into(self, path: str) -> None:
        """Read the slice into the shared buffer at a path."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            # A number of its own as long as it is mapped somewhere.
            known = os.fstat(descriptor).st_ino
            if known not in _mappings:
                _mappings[known] = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        _mappings.move_to_end(known)
        if len(_mappings) > _MOST_MAPPINGS:
            _mappings.popitem(last=False)
        values = np.frombuffer(_mappings[known], np.float32, math.prod(self.chunk_slice.shape), self.offset)
        self.chunk_slice.read(values.reshape(self.chunk_slice.shape))


class Workers:
    """Processes that read; they start when they are first needed, and stay until this object is gone."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._started: dict[Connection, SpawnProcess] = {}
        self._finalize = Finalize(self, _end, (self._started,), exitpriority=_FIRST)

    def read(self, tasks: Sequence[ReadTask], path: str) -> None:
        """Read parts of states into a shared buffer; all are there when this returns.

        Args:
            tasks: Parts, and their places in the buffer.
            path: Path of the buffer.

        Raises:
            KitError: the first thing that went wrong in a process.
            WorkerError: a process is gone.
        """
        with self._lock:
            try:
                failure = self._read(list(reversed(tasks)), path)
            except BaseException:
                # What the processes still do would be taken for answers to the next tasks.
                _end(self._started)
                raise
        if failure is not None:
            raise failure

    def _read(self, tasks: list[ReadTask], path: str) -> KitError | None:
        # A fresh interpreter for each, which has nothing of PyTorch: 60 MB, not 830.
        context = multiprocessing.get_context("spawn")
        while len(self._started) < self._count:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), name="data worker", daemon=True)
            process.start()
            # Ours alone: when the process is gone, reading from the pipe fails instead of waiting.
            theirs.close()
            self._started[ours] = process
        failure: KitError | None = None
        ready: list[Connection] = list(self._started)
        busy: set[Connection] = set()
        while ready or busy:
            for connection in ready:
                try:
                    if connection in busy:
                        answer: KitError | None = connection.recv()
                        busy.remove(connection)
                        failure = failure or answer
                    # After a failure, nothing more is begun.
                    if tasks and failure is None:
                        connection.send((tasks.pop(), path))
                        busy.add(connection)
                except (BrokenPipeError, EOFError, ConnectionResetError) as error:
                    raise _lost(self._started[connection]) from error
            ready = []
            if busy:
                ready = [one for one in connections.wait(busy) if isinstance(one, Connection)]
        return failure


def _lost(process: SpawnProcess) -> WorkerError:
    process.join(_PATIENCE)
    code = process.exitcode or 0
    what, cause = "ended", "its own messages above say why, if it had any; --data.workers 0 reads without"
    if code < 0:
        # The negative number of a signal.
        what = f"was killed ({signal.strsignal(-code)})"
    if code == -signal.SIGKILL:
        cause = "most likely the host's memory ran out: use a smaller data.batch_size, or fewer data.workers"
    return WorkerError(f"a process that read data (data.workers) {what}; {cause}")


def _end(started: dict[Connection, SpawnProcess]) -> None:
    """End processes: they do when nobody is there to give tasks."""
    for connection in started:
        connection.close()
    for process in started.values():
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
    started.clear()


def _serve(tasks: Connection) -> None:
    """Carry out tasks until nobody is there to give them.

    Signals are left to the process that trains: it finishes its step, and needs its data for that. A terminal sends
    Ctrl-C to all processes of a job, and a queue sends SIGTERM to all of them.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            task, path = tasks.recv()
        except EOFError:
            return
        failure: KitError | None = None
        try:
            task.read_into(path)
        except KitError as error:
            failure = error
        try:
            tasks.send(failure)
        except BrokenPipeError:
            return
