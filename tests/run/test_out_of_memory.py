"""Memory that runs out in the middle of a run: a readable end, and a whole run folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit.checkpoint.folder import open_checkpoint
from tests.factories import synthetic_store

# The command line, with less and less room: what the process has when its third step begins, and a little more.
_LIMITED = """
import resource, sys
from kit.cli.main import main
from kit.train.trainer import Trainer

step = Trainer.step

def limited(trainer, number, batches):
    if number == 3:
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    return step(trainer, number, batches)

Trainer.step = limited
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of the address space is read from /proc")
def test_a_run_that_runs_out_of_memory_says_what_to_do(run_dir: Path, tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=16, height=32, width=64).path
    done = subprocess.run(
        [
            *(sys.executable, "-c", _LIMITED, "48", "finetune", "--data.store", store, "--run.dir", run_dir),
            *("--run.name", "big", "--model.weights", "random", "--data.batch_size", "4"),
            *("--train.steps", "4", "--train.checkpoint_every", "2", "--train.device", "cpu", "--json"),
        ],
        # What is freed goes back to the system, so that it cannot serve the third step.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    run = run_dir / "big"
    what, heading, *lines = done.stderr[done.stderr.index("kit finetune: ") :].splitlines()
    asked = (
        r"kit finetune: step 3: out of memory in the forward pass of (encoder|backbone|decoder)[.\w]*: [\d.]+ MiB was"
    )
    assert re.match(asked, what), what
    assert heading.startswith("These settings save memory")
    assert [line.split(" (")[0].strip() for line in lines[:3]] == [
        "--data.batch_size 1 --train.accumulate 4",
        "--memory.recompute blocks --memory.latitude_bands 8",
        "--memory.window_bands 8",
    ]
    assert f"kit plan --config {run}/config.toml" in done.stderr
    assert lines[-1].startswith("The checkpoint after step 2 is whole.")
    assert f"--model.weights {run}/checkpoints/last" in lines[-1]
    # All of it is in the log too, with the traceback that the screen is spared.
    assert what.removeprefix("kit finetune: ") in (run / "log.txt").read_text()
    assert "Traceback" in (run / "log.txt").read_text()
    assert_whole(run)


def assert_whole(run: Path) -> None:
    """The run is closed as failed, with its records of two steps and a checkpoint that can be loaded."""
    from kit.tracking.store import connect

    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2]
    last = open_checkpoint(run / "checkpoints" / "last")
    assert last.resume_state()["loop"]["step"] == 2
    assert last.tensors()
    assert {path.name for path in run.iterdir()} >= {"config.toml", "provenance.json", "qa.json", "figures"}
    client = connect(f"sqlite:///{run.parent / 'mlflow.db'}", run.parent)
    run_id = json.loads((run / "provenance.json").read_text())["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "FAILED"
