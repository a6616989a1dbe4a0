"""Runs as processes of their own, whose terminal, group, pipe or worker goes away."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kit.checkpoint.folder import open_checkpoint
from tests.factories import synthetic_store
from tests.run.test_finetune import wait_for_steps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


@pytest.fixture
def line(store: Path, run_dir: Path) -> list[str]:
    """A command line that would take minutes, with one checkpoint after its second step."""
    run = ["--run.dir", str(run_dir), "--run.name", "first", "--data.store", str(store), "--model.weights", "random"]
    steps = ["--train.steps", "400", "--train.checkpoint_every", "400", "--train.resume", "auto"]
    return [sys.executable, "-m", "kit.cli.main", "finetune", *run, *steps]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[Any]]]:
    """Those that a test has started; none is left behind."""
    started: list[subprocess.Popen[Any]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def last_step(run_dir: Path) -> int:
    state = open_checkpoint(run_dir / "first" / "checkpoints" / "last").resume_state()
    return int(state["loop"]["step"])


_AT_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from kit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_terminal_that_closes(line: list[str], run_dir: Path, processes: list[subprocess.Popen[Any]]) -> None:
    """As when an ssh session breaks: the terminal goes, and its processes are told so."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _AT_TERMINAL, *line[3:]]
    processes.append(subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True))
    os.close(theirs)
    shown = b""
    # A terminal that nobody reads from fills up.
    while b"s/step" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    assert processes[0].wait(timeout=120) == 128 + signal.SIGHUP
    step = last_step(run_dir)
    assert 0 < step < 400
    assert f"stopped by SIGHUP after step {step}" in (run_dir / "first" / "log.txt").read_text()


def test_a_reader_that_goes_away_does_not_end_a_run(
    line: list[str], run_dir: Path, processes: list[subprocess.Popen[Any]]
) -> None:
    """As with ``kit finetune 2>&1 | head``."""
    short = [*line, "--train.steps", "4"]
    processes.append(subprocess.Popen(short, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    assert processes[0].stdout is not None
    processes[0].stdout.readline()
    processes[0].stdout.close()
    assert processes[0].wait(timeout=240) == 0
    assert last_step(run_dir) == 4


def test_a_second_process_and_one_that_is_killed(
    line: list[str], run_dir: Path, processes: list[subprocess.Popen[Any]]
) -> None:
    processes.append(subprocess.Popen(line, stderr=subprocess.DEVNULL))
    wait_for_steps(run_dir / "first", processes[0], 2)
    second = subprocess.run(line, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"first: process {processes[0].pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    processes[0].kill()
    processes[0].wait()
    assert (run_dir / "first" / ".lock").exists()
    processes.append(subprocess.Popen(line, stderr=subprocess.DEVNULL))
    lines = (run_dir / "first" / "metrics.jsonl").read_text().count("\n")
    time.sleep(1)
    wait_for_steps(run_dir / "first", processes[1], lines + 1)
    processes[1].send_signal(signal.SIGTERM)
    assert processes[1].wait(timeout=120) == 143
    assert 0 < last_step(run_dir) < 400
    assert not (run_dir / "first" / ".lock").exists()


def test_ctrl_c_reaches_the_workers_too(line: list[str], run_dir: Path, processes: list[subprocess.Popen[Any]]) -> None:
    """A terminal sends it to every process of the job; and so does a queue with SIGTERM."""
    workers = [*line, "--data.workers", "1"]
    processes.append(subprocess.Popen(workers, stderr=subprocess.PIPE, text=True, start_new_session=True))
    wait_for_steps(run_dir / "first", processes[0], 3)
    children = psutil.Process(processes[0].pid).children(recursive=True)
    assert children
    for _ in range(2):
        os.killpg(processes[0].pid, signal.SIGTERM)
        time.sleep(0.05)
    _, told = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 143
    assert "Traceback" not in told
    assert 0 < last_step(run_dir) < 400
    _, left = psutil.wait_procs(children, timeout=20)
    assert left == []


def test_a_worker_that_is_killed(line: list[str], run_dir: Path, processes: list[subprocess.Popen[Any]]) -> None:
    """As the host does when memory runs out."""
    workers = [*line, "--data.workers", "1", "--train.checkpoint_every", "2"]
    processes.append(subprocess.Popen(workers, stderr=subprocess.PIPE, text=True))
    wait_for_steps(run_dir / "first", processes[0], 6)
    for child in psutil.Process(processes[0].pid).children(recursive=True):
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    _, told = processes[0].communicate(timeout=120)
    assert processes[0].returncode == 2
    assert "a process that read data (data.workers) was killed (Killed)" in told
    found = re.search(r"The checkpoint after step (\d+) is whole: go on with the same settings", told)
    assert found is not None
    assert int(found[1]) == last_step(run_dir) > 0
    assert "Traceback" not in told.split("kit finetune: ")[-1]
