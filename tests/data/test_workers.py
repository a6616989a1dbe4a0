"""Processes that read ahead: what they heed, and how their ends are told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import Dataset

from kit.data.workers import Loader, lost_worker, start_worker
from kit.errors import KitError, StoreError


class Trouble(Dataset[int]):
    """Items that do something in the process that reads them."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        if index == 1 and self.what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 1 and self.what == "asked":
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
                os.kill(os.getpid(), number)
        if index == 2:
            msg = "chunk 7 of 't' is damaged: 3 bytes\nread 2"
            raise StoreError(msg)
        return index


def read(what: str) -> Iterator[Any]:
    return iter(
        Loader(
            Trouble(what), batch_size=None, num_workers=1, multiprocessing_context="spawn", worker_init_fn=start_worker
        )
    )


def test_a_worker_that_is_asked_to_stop_goes_on_and_its_faults_are_told_without_traceback() -> None:
    batches = read("asked")
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(StoreError) as told:
        next(batches)
    assert str(told.value) == "chunk 7 of 't' is damaged: 3 bytes\nread 2"


def test_a_worker_that_is_killed() -> None:
    with pytest.raises(KitError, match=r"a process that read data \(data.workers\) was killed \(Killed\); most likely"):
        list(read("killed"))


@pytest.mark.parametrize(
    ("text", "told"),
    (
        ("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that ...", "--shm-size"),
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "memory ran out"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "ended; its own messages"),
        (
            "DataLoader worker (pid 12) exited unexpectedly with exit code 1. Details are lost due to multiprocessing.",
            "ended; its own messages",
        ),
    ),
)
def test_how_pytorch_tells_it(text: str, told: str) -> None:
    assert told in (lost_worker(RuntimeError(text)) or "")


def test_other_failures_are_left_alone() -> None:
    assert lost_worker(RuntimeError("shape mismatch")) is None
