"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.run_folder import RunFolder, claimed
from kit.io.errors import SettingsError

_HOLD = """
import sys, time
from pathlib import Path
from kit.checkpoint.run_folder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_once_and_let_go_of(tmp_path: Path) -> None:
    with claimed(tmp_path):
        with pytest.raises(SettingsError, match=rf"process {os.getpid()} on .*, since 20.*, is training in it"):
            claimed(tmp_path).__enter__()
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path):
        pass


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(SettingsError, match=f"process {process.pid} on "):
        claimed(tmp_path).__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with claimed(tmp_path):
        pass


def test_a_lock_without_an_owner(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="another process is training in it"):
            claimed(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        SettingsError, match=r"nothing can be written there \(Read-only file system\); make it writable"
    ):
        claimed(tmp_path).__enter__()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path):
        assert "has no locks" in caplog.text


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SettingsError, match=r"runs: is not a folder, .* choose another --run.dir"):
        RunFolder(tmp_path / "runs" / "first").check_writable()
    with pytest.raises(SettingsError, match=r"cannot be made \(Not a directory\)"):
        RunFolder(tmp_path / "runs" / "first").create()
    RunFolder(tmp_path / "deep" / "runs" / "first").check_writable()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingsError, match=f"{tmp_path}: nothing can be written there"):
        RunFolder(tmp_path / "deep" / "runs" / "first").check_writable()


def test_of_two_processes_that_make_a_folder_one_is_told(tmp_path: Path) -> None:
    RunFolder(tmp_path / "first").create()
    with pytest.raises(SettingsError, match="this run exists already"):
        RunFolder(tmp_path / "first").create()
