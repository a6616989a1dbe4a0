"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.run_folder import MetricsLog, RunFolder, claimed, is_scorecard_of, read_side_file
from kit.io.errors import SettingsError
from kit.io.sealed import write_sealed

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


def metrics(step: int) -> dict[str, Any]:
    return {"step": step, "time_ms": step, "kind": "train", "loss": 1.0 / step}


@pytest.mark.parametrize(
    "damage",
    (
        lambda line: line[:-5],
        lambda line: b"",
        lambda line: b"\0" * len(line),
        lambda line: line.replace(b"step", b"stfp"),
        lambda line: line.replace(b"kind", b"kinf"),
        lambda line: line.replace(b"train", b"traio"),
        lambda line: line.replace(b"time_ms", b"time_mr"),
        lambda line: line.replace(b"1.0", b"\xff.0"),
        lambda line: line.replace(b"1.0", b"1.1"),
        lambda line: line.replace(b"crc32", b"crc31"),
        lambda line: line.replace(b', "crc32', b',  "crc32'),
        lambda line: line.replace(b'"step": 1', b'"step": true'),
        lambda line: b"[1]",
    ),
)
def test_a_damaged_line_costs_that_line_and_is_said(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append(metrics(step))
    first, *rest = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join((damage(first), *rest)))
    assert list(MetricsLog(tmp_path / "metrics.jsonl").records()) == [metrics(2), metrics(3)]
    assert caplog.messages == [f"{tmp_path / 'metrics.jsonl'}: line 1 is damaged and left out; the other 2 are whole"]
    caplog.clear()
    assert MetricsLog(tmp_path / "metrics.jsonl").cut(2) == [metrics(2)]
    assert list(MetricsLog(tmp_path / "metrics.jsonl").records()) == [metrics(2)]
    assert len(caplog.messages) == 1


def test_every_flipped_bit_of_a_line_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    MetricsLog(file).append(metrics(3))
    whole = file.read_bytes()
    for place in range(8 * (len(whole) - 1)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        assert MetricsLog(file).scan()[0] == [], bytes(changed)
    file.write_bytes(whole)
    assert MetricsLog(file).records() == [metrics(3)]


def test_a_line_that_was_cut_short_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "system.jsonl"
    file.write_text('{"step": 0, "time_ms": 0, "cpu": 1.0}\n{"step": 1, "ti')
    assert [record["step"] for record in MetricsLog(file).records()] == [0]
    assert caplog.text == ""
    file.write_bytes(file.read_bytes() + bytes(9))
    assert MetricsLog(file).scan()[1] == [2]
    file.write_bytes(file.read_bytes().rstrip(b"\0"))
    log = MetricsLog(file)
    for step in (2, 3):
        log.append({"step": step, "time_ms": 0, "cpu": 1.0})
    log.sync()
    assert [record["step"] for record in MetricsLog(file).records()] == [0, 2, 3]
    assert "line 2 is damaged and left out" in caplog.text


def test_a_scorecard_is_of_one_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "kit.json").write_text("{}\n")
    digest = hashlib.sha256(b"{}\n").hexdigest()
    assert is_scorecard_of({"checkpoint_sha256": digest}, tmp_path)
    assert is_scorecard_of({}, tmp_path)
    (tmp_path / "kit.json").write_text("{ }\n")
    assert not is_scorecard_of({"checkpoint_sha256": digest}, tmp_path)


def test_a_side_file_is_whole_or_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "trains.json"
    assert read_side_file(file, {"groups"}, "it is written anew") is None
    write_sealed(file, {"groups": 1})
    assert read_side_file(file, {"groups"}, "it is written anew") == {"groups": 1}
    assert read_side_file(file, {"check"}, "it is written anew") is None
    file.write_bytes(file.read_bytes().replace(b"1,", b"2,"))
    assert read_side_file(file, {"groups"}, "it is written anew") is None
    file.write_text("")
    assert read_side_file(file, {"groups"}, "it is written anew") is None
    words = [message.removeprefix(f"{file} ") for message in caplog.messages]
    assert words[:2] == ["is gone; it is written anew", "lacks check; it is written anew"]
    assert words[2].startswith("cannot be read: it was changed since it was written")
    assert words[3].endswith("; it is written anew")
