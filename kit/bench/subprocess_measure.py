"""Measures in a process of its own: what a function takes in time, and in memory at its peak."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

__all__ = ["Taken", "apart"]

P = ParamSpec("P")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Taken:
    """What a call took, imports before it not counted.

    Attributes:
        seconds: on the clock.
        cpu_seconds: of the processor, all threads together.
        grown_bytes: resident memory at its peak, above what the process had before.
        result: what the function returned.
    """

    seconds: float
    cpu_seconds: float
    grown_bytes: int
    result: Any


def apart(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Taken:
    """Call a function of a module in a fresh process, and measure the call.

    Args:
        function: importable by name; its module's imports are not counted.
        args: what it is given, picklable, as are ``kwargs`` and what it returns.
        kwargs: by name.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measured, function, args, kwargs).result()


def _measured(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taken:
    before = _resident("VmRSS")
    # Linux: sets the peak back to what is resident now. getrusage's peak would be the parent's, too.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    started, worked = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    return Taken(seconds, cpu_seconds, _resident("VmHWM") - before, result)


def _resident(what: str) -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{what}:"))
    return 1024 * int(line.split()[1])
