"""Trying again: how often, how long, and when it is given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from kit.io.progress import ProgressCallback
from kit.io.retry import Limits, RetryableError, SourceError, patiently, poll, reason, retry_after, wait_before_retry

LIMITS = Limits(attempts=4, backoff=1.0, longest=3.0)


class Notes(ProgressCallback):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def said(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def failing(*errors: RetryableError) -> Callable[[], str]:
    """Fail as often as there are errors, then succeed."""
    left = list(errors)

    def run() -> str:
        if left:
            raise left.pop(0)
        return "there"

    return run


def test_waits_double_up_to_the_longest(waits: list[float]) -> None:
    notes = Notes()
    assert patiently(failing(*[RetryableError("cut")] * 3), LIMITS, notes) == "there"
    assert waits == [1.0, 2.0, 3.0]
    assert notes.texts == [f"cut; trying again in {n} s" for n in (1, 2, 3)]


def test_it_is_given_up(waits: list[float]) -> None:
    with pytest.raises(SourceError, match="cut; given up after 4 attempts"):
        patiently(failing(*[RetryableError("cut")] * 4), LIMITS, Notes())
    assert waits == [1.0, 2.0, 3.0]


def test_an_attempt_that_got_further_counts_as_the_first(waits: list[float]) -> None:
    there = iter([0, 0, 5, 5, 9, 9])
    patiently(failing(*[RetryableError("cut")] * 5), LIMITS, Notes(), lambda: next(there))
    assert waits == [1.0, 1.0, 2.0, 1.0, 2.0]


def test_a_server_says_how_long(waits: list[float]) -> None:
    patiently(failing(RetryableError("busy", wait=2.5), RetryableError("busy", wait=0.0)), LIMITS, Notes())
    assert waits == [2.5, 0.0]
    with pytest.raises(SourceError, match="busy; the server asks to wait 4 s"):
        patiently(failing(RetryableError("busy", wait=4.0)), LIMITS, Notes())


def test_one_wait_by_itself() -> None:
    assert [wait_before_retry(RetryableError("cut"), n, LIMITS) for n in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert wait_before_retry(RetryableError("busy", wait=0.5), 3, LIMITS) == 0.5
    with pytest.raises(SourceError, match="given up after 4 attempts"):
        wait_before_retry(RetryableError("cut"), 4, LIMITS)


def test_other_failures_are_not_tried_again(waits: list[float]) -> None:
    def run() -> None:
        raise SourceError("absent")

    with pytest.raises(SourceError, match="absent"):
        patiently(run, LIMITS, Notes())
    assert waits == []


def test_asking_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert poll(lambda: True, every=1.0, limit=0.0)
    assert clock == [0.0]
    assert poll(lambda: clock[0] >= 3.0, every=1.0)
    assert clock == [3.0]
    assert not poll(lambda: False, every=1.0, limit=2.0)
    assert clock == [5.0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0.0),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after(headers) == expected


def test_a_date_to_wait_for() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10))
    assert retry_after({"Retry-After": date}) == pytest.approx(600.0, abs=5.0)


class ReadTimeout(Exception):
    pass


class IncompleteRead(Exception):
    pass


class ProxyError(Exception):
    pass


def test_reasons_are_the_systems_own_words() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    assert reason(ValueError("https://me:secret@host", refused)) == "Connection refused"
    assert reason(ProxyError(refused)) == "through the proxy: Connection refused"
    assert reason(ValueError(ReadTimeout("https://host"))) == "no answer in time"
    assert reason(ValueError(IncompleteRead())) == "the connection was cut"
    assert reason(KeyError("secret")) == "KeyError"
    chained = ValueError("outer")
    chained.__cause__ = refused
    assert reason(chained) == "Connection refused"
