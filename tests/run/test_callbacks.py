"""Signals that ask a run to end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from kit.run.callbacks import watch_signals


def test_the_first_signal_is_noted_and_the_second_acts() -> None:
    with watch_signals() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.caught is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_further_requests_change_nothing_but_ctrl_c_does() -> None:
    told: list[str] = []
    with watch_signals(told.append) as interruption:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.caught is signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert told == ["SIGHUP: ends after this step with a checkpoint; Ctrl-C ends it at once"]


def test_what_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watch_signals() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.caught is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_elsewhere_than_in_the_main_thread_nothing_is_noted() -> None:
    """As in a notebook's kernel that runs cells in a thread."""
    before, caught = signal.getsignal(signal.SIGTERM), []

    def cell() -> None:
        with watch_signals() as stop:
            caught.append(stop.caught)

    thread = threading.Thread(target=cell)
    thread.start()
    thread.join()
    assert caught == [None]
    assert signal.getsignal(signal.SIGTERM) is before
