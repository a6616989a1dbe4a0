"""Commands killed at random moments, over 300 times: what is left is whole, and the same command ends the work.

Processes are forked from one that has imported everything, so that kills meet the work and not the imports. A command
is killed after a random part of the time that it takes undisturbed, and repeated until it comes to its end; then its
result is compared with the undisturbed one, removed, and made again, until it was killed often enough.
"""

import hashlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from kit.checkpoint.folder import open_checkpoint
from kit.data.store.verify import verify
from tests.checkpoints import store_for, write_whole
from tests.factories import synthetic_store
from tests.processes import Python
from tests.servers import Fault, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = 60
_MAIN = "import sys; from kit.cli.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Work:
    """A command whose processes are killed.

    Attributes:
        words: Arguments of the command for a folder that takes its results.
        check: Checks what a killed process left in the folder.
        facts: What must be the same as in an undisturbed folder, at the end.
        prepare: Puts into a new folder what the command finds there.
    """

    words: Callable[[Path], list[str]]
    check: Callable[[Path], None]
    facts: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda _: None


def killed(work: Work, folder: Path, seed: int) -> None:
    """Kill a command at random moments, and compare what it makes in the end."""
    whole = folder / "undisturbed"
    whole.mkdir()
    work.prepare(whole)
    # What processes are forked from imports everything when the first one starts.
    assert Python("pass").wait() == 0
    began = time.monotonic()
    assert Python(_MAIN, *work.words(whole), output=folder / "whole.txt").wait() == 0
    due, lasted = work.facts(whole), time.monotonic() - began
    chance, kills, number = random.Random(seed), 0, 0
    while kills < KILLS:
        number += 1
        place = folder / f"try{number}"
        place.mkdir()
        work.prepare(place)
        output = folder / f"try{number}.txt"
        status: int | None = None
        while status != 0:
            is_first, began = status is None, time.monotonic()
            process = Python(_MAIN, *work.words(place), output=output)
            # At most a handful of kills for one result, or none would ever be finished.
            if kills < KILLS and chance.random() < 0.85:
                time.sleep(chance.random() * lasted)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
            status = process.wait()
            if is_first and status == 0:
                # The machine may be busier now, or less.
                lasted = time.monotonic() - began
            work.check(place)
            if status == 2:
                # It was killed after the result had its name: the same command is refused, and the result is compared.
                said = output.with_suffix(".err").read_text()
                assert "exists already" in said, said
                break
            assert status in (0, -signal.SIGKILL), output.with_suffix(".err").read_text()
            kills += status != 0
        assert work.facts(place) == due, f"result {number}"
        shutil.rmtree(place)


