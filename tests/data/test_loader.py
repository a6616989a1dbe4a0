"""Pairs read ahead, by threads and by processes: the same ones in the same order, whoever reads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from aurora import Batch

from kit.data.dataset import Pair, Pairs
from kit.data.loader import ShuffledPairs, Upcoming, Waiting, load_pairs, read_ahead
from kit.data.readers import ProcessReader, Reader, ThreadReader
from kit.data.store.reader import Store
from kit.io.errors import StoreError, WorkerError
from tests.data.test_dataset import ALL, selection
from tests.factories import synthetic_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """16 x 32, 12 states every 6 h from 2020-01-01."""
    return synthetic_store(tmp_path_factory.mktemp("loading") / "store")


@pytest.fixture(scope="module")
def pairs(store: Store) -> Pairs:
    return Pairs(store, selection(store), ALL)


@pytest.fixture(scope="module")
def two_processes() -> ProcessReader:
    return ProcessReader(2)


def values(pair: Pair) -> Iterator[torch.Tensor]:
    def of(batch: Batch) -> Iterator[torch.Tensor]:
        yield from (*batch.surf_vars.values(), *batch.atmos_vars.values(), *batch.static_vars.values())

    for batch in (pair.inputs, *pair.targets):
        yield from of(batch)


@pytest.mark.parametrize("kind", ("threads", "processes"))
def test_whoever_reads_gives_the_same_batches(pairs: Pairs, two_processes: Reader, kind: str) -> None:
    """Epochs of 10 pairs in batches of 4, 4 and 2, from the second batch on."""
    reader = two_processes if kind == "processes" else ThreadReader(3)
    before = torch.get_rng_state()
    order = ShuffledPairs(10, batch_size=4, seed=0, batches=6, start=1)
    loaded = list(load_pairs(pairs, reader, order=order))
    assert torch.equal(torch.get_rng_state(), before)  # reading ahead must not change what training draws
    assert [len(pair.inputs.metadata.time) for pair in loaded] == [4, 2, 4, 4, 2]
    for pair, indices in zip(loaded, order, strict=True):
        assert pair.inputs.metadata.time == tuple(map(pairs.time, indices))
        for ours, plain in zip(values(pair), values(pairs.batch(indices)), strict=True):
            assert ours.is_contiguous()
            assert torch.equal(ours, plain)


def test_batches_in_order_of_time_as_often_as_wanted(pairs: Pairs, two_processes: Reader) -> None:
    batches = load_pairs(pairs, two_processes, batch_size=3)
    for _ in range(2):
        assert [len(pair.inputs.metadata.time) for pair in batches] == [3, 3, 3, 1]
    plain = load_pairs(pairs, batch_size=3)
    assert [pair.inputs.metadata.time for pair in plain] == [pair.inputs.metadata.time for pair in batches]


def test_two_loops_share_the_processes(pairs: Pairs, two_processes: Reader) -> None:
    """As training and its validation do."""
    training = iter(load_pairs(pairs, two_processes))
    first = next(training)
    assert len(list(load_pairs(pairs, two_processes, batch_size=5))) == 2
    assert [first, *training][-1].inputs.metadata.time == (pairs.time(9),)


def test_batches_outlive_what_reads_them(pairs: Pairs) -> None:
    """Their memory is their own: neither the next batch nor the end of the processes touches it."""
    reader = ProcessReader(1)
    kept = pairs.batch([0], reader)
    pairs.batch([5], reader)
    children = psutil.Process().children()
    del reader
    gone, _ = psutil.wait_procs(children, timeout=0.1)
    assert gone
    assert all(torch.equal(a, b) for a, b in zip(values(kept), values(pairs[0]), strict=True))
    next(values(kept)).add_(1.0)


def test_a_damaged_chunk_is_told_by_the_process_that_reads_it_and_reading_goes_on(
    tmp_path: Path, two_processes: Reader
) -> None:
    broken = synthetic_store(tmp_path / "store", times=6)
    (broken.path / "t" / "c" / "3" / "0" / "0" / "0").unlink()
    pairs = Pairs(broken, selection(broken), ALL)
    with pytest.raises(StoreError, match=r"t at 2020-01-01T18:00:00 cannot be read \(.*is gone\)"):
        pairs.batch([1], two_processes)
    assert torch.equal(pairs.batch([0], two_processes).inputs.surf_vars["2t"], pairs[0].inputs.surf_vars["2t"])


def test_a_process_that_is_killed(pairs: Pairs) -> None:
    reader = ProcessReader(1)
    before = {child.pid for child in psutil.Process().children()}
    pairs.batch([0], reader)
    (worker,) = (child for child in psutil.Process().children() if child.pid not in before)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
        os.kill(worker.pid, number)
    pairs.batch([1], reader)
    worker.kill()
    with pytest.raises(
        WorkerError, match=r"a process that read data \(data.workers\) was killed \(Killed\); most like"
    ):
        pairs.batch([1], reader)


def test_reading_ahead_gives_the_same_in_order() -> None:
    assert list(read_ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(read_ahead([])) == []


def test_a_failure_while_reading_ahead_reaches_the_reader() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise StoreError("damaged")

    stream = read_ahead(broken())
    assert next(stream) == 1
    with pytest.raises(StoreError, match="damaged"):
        next(stream)


def test_what_is_waited_for_is_counted_and_what_is_read_meanwhile_is_not() -> None:
    """Four batches take 0.05 s each to read and 0.08 s to use: the first alone is waited for."""

    def slowly() -> Iterator[int]:
        for number in range(4):
            time.sleep(0.05)
            yield number

    waiting = Waiting(read_ahead(slowly()))
    for _ in waiting:
        time.sleep(0.08)
    assert 0.04 < waiting.seconds < 0.15
    alone = Waiting(slowly())
    assert list(alone) == [0, 1, 2, 3]
    assert alone.seconds > 0.19


def test_upcoming_batches_are_asked_for_one_by_one() -> None:
    asked = []

    def stream() -> Iterator[int]:
        for number in range(9):
            asked.append(number)
            yield number

    source = stream()
    group = Upcoming(source, 3)
    assert len(group) == 3
    for number in group:
        assert asked == [*range(number + 1)]
    assert next(source) == 3


def test_a_part_of_a_state(store: Store) -> None:
    """A box across Greenwich, which is not a run of columns, with levels in another order."""
    part = store.chunk_slice("t", 4, slice(2, 9), range(-5, 3), [2, 0])
    expected = store.read("t", [4])[0][[2, 0], 2:9][..., [*range(27, 32), *range(3)]]
    out = np.empty(part.shape, dtype=np.float32)
    part.read(out)
    np.testing.assert_array_equal(out, expected)
