"""The loop of a build: claims blocks, has them written in threads or on a cluster, and waits for others' blocks."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import functools
import importlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import xarray as xr

from kit.data.store.blocks import WriteTask, block_of, write_block
from kit.data.store.build_state import BuildState
from kit.io.errors import SettingsError, StoreError, UnavailableError
from kit.io.locks import LockHandle

__all__ = ["ExecutionOptions", "BuildProgressCallback", "write_blocks"]

_logger = logging.getLogger(__name__)

_PAUSE = 0.2
"""Seconds between looks at what other processes have done."""
_TOLD_EVERY = 0.5
"""Seconds: looking how far all have come takes longer, the more there is."""
_PATIENCE = 20.0
"""Seconds until a scheduler that does not answer is given up."""


class BuildProgressCallback(Protocol):
    """Is told how a build goes."""

    def begin(self, blocks: int, done: int) -> None:
        """Told once: blocks in all, and those that were there."""

    def advance(self, done: int, size: int) -> None:
        """Told after a block: blocks done, by whomever, and bytes of values that this process has written."""


@dataclass(frozen=True)
class ExecutionOptions:
    """ExecutionOptions a build is carried out; what is written does not depend on it.

    Attributes:
        workers: threads that write blocks; as many as there are processors by default.
        scheduler: address of a ``dask.distributed`` scheduler, whose workers write the blocks instead.
        restart: discard an unfinished build.
        watch: is told how it goes.
    """

    workers: int | None = None
    scheduler: str | None = None
    restart: bool = False
    watch: BuildProgressCallback | None = None


@dataclass(frozen=True)
class _Executor:
    """Who writes blocks.

    Attributes:
        submit: hands one over.
        limit: how many may be under way.
        stop: lets those that are be given up soon.
        lost: exceptions that say that a worker is gone.
    """

    submit: Callable[[WriteTask], cf.Future[int]]
    limit: int
    stop: Callable[[], None] = lambda: None
    lost: tuple[type[BaseException], ...] = ()


def write_blocks(part: BuildState, dataset: xr.Dataset, how: ExecutionOptions, *, offset: int = 0) -> None:
    """Write all blocks of a build that are not done, and wait for those that other processes write.

    Args:
        part: the build.
        dataset: its states.
        how: by whom.
        offset: states that the store has before those of the dataset.

    Raises:
        StoreError: the source cannot be read, or the cluster does not write into the same folder.
        OSError: the disk is full.
    """
    done = part.check()
    if how.watch is not None:
        how.watch.begin(len(part.numbers), len(done))
    if done and not part.private:
        _logger.info("%s: %d of %d blocks were there", part.folder, len(done), len(part.numbers))
    if len(done) == len(part.numbers):
        return
    with _crew(how) as crew:
        _Loop(part, functools.partial(block_of, part, dataset, offset=offset), crew, how.watch).run()


class _Loop:
    """Blocks on their way."""

    def __init__(
        self, part: BuildState, cut: Callable[[int], WriteTask], crew: _Executor, watch: BuildProgressCallback | None
    ) -> None:
        self._part, self._cut, self._crew, self._watch = part, cut, crew, watch
        self._busy: dict[cf.Future[int], tuple[int, LockHandle]] = {}
        self._size, self._told = 0, -math.inf

    def run(self) -> None:
        """Go on until every block is recorded."""
        try:
            while left := self._left():
                if not self._round(left):
                    # All that is left is in the hands of others; who dies lets go of it.
                    time.sleep(_PAUSE)
                self._tell()
        finally:
            self._crew.stop()
            cf.wait([future for future in self._busy if not future.cancel()])
            for _, held in self._busy.values():
                held.release()

    def _left(self) -> list[int]:
        done = self._part.recorded()
        return [number for number in self._part.numbers if number not in done]

    def _round(self, left: Sequence[int]) -> int:
        """Write those of the blocks that nobody else does; returns how many."""
        written = 0
        for number in left:
            held = self._part.claim(number)
            if held is None:
                continue
            self._busy[self._crew.submit(self._cut(number))] = (number, held)
            written += 1
            while len(self._busy) >= self._crew.limit:
                self._collect()
        while self._busy:
            self._collect()
        return written

    def _collect(self) -> None:
        finished, _ = cf.wait(self._busy, return_when=cf.FIRST_COMPLETED)
        for future in finished:
            number, held = self._busy.pop(future)
            try:
                self._size += future.result()
                if not self._part.record_file(number).exists():
                    msg = (
                        f"{self._part.folder}: the workers of the cluster do not write there; the store's folder must "
                        "be on a file system that all of them share, under the same name"
                    )
                    raise StoreError(msg)
            except self._crew.lost as error:
                msg = f"{self._part.folder}: a worker of the cluster is gone ({error}); the same command goes on"
                raise UnavailableError(msg) from error
            finally:
                held.release(remove=True)
        self._tell(_TOLD_EVERY)

    def _tell(self, every: float = 0.0) -> None:
        if self._watch is not None and time.monotonic() - self._told >= every:
            self._told = time.monotonic()
            self._watch.advance(len(self._part.recorded()), self._size)


@contextmanager
def _crew(how: ExecutionOptions) -> Iterator[_Executor]:
    if how.scheduler is not None:
        with _cluster(how.scheduler) as crew:
            yield crew
        return
    workers = how.workers or len(os.sched_getaffinity(0))
    stop = threading.Event()
    pool = cf.ThreadPoolExecutor(workers, thread_name_prefix="kit-build")
    try:
        # One more than can be at work, so that nobody waits; it holds nothing yet.
        yield _Executor(lambda block: pool.submit(write_block, block, stop), workers + 1, stop.set)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _cluster(address: str) -> Iterator[_Executor]:
    """The workers of a ``dask.distributed`` cluster; each block is a task."""
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
    with client, contextlib.ExitStack() as stack:
        threads = sum(client.nthreads().values())
        if not threads:
            msg = f"--scheduler {address}: the cluster has no workers; start some with `dask worker {address}`"
            raise SettingsError(msg)
        pool = stack.enter_context(client.get_executor(pure=False))

        def submit(block: WriteTask) -> cf.Future[int]:
            # Packed here: graphs in arguments would be taken for work of the cluster's own.
            future: cf.Future[int] = pool.submit(_unpacked, cloudpickle.dumps(block))
            return future

        yield _Executor(submit, threads + 1, lost=(distributed.KilledWorker, distributed.client.FutureCancelledError))


def _unpacked(content: bytes) -> int:
    import pickle

    block: WriteTask = pickle.loads(content)  # noqa: S301 - from the process that gave the task
    return write_block(block)
