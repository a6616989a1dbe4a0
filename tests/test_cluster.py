"""The job script that the manual shows, as a queue runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = Path(__file__).parents[1] / "docs" / "examples" / "finetune.sbatch"


@pytest.fixture
def queue(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a job, in which ``scontrol`` writes down what it was asked."""
    (run_dir / "runs").mkdir()
    (run_dir / "mlflow.db").rename(run_dir / "runs" / "mlflow.db")
    tools = tmp_path_factory.mktemp("tools")
    (tools / "scontrol").write_text('#!/bin/sh\necho "$@" > scontrol.txt\n')
    (tools / "scontrol").chmod(0o755)
    path = os.pathsep.join((str(tools), str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "RUN": "job", "KIT_CACHE": str(run_dir / "cache")}


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_writes_a_checkpoint_and_goes_back_into_the_queue(
    run_dir: Path, queue: dict[str, str]
) -> None:
    job = subprocess.Popen(["bash", JOB, "--train.steps", "5000"], cwd=run_dir, env=queue, stderr=subprocess.PIPE)
    metrics = run_dir / "runs" / "job" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    _, told = job.communicate(timeout=100)
    assert job.returncode == 143, told.decode()
    assert (run_dir / "runs" / "job" / "checkpoints" / "last" / "kit.json").is_file()
    assert (run_dir / "scontrol.txt").read_text() == "requeue 7\n"


@pytest.mark.slow
def test_a_job_that_ends_does_not_go_back(run_dir: Path, queue: dict[str, str]) -> None:
    subprocess.run(["bash", JOB, "--train.steps", "2"], cwd=run_dir, env=queue, check=True, capture_output=True)
    assert (run_dir / "runs" / "job" / "checkpoints" / "best" / "kit.json").is_file()
    assert not (run_dir / "scontrol.txt").exists()
