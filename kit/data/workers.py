"""Processes that read ahead: which signals they heed, and what is said when one of them is lost."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from kit.errors import KitError, WorkerError

__all__ = ["Loader", "lost_worker", "start_worker"]

T = TypeVar("T")
_AT_ONCE = 2.0
"""Seconds; PyTorch waits five before it sends its own."""
_LOST = re.compile(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (exited unexpectedly|is killed by signal: (\w[\w ]*))")
_RAISED = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.\nOriginal Traceback")


def start_worker(index: int) -> None:  # noqa: ARG001 - PyTorch passes it
    """Leave signals to the process that trains: it finishes its step, and needs its data for that.

    A terminal sends Ctrl-C to all processes of a job, and a queue sends SIGTERM to all of them, some twice at once. One
    that comes later ends the worker: PyTorch and Python send theirs to workers that do not end by themselves in time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    asked: list[float] = []

    def end_later(number: int, _frame: FrameType | None) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > _AT_ONCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end_later)


class Loader(DataLoader[T]):
    """PyTorch's, whose workers' failures are readable."""

    def __iter__(self) -> Any:
        """Batches in order."""
        return _readable(super().__iter__())


def _readable(batches: Iterator[T]) -> Iterator[T]:
    try:
        yield from batches
    except KitError as error:
        # Raised in a worker, it carries that process's traceback.
        raise type(error)(_last_line(error)) from error
    except RuntimeError as error:
        if lost := lost_worker(error):
            raise WorkerError(lost) from error
        raise


def _last_line(error: KitError) -> str:
    text = str(error)
    if not _RAISED.match(text):
        return text
    told = text[text.rindex(f"{type(error).__name__}: ") :] if f"{type(error).__name__}: " in text else text
    return told.partition(": ")[2].strip()


def lost_worker(error: BaseException) -> str | None:
    """Say what became of a process that read data; None if the failure is another one."""
    told = ""
    seen: BaseException | None = error
    while seen is not None:
        # Of several, the one that knows the signal is the first cause.
        told, seen = f"{told}\n{seen}", seen.__cause__ or seen.__context__
    found = list(_LOST.finditer(told))
    if not found:
        return None
    match = next((one for one in found if one[2]), found[0])
    what = f"was killed ({match[2].strip()})" if match[2] else "ended"
    cause = {
        "Bus error": "shared memory is full: enlarge /dev/shm (docker run --shm-size 16g), or use fewer data.workers",
        "Killed": "most likely the host's memory ran out: use fewer data.workers, or a smaller data.batch_size",
    }.get((match[2] or "").strip(), "its own messages above say why, if it had any; --data.workers 0 reads without")
    return f"a process that read data (data.workers) {what}; {cause}"
