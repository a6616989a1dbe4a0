"""Samples of the machine beside a run: in ``system.jsonl``, and in MLflow."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

from kit.tracking.records import system_values
from kit.tracking.system import Probe, SystemMonitor
from kit.tracking.tracker import Record, Tracker
from kit.train.run_folder import MetricsLog, RunFolder

__all__ = ["watching"]


@contextmanager
def watching(folder: RunFolder, tracker: Tracker, seconds: float | None, gpus: Sequence[str] = ()) -> Iterator[None]:
    """Sample while the block runs.

    Samples are counted through all resumes: what a run did before its last checkpoint or after it, the machine did.

    Args:
        folder: of the run.
        tracker: of the run.
        seconds: between samples; None takes none.
        gpus: NVML's names of the GPUs to watch.
    """
    log = MetricsLog(folder.system)
    earlier = log.cut(sys.maxsize)
    tracker.reconcile(Record(line["step"], system_values(line), line["time_ms"]) for line in earlier)
    if seconds is None:
        yield
        return
    numbers = count(len(earlier))
    held: list[Record] = []

    def keep(values: dict[str, float]) -> None:
        step, moment = next(numbers), time.time_ns() // 10**6
        line = {"step": step, "time_ms": moment, **values}
        log.append(line)
        held.append(Record(step, system_values(line), moment))
        # MLflow's page of two runs opens with the metric that came first: a loss, not the CPU.
        while held and folder.metrics.exists():
            tracker.log(*held.pop(0))

    monitor = SystemMonitor(Probe(folder.path, gpus), keep, seconds)
    monitor.start()
    try:
        yield
    finally:
        monitor.stop()
