"""What ends a run before its time: each in one message, and in a state that can be taken up."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.folder import open_checkpoint
from kit.checkpoint.run_folder import RunFolder, claimed
from kit.cli import main as cli
from kit.data.store import build
from kit.io.errors import KitError, WorkerError
from kit.run.failure_messages import ended_readably
from kit.run.finetune import finetune
from kit.tracking.tracker import Tracker
from kit.train.trainer import StepReport, Trainer
from tests.factories import synthetic_store
from tests.limits import largest_file
from tests.run.test_finetune import assert_same_weights, settings


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


def words(store: Path, run_dir: Path, *more: str) -> list[str]:
    """The command line of a short run."""
    run = ["--run.dir", str(run_dir), "--run.name", "first", "--data.store", str(store), "--model.weights", "random"]
    return ["finetune", *run, "--train.steps", "4", "--train.checkpoint_every", "2", *more]


@contextmanager
def sending(target: Any, name: str, *numbers: int) -> Iterator[None]:
    """Send this process signals when a function is called."""
    function = getattr(target, name)

    def interrupted(*args: Any, **options: Any) -> Any:
        for number in numbers:
            os.kill(os.getpid(), number)
        return function(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, interrupted)
        yield


@pytest.mark.slow
def test_a_second_process_is_refused_and_readers_are_not(
    store: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_dir / "first"
    assert cli.main(words(store, run_dir)) == 0
    with claimed(run):
        assert cli.main(words(store, run_dir, "--train.resume", "auto")) == 2
        err = capsys.readouterr().err
        assert f"{run}: process {os.getpid()} on " in err
        assert "Traceback" not in err
        # Neither scores nor figures need the run to be over.
        assert cli.main(["evaluate", "--checkpoint", str(run / "checkpoints" / "best")]) == 0
        assert cli.main(["plot", "--run", str(run), "--samples", "1", "--variables", "2t"]) == 0
    assert not (run / ".lock").exists()


@pytest.mark.parametrize("target", ("kit.run.finetune.build_job", "kit.tracking.tracker.Tracker.start"))
@pytest.mark.parametrize("number", (signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)))
def test_a_signal_before_the_first_step_leaves_nothing(
    target: str, number: signal.Signals, store: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the model is built, and while MLflow is asked for a run."""
    import kit.run.finetune

    owner, name = (Tracker, "start") if "Tracker" in target else (kit.run.finetune, "build_job")
    with sending(owner, name, number):
        assert cli.main(words(store, run_dir)) == 128 + number
    assert f"kit finetune: stopped by {number.name}" in capsys.readouterr().err
    assert not (run_dir / "first").exists()


def test_a_terminal_that_closes_ends_a_run_with_a_checkpoint(store: Path, run_dir: Path) -> None:
    with sending(Trainer, "step", signal.SIGHUP):
        assert cli.main(words(store, run_dir)) == 129
    assert open_checkpoint(run_dir / "first" / "checkpoints" / "last").resume_state()["loop"]["step"] == 1


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once_and_the_run_goes_on(
    store: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(settings(store, run_dir, "whole", train={"steps": 4, "checkpoint_every": 2}))
    step = Trainer.step

    def impatient(trainer: Trainer, number: int, batches: Any) -> StepReport:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, number, batches)

    cut = settings(store, run_dir, "cut", train={"steps": 4, "checkpoint_every": 2, "resume": "auto"})
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", impatient)
        with pytest.raises(KeyboardInterrupt):
            finetune(cut)
    log = (run_dir / "cut" / "log.txt").read_text()
    assert "SIGINT: ends after this step with a checkpoint; Ctrl-C ends it at once" in log
    assert "ended at once, after step 2. The checkpoint after step 2 is whole: go on with the same settings and" in log
    assert finetune(cut).steps == 4
    assert_same_weights(run_dir / "whole", run_dir / "cut")


# Weights are 14 MB, the training state 28.
@pytest.mark.slow
@pytest.mark.parametrize("size", (20 * 2**20, 10 * 2**20))
def test_a_checkpoint_that_finds_no_room(
    size: int, store: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(store, run_dir, "--train.resume", "auto")
    with sending(Trainer, "step", signal.SIGTERM):
        assert cli.main(command) == 143
    capsys.readouterr()
    with largest_file(size):
        assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert "no space left while writing" in told or "could not be written to its end" in told
    assert "The checkpoint after step 1 is whole: go on with the same settings and --run.name first" in told
    assert "Traceback" not in told
    checkpoints = run_dir / "first" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"best", "last"}
    assert open_checkpoint(checkpoints / "last").resume_state()["loop"]["step"] == 1
    assert cli.main(command) == 0
    assert open_checkpoint(checkpoints / "last").resume_state()["loop"]["step"] == 4


def test_a_file_in_the_place_of_the_runs(store: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "runs").write_text("a file")
    assert cli.main(words(store, run_dir / "runs")) == 2
    assert f"kit finetune: {run_dir / 'runs'}: is not a folder" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_cache(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "cache").write_text("a file")
    monkeypatch.setenv("KIT_CACHE", str(run_dir / "cache"))
    assert cli.main(["finetune", "--run.dir", str(run_dir), "--run.name", "first"]) == 2
    err = capsys.readouterr().err
    assert "the store cannot be built in the cache (Not a directory)" in err
    assert "KIT_CACHE" in err
    assert not (run_dir / "first").exists()


def test_a_cache_without_room(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("KIT_CACHE", str(run_dir / "cache"))
    monkeypatch.setattr(build, "write_store", full)
    assert cli.main(["finetune", "--run.dir", str(run_dir), "--run.name", "first"]) == 2
    assert "the store cannot be built in the cache (No space left on device): free some" in capsys.readouterr().err


@pytest.mark.slow
def test_a_locked_database(store: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = sqlite3.connect(run_dir / "mlflow.db", isolation_level=None)
    holder.execute("begin exclusive")
    try:
        assert cli.main(words(store, run_dir)) == 2
    finally:
        holder.close()
    err = capsys.readouterr().err
    assert "database is locked" in err
    assert "Traceback" not in err
    assert not (run_dir / "first").exists()


def test_a_worker_that_is_gone_is_told_with_how_to_go_on(tmp_path: Path) -> None:
    told = r"^it was killed\. .*first has no checkpoint of a step yet: .* --run.name first --train.resume auto$"
    with pytest.raises(KitError, match=told), ended_readably(RunFolder(tmp_path / "first")):
        raise WorkerError("it was killed")
