"""Measurements in a process of their own: the time that a function takes, and its memory at its peak."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

__all__ = ["Measurement", "measure_in_subprocess"]

P = ParamSpec("P")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Measurement:
    """Time and memory of a call, imports before it not counted.

    Attributes:
        seconds: Seconds on the clock.
        cpu_seconds: Seconds of the processor, all threads together.
        grown_bytes: Bytes of resident memory at its peak, above what the process had before.
        result: What the function returned.
    """

    seconds: float
    cpu_seconds: float
    grown_bytes: int
    result: Any


def measure_in_subprocess(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Measurement:
    """Call a function of a module in a fresh process, and measure the call.

    Args:
        function: Function that is importable by name; its module's imports are not counted.
        args: Its arguments, picklable, as are ``kwargs`` and what it returns.
        kwargs: Its arguments by name.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measured, function, args, kwargs).result()


def _measured(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Measurement:
    before = _resident("VmRSS")
    # Linux: sets the peak back to what is resident now. getrusage's peak would be the parent's, too.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    started, worked = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    return Measurement(seconds, cpu_seconds, _resident("VmHWM") - before, result)


def _resident(what: str) -> int:
    """Read a size of this process in bytes, by the name that the system's table has for it."""
    table = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    return 1024 * int(table[what].split()[0])
