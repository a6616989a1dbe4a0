"""Locks: one holder, or several that share; gone with their process."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import threading
from pathlib import Path

import pytest

from kit.io.locks import take


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first = take(file)
    assert first is not None
    assert take(file) is None
    assert take(file, shared=True) is None
    first.release()
    again = take(file)
    assert again is not None
    again.release()
    assert file.exists()


def test_readers_share(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first, second = take(file, shared=True), take(file, shared=True)
    assert first is not None
    assert second is not None
    first.release()
    assert take(file) is None
    second.release()
    assert take(file) is not None


def test_a_file_that_is_not_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "lock", make=False)
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "missing" / "lock")
    assert not list(tmp_path.iterdir())


def test_waiting_ends_with_the_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    holder = take(file)
    assert holder is not None
    timer = threading.Timer(0.05, holder.release)
    timer.start()
    waiter = take(file, wait=True)
    timer.join()
    assert waiter is not None
    waiter.release()


def test_who_waited_for_a_removed_file_locks_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    holder = take(file)
    assert holder is not None
    timer = threading.Timer(0.05, holder.release, kwargs={"remove": True})
    timer.start()
    waiter = take(file, wait=True)
    timer.join()
    assert waiter is not None
    assert file.exists()
    assert take(file) is None
    waiter.release(remove=True)
    assert not file.exists()


def _take_and_die(file: Path) -> None:
    take(file)


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_take_and_die, args=(tmp_path / "lock",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert take(tmp_path / "lock") is not None


def test_a_file_system_without_locks_grants_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert take(tmp_path / "lock") is not None
    assert "this file system has no locks; let one process at a time work there" in caplog.text


def test_other_failures_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int, __: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"):
        take(tmp_path / "lock")