def hashes(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """Hash all files of a folder that match, hidden ones too."""
    found = {}
    for file in folder.glob(pattern):
        if file.is_file():
            found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_whole(folder / "best", store_for(folder / "store", times=16))


_NETWORK = "--task.name denoise --diffusion.width 8 --diffusion.multiples 1,2 --diffusion.blocks 1 --diffusion.steps 2"
_TRAININGS = {
    "accumulation": "--model.weights random --train.accumulate 2",
    "replay": "--model.weights random --rollout.steps 3 --rollout.buffer 4 --rollout.refresh 2 --rollout.keep disk",
    "crps": "--model.weights random --model.stochastic --task.name crps --task.members 2 --train.ema 0.9 "
    "--train.patience 3",
    "next": f"{_NETWORK} --diffusion.of next --train.ema 0.9",
    "residual": f"{_NETWORK} --diffusion.of residual --model.weights OPERATOR --model.variant small --train.ema 0.9",
}


@pytest.mark.parametrize("training", _TRAININGS)
def test_finetune(
    checkpoint: Path,
    tmp_path: Path,
    training: str,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = checkpoint.parent / "store"
    more = _TRAININGS[training].replace("OPERATOR", str(checkpoint)).split()

    def words(folder: Path) -> list[str]:
        run = ["--run.dir", str(folder), "--run.name", "a", "--data.store", str(store)]
        run += ["--data.valid", "2020-01-03T06/2020-01-04T18"]
        steps = ["--train.steps", "8", "--train.checkpoint_every", "2", "--train.resume", "auto", "--optim.warmup", "1"]
        return ["finetune", *run, *steps, *more]

    def check(folder: Path) -> None:
        for written in (folder / "a" / "checkpoints").glob("[!.]*"):
            assert open_checkpoint(written).tensors()

    def facts(folder: Path) -> Any:
        run = folder / "a"
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [(record["kind"], record["step"], record["loss"]) for record in records]
        found: dict[str, str] = {}
        for written in (run / "checkpoints").glob("*/*model.safetensors"):
            for key, value in load_file(written).items():
                found[f"{written.parent.name} {key}"] = hashlib.sha256(value.numpy().tobytes()).hexdigest()
        assert {name.split()[0] for name in found} >= {"best", "last"}
        return losses, found

    before = hashes(store, "*/c/**/*")

    def prepare(folder: Path) -> None:
        # Making it takes longer than the training that is to be killed.
        shutil.copy(empty_database, folder / "mlflow.db")

    killed(Work(words, check, facts, prepare), tmp_path, seed=len(training))
    assert hashes(store, "*/c/**/*") == before


def test_build(store: Path, tmp_path: Path) -> None:
    def words(folder: Path) -> list[str]:
        return ["data", "build", "--source", "zarr", "--path", str(store), "--out", str(folder / "store")]

    def check(folder: Path) -> None:
        if (folder / "store").exists():
            assert verify(folder / "store").problems == ()

    killed(Work(words, check, lambda folder: hashes(folder / "store")), tmp_path, seed=11)


@pytest.mark.parametrize(
    ("command", "out"), (("forecast", "a.nc"), ("forecast", "a.zarr"), ("export", "a"), ("export", "a.tar"))
)
def test_results(checkpoint: Path, tmp_path: Path, command: str, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.run.test_kills.KILLS", KILLS // 2)

    def words(folder: Path) -> list[str]:
        more = ["--steps", "3"] if command == "forecast" else []
        return [command, "--checkpoint", str(checkpoint), "--out", str(folder / out), *more]

    due: dict[str, str] = {}

    def facts(folder: Path) -> dict[str, str]:
        made = folder / out
        found = hashes(made) if made.is_dir() else {"file": hashlib.sha256(made.read_bytes()).hexdigest()}
        due.update(found)
        # Leftovers of killed processes are gone with the next one that came to its end; one that was killed between
        # the name and the end leaves an empty lock.
        left = [path for path in folder.iterdir() if path.suffix != ".lock" or path.stat().st_size]
        assert [path.name for path in left] == [out]
        return found

    def check(folder: Path) -> None:
        if (folder / out).exists():
            assert facts(folder) == due

    before = hashes(checkpoint.parent)
    killed(Work(words, check, facts), tmp_path, seed=len(out) + len(command))
    assert hashes(checkpoint.parent) == before


def test_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(1).randbytes(400_000)
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))

    with serving() as server:
        server.put("/states.bin", content)
        server.fail("/states.bin", Fault(pace=0.002), always=True)
        entry = {"file": "states.bin", "url": server.url("/states.bin"), "sha256": sha256, "size": len(content)}
        entry |= {"licence": "MIT", "kind": "source", "description": "states"}
        lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]

        def words(folder: Path) -> list[str]:
            monkeypatch.setenv("KIT_CACHE", str(folder))
            (folder / "registry.toml").write_text("\n".join(["[states]", *lines, ""]))
            return ["data", "fetch", "states"]

        def check(folder: Path) -> None:
            for file in folder.glob("files/**/states.bin"):
                assert file.read_bytes() == content

        def facts(folder: Path) -> list[bytes]:
            return [file.read_bytes() for file in folder.glob("files/**/states.bin")]

        killed(Work(words, check, facts), tmp_path, seed=7)
