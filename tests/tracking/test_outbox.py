from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import pytest

from kit.io.errors import KitError
from kit.tracking.outbox import Outbox, Point


def points(count: int, first: int = 0) -> list[Point]:
    return [Point("loss", step, 0.5, 1000 + step) for step in range(first, first + count)]


def test_order_is_kept_in_requests_of_at_most_a_thousand() -> None:
    requests: list[list[Point]] = []
    outbox = Outbox(lambda batch: requests.append(list(batch)), interval=60)
    outbox.put(points(2500))
    assert not requests
    assert outbox.flush()
    assert [len(request) for request in requests] == [1000, 1000, 500]
    assert [point for request in requests for point in request] == points(2500)
    assert len(outbox) == 0


def test_sending_happens_in_the_background() -> None:
    sent = threading.Event()
    threads: list[str] = []

    def send(batch: Sequence[Point]) -> None:
        threads.append(threading.current_thread().name)
        sent.set()

    outbox = Outbox(send, interval=0)
    outbox.put(points(1))
    assert sent.wait(10)
    assert threads == ["tracking"]


def test_putting_never_waits_for_a_store_that_hangs() -> None:
    release = threading.Event()

    def hang(batch: Sequence[Point]) -> None:
        release.wait(10)

    outbox = Outbox(hang, interval=0)
    began = time.perf_counter()
    for step in range(100):
        outbox.put(points(1, step))
    assert time.perf_counter() - began < 1
    assert len(outbox) == 100
    release.set()
    assert outbox.flush()
    assert len(outbox) == 0


def test_nothing_is_lost_while_the_store_is_away(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[Point] = []
    away = True

    def send(batch: Sequence[Point]) -> None:
        if away:
            msg = "the store is away"
            raise KitError(msg)
        taken.extend(batch)

    outbox = Outbox(send, interval=60)
    outbox.put(points(3))
    with caplog.at_level(logging.INFO, logger="kit"):
        assert not outbox.flush()
        assert not outbox.flush()
        away = False
        assert outbox.flush()
    assert taken == points(3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # once each, not at every attempt
    assert "the store is away; training goes on, 3 values wait" in caplog.text


def test_a_store_that_hangs_is_waited_for_so_long_and_no_longer() -> None:
    release = threading.Event()

    def hang(batch: Sequence[Point]) -> None:
        release.wait(10)

    outbox = Outbox(hang, interval=60)
    outbox.put(points(1))
    began = time.perf_counter()
    assert not outbox.flush(0.1)
    assert time.perf_counter() - began < 2
    release.set()
    assert outbox.flush(10)


def test_what_finds_no_room_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[Point] = []
    away = [True]

    def send(batch: Sequence[Point]) -> None:
        if away:
            msg = "the store is away"
            raise KitError(msg)
        taken.extend(batch)

    outbox = Outbox(send, interval=60, limit=3)
    outbox.put(points(2))
    outbox.put(points(4, first=2))
    assert not outbox.flush()
    assert (len(outbox), outbox.left_out) == (3, 3)
    away.clear()
    assert outbox.flush()
    assert taken == points(3)
    assert "has everything that waited, except 3 values that found no room" in caplog.text
