"""Execution of a build: blocks are claimed, written in threads or on a cluster, and awaited from others."""

import concurrent.futures as cf
import contextlib
import importlib
import logging
import math
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import xarray as xr

from kit.data.store.blocks import WriteTask, cut_block, write_block
from kit.data.store.build_state import BuildState
from kit.io.errors import SettingsError, StoreError, UnavailableError
from kit.io.locks import LockHandle
from kit.io.retry import poll

_logger = logging.getLogger(__name__)

_PAUSE = 0.2
"""Seconds between looks at what other processes have done."""
_REPORT_EVERY = 0.5
"""Seconds: looking how far all have come takes longer, the more there is."""
_PATIENCE = 20.0
"""Seconds until a scheduler that does not answer is given up."""


class BuildProgressCallback(Protocol):
    """Receives the progress of a build."""

    def begin(self, blocks: int, done: int) -> None:
        """Begin, with the number of all blocks and of those that were there; called once."""

    def advance(self, done: int, size: int) -> None:
        """Take in the number of blocks done, by whomever, and the bytes of values that this process has written."""


@dataclass(frozen=True)
class ExecutionOptions:
    """Execution of a build; what is written does not depend on it.

    Attributes:
        workers: Number of threads that write blocks; as many as there are processors by default.
        scheduler: Address of a ``dask.distributed`` scheduler, whose workers write the blocks instead.
        restart: Whether to discard an unfinished build.
        watch: Callback that receives the progress.
    """

    workers: int | None = None
    scheduler: str | None = None
    restart: bool = False
    watch: BuildProgressCallback | None = None


@dataclass(frozen=True)
class _Executor:
    """Threads or a cluster that write blocks.

    Attributes:
        submit: Function that hands a block over.
        limit: Number of blocks that may be under way.
        stop: Function that lets these be given up soon.
        lost: Exceptions that say that a worker is gone.
    """

    submit: Callable[[WriteTask], cf.Future[int]]
    limit: int
    stop: Callable[[], None] = lambda: None
    lost: tuple[type[BaseException], ...] = ()


def write_blocks(build: BuildState, dataset: xr.Dataset, how: ExecutionOptions, *, offset: int = 0) -> None:
    """Write all blocks of a build that are not done, and wait for those that other processes write.

    Args:
        build: Build to work on.
        dataset: States of the build.
        how: Threads or cluster, and callback.
        offset: Number of states that the store has before those of the dataset.

    Raises:
        StoreError: the source cannot be read, or the cluster does not write into the same folder.
        OSError: the disk is full.
    """
    # Files may have been lost since an earlier process recorded them.
    done = build.check()
    if how.watch is not None:
        how.watch.begin(len(build.numbers), len(done))
    # A private build is nobody's to go on with: nothing can have been there.
    if done and not build.private:
        _logger.info("%s: %d of %d blocks were there", build.folder, len(done), len(build.numbers))
    if len(done) == len(build.numbers):
        return
    if how.scheduler is None:
        started = _threads(how.workers or len(os.sched_getaffinity(0)))
    else:
        started = _cluster(how.scheduler)
    with started as executor:
        loop = _Loop(build, lambda number: cut_block(build, dataset, number, offset=offset), executor, how.watch)
        try:
            # What is left after a round is in the hands of others; who dies lets go of it.
            poll(loop.round, _PAUSE)
        finally:
            loop.end()


class _Loop:
    """Blocks on their way."""

    def __init__(
        self,
        build: BuildState,
        cut: Callable[[int], WriteTask],
        executor: _Executor,
        watch: BuildProgressCallback | None,
    ) -> None:
        self._build, self._cut, self._executor, self._watch = build, cut, executor, watch
        self._busy: dict[cf.Future[int], tuple[int, LockHandle]] = {}
        self._size, self._reported = 0, -math.inf

    def round(self) -> bool:
        """Write those of the blocks that nobody else writes; returns whether all blocks are done, by whomever."""
        done = self._build.recorded()
        for number in self._build.numbers:
            if number in done:
                continue
            held = self._build.claim(number)
            if held is None:
                continue
            self._busy[self._executor.submit(self._cut(number))] = (number, held)
            # No more blocks are claimed than can be written soon, so that other processes find some to claim.
            while len(self._busy) >= self._executor.limit:
                self._collect()
        while self._busy:
            self._collect()
        self._report()
        return len(self._build.recorded()) == len(self._build.numbers)

    def end(self) -> None:
        """Give up what is under way, and let go of it when it has ended."""
        self._executor.stop()
        # A block that has begun is waited for: its files must not appear in a folder that is being removed.
        cf.wait([future for future in self._busy if not future.cancel()])
        for _, held in self._busy.values():
            held.release()

    def _collect(self) -> None:
        finished, _ = cf.wait(self._busy, return_when=cf.FIRST_COMPLETED)
        for future in finished:
            number, held = self._busy.pop(future)
            try:
                self._size += future.result()
                if not self._build.record_file(number).exists():
                    msg = (
                        f"{self._build.folder}: the workers of the cluster do not write there; the store's folder must "
                        "be on a file system that all of them share, under the same name"
                    )
                    raise StoreError(msg)
            except self._executor.lost as error:
                msg = f"{self._build.folder}: a worker of the cluster is gone ({error}); the same command goes on"
                raise UnavailableError(msg) from error
            finally:
                # The claim of a block that failed is free for others.
                held.release(remove=True)
        self._report(_REPORT_EVERY)

    def _report(self, every: float = 0.0) -> None:
        if self._watch is not None and time.monotonic() - self._reported >= every:
            self._reported = time.monotonic()
            self._watch.advance(len(self._build.recorded()), self._size)


@contextmanager
def _threads(workers: int) -> Iterator[_Executor]:
    stop = threading.Event()
    pool = cf.ThreadPoolExecutor(workers, thread_name_prefix="kit-build")
    try:
        # One more than can be at work, so that nobody waits; it holds nothing yet.
        yield _Executor(lambda task: pool.submit(write_block, task, stop), workers + 1, stop.set)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _cluster(address: str) -> Iterator[_Executor]:
    """Connect to a ``dask.distributed`` cluster, whose workers take each block as a task."""
    try:
        distributed: Any = importlib.import_module("distributed")
        cloudpickle: Any = importlib.import_module("cloudpickle")
    except ImportError as error:
        msg = (
            f"--scheduler needs the package distributed, which cannot be imported ({error}); install it with: "
            'pip install "aurora-finetune-kit[cluster]"'
        )
        raise SettingsError(msg) from error
    try:
        client = distributed.Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        msg = f"--scheduler {address}: no scheduler answers there ({error}); start one with `dask scheduler`"
        raise SettingsError(msg) from error
    # The executor is closed before the client that it belongs to.
    with client, contextlib.ExitStack() as stack:
        threads = sum(client.nthreads().values())
        if not threads:
            msg = f"--scheduler {address}: the cluster has no workers; start some with `dask worker {address}`"
            raise SettingsError(msg)
        pool = stack.enter_context(client.get_executor(pure=False))
        lost = (distributed.KilledWorker, distributed.client.FutureCancelledError)
        # Packed here: graphs in arguments would be taken for work of the cluster's own.
        yield _Executor(lambda task: pool.submit(_write_packed, cloudpickle.dumps(task)), threads + 1, lost=lost)


def _write_packed(content: bytes) -> int:
    task: WriteTask = pickle.loads(content)  # noqa: S301 - from the process that gave the task
    return write_block(task)
