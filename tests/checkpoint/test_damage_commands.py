"""Sixty damages to runs, checkpoints and exports, met by the command line in processes of their own.

What cannot be trusted is refused in one message that names the file; what a run can do without comes back when it goes
on, and its weights are those of an undisturbed run.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoint.damage import CHANGES
from tests.factories import synthetic_store
from tests.processes import Python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_MAIN = "import sys; from kit.cli.main import main; sys.exit(main(sys.argv[1:]))"
# The same, but for a signal that reaches it after its third step.
_STOPPED = """
import os, signal
from kit.run.callbacks import Recorder
record = Recorder.on_step
def stop(self, report, state):
    record(self, report, state)
    if report.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
Recorder.on_step = stop
"""
_STEPS = (
    "--model.weights", "random", "--data.valid", "2020-01-03T06/2020-01-04T18", "--train.steps", "5",
    "--train.resume", "auto", "--optim.warmup", "1",
    "--rollout.steps", "3", "--rollout.buffer", "4", "--rollout.refresh", "2", "--rollout.keep", "disk",
)  # fmt: skip

# Files by their paths below the runs, and what is done to them.
_TRUSTED = {
    "a/checkpoints/best/kit.json": ("flip", "zero_page", "truncate", "remove", "swap"),
    "a/checkpoints/best/model.safetensors": ("flip", "zero_page", "truncate", "remove", "swap"),
    "a/checkpoints/last/kit.json": ("flip", "empty", "swap"),
    "a/checkpoints/last/model.safetensors": ("flip", "zero_page", "swap"),
    "a/checkpoints/last/resume/state.pt": ("flip", "zero_page", "truncate", "remove", "swap"),
    "a/checkpoints/last/resume/replay/000001.safetensors": ("flip", "truncate", "remove", "swap"),
    "lora/checkpoints/best/kit.json": ("flip", "swap"),
    "lora/checkpoints/best/adapter_model.safetensors": ("flip", "zero_page", "remove", "swap"),
    "lora/checkpoints/best/adapter_config.json": ("flip", "empty"),
    "prefix/checkpoints/best/trained.safetensors": ("flip", "truncate"),
    "given/whole/kit.json": ("flip", "remove"),
    "given/whole/model.safetensors": ("flip", "swap"),
    "given/whole/README.md": ("truncate",),
    "given/bundle/base/model.safetensors": ("flip", "remove"),
    "given/bundle.tar": ("flip", "truncate"),
}
_MENDED = {
    "config.toml": ("empty", "remove", "truncate"),
    "provenance.json": ("flip", "remove", "truncate", "swap"),
    "tracking.json": ("zero_page", "remove", "swap"),
    "trains.json": ("flip", "empty"),
    "qa.json": ("truncate", "remove"),
    "qa.html": ("remove",),
    "metrics.jsonl": ("flip", "zero_page", "remove"),
    "scores.json": ("flip", "empty", "swap"),
}


def cases(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(file, kind) for file, kinds in table.items() for kind in kinds]


@dataclass(frozen=True)
class Ended:
    """A process that came to its end: its exit status, and what it said."""

    status: int
    told: str


class World:
    """Runs, checkpoints and exports in a folder, all of them made by commands."""

    def __init__(self, root: Path, database: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.runs.mkdir()
        shutil.copy(database, self.runs / "mlflow.db")
        self.store = synthetic_store(root / "store", times=16).path

    def kit(self, *words: str, code: str = "") -> Ended:
        output = self.root / "output.txt"
        status = Python(code + _MAIN, *words, output=output).wait(600)
        return Ended(status, output.read_text() + output.with_suffix(".err").read_text())

    def must(self, status: int, *words: str, code: str = "") -> None:
        ended = self.kit(*words, code=code)
        assert ended.status == status, (words, ended.told)

    def finetune(self, name: str, *more: str) -> list[str]:
        return ["finetune", "--run.dir", str(self.runs), "--run.name", name, "--data.store", str(self.store), *more]

    def resume(self) -> list[str]:
        return self.finetune("a", *_STEPS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> World:
    """Two runs that were interrupted, a run of adapters on the first, and exports of both."""
    world = World(tmp_path_factory.mktemp("whole"), empty_database)
    for name, seed in (("a", "0"), ("b", "1")):
        more = ("--train.seed", seed)
        world.must(143, *world.finetune(name, *_STEPS, *more), code=_STOPPED)
    best = world.runs / "a" / "checkpoints" / "best"
    adapters = ("--adapt.method", "lora", "--train.steps", "2", "--model.weights")
    world.must(0, *world.finetune("lora", *adapters, str(best)))
    other = world.runs / "b" / "checkpoints" / "best"
    world.must(0, *world.finetune("lora-b", "--train.seed", "1", *adapters, str(other)))
    for name in ("a", "b"):
        world.must(0, "evaluate", "--checkpoint", str(world.runs / name / "checkpoints" / "best"))
    prefix = world.runs / "prefix" / "checkpoints" / "best"
    world.must(
        0, *world.finetune("prefix", "--adapt.method", "prefix", "--train.steps", "2", "--model.weights", str(best))
    )
    (world.runs / "given").mkdir()
    given = {"given/whole": best, "given/bundle": prefix, "given/bundle.tar": prefix, "b-whole": other}
    for name, checkpoint in given.items():
        world.must(0, "export", "--checkpoint", str(checkpoint), "--out", str(world.runs / name))
    return world


def damage(file: Path, kind: str, other: Path | None) -> None:
    """Damage a file.

    Args:
        file: File that is changed or removed.
        kind: What is done to it.
        other: File of another run, which takes its place in a swap.
    """
    if kind == "remove":
        file.unlink()
        return
    if kind == "swap":
        assert other is not None
        changed = other.read_bytes()
    else:
        change = next(change for change in CHANGES if change.__name__ == kind)
        changed = change(file.read_bytes(), random.Random(f"{file.name} {kind}"))
    assert changed != file.read_bytes()
    file.write_bytes(changed)


def readers(world: World, file: str) -> list[list[str]]:
    """Commands that read a file, by its path below the runs."""
    if file.endswith(".tar"):
        return []
    depth = 3 if file.split("/")[1] == "checkpoints" else 2
    folder = str(world.runs.joinpath(*file.split("/")[:depth]))
    scratch = world.root / "scratch"
    data = ["--data.store", str(world.store)]
    return [
        ["evaluate", "--checkpoint", folder, *data],
        ["forecast", "--checkpoint", folder, *data, "--out", str(scratch / "out.nc")],
        ["export", "--checkpoint", folder, "--out", str(scratch / "given")],
        ["finetune", "--run.dir", str(scratch), "--run.name", "next", *data, "--model.weights", folder],
    ]


@pytest.fixture
def scratch(whole: World) -> Iterator[Path]:
    folder = whole.root / "scratch"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(("file", "kind"), cases(_TRUSTED))
def test_what_cannot_be_trusted_is_refused(file: str, kind: str, whole: World, scratch: Path) -> None:
    place = whole.runs / file
    kept = place.read_bytes()
    other = whole.runs / "b" / "checkpoints" / "/".join(file.split("/")[2:])
    if file.startswith("lora"):
        other = whole.runs / "lora-b" / "checkpoints" / "/".join(file.split("/")[2:])
    elif file.startswith("given"):
        other = whole.runs / "b-whole" / place.name
    elif "replay" in file:
        other = max(other.parent.iterdir())
    commands = readers(whole, file)
    # One of the readers, another one for each damage; a run that could go on from here is tried in any case.
    commands = [commands[cases(_TRUSTED).index((file, kind)) % len(commands)]] if commands else []
    if file.startswith("a/checkpoints/last"):
        commands.append(whole.resume())
    target = place if file.endswith(".tar") else Path(readers(whole, file)[0][2])
    try:
        damage(place, kind, other)
        for words in (*commands, ["verify", str(target)]):
            ended = whole.kit(*words)
            assert ended.status == 2, (words, ended.told)
            assert "Traceback" not in ended.told, words
            # The description of another checkpoint lists this one's files as wrong.
            names = {place.name} | ({"model.safetensors", "adapter_model.safetensors"} if kind == "swap" else set())
            assert any(name in ended.told for name in names), (words, ended.told)
        assert [path.name for path in scratch.iterdir()] == []
    finally:
        place.write_bytes(kept)


def outcome(run: Path) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """Weights, and what is logged of every step and validation, of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [(record["kind"], record["step"], record["loss"]) for record in records]
    return load_file(run / "checkpoints" / "last" / "model.safetensors"), logged


@pytest.fixture(scope="module")
def undisturbed(whole: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """Outcome of the first run, gone on with."""
    world = copied(whole, tmp_path_factory.mktemp("undisturbed"))
    world.must(0, *world.resume())
    return outcome(world.runs / "a")


def copied(whole: World, place: Path) -> World:
    """Copy the first run and its record."""
    world = copy.copy(whole)
    world.root, world.runs = place, place / "runs"
    world.runs.mkdir()
    shutil.copy(whole.runs / "mlflow.db", world.runs)
    shutil.copytree(whole.runs / "a", world.runs / "a")
    return world


@pytest.mark.parametrize(("file", "kind"), cases(_MENDED))
def test_what_a_run_can_do_without_comes_back(
    file: str, kind: str, whole: World, undisturbed: tuple[dict[str, Any], list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    world = copied(whole, tmp_path)
    run = world.runs / "a"
    identity = json.loads((run / "provenance.json").read_text())["mlflow_run_id"]
    damage(run / file, kind, whole.runs / "b" / file)
    # The page is kept for people alone, and a file of another run is whole: who reads that finds it out.
    if file != "qa.html" and kind != "swap":
        ended = world.kit("verify", str(run))
        assert ended.status == 2
        assert file in ended.told
    if file == "scores.json":
        drawn = world.kit("plot", "--run", str(run))
        assert (drawn.status, "Traceback" in drawn.told) == (0, False), drawn.told
        why = "is of another checkpoint than" if kind == "swap" else "cannot be read"
        assert f"scores.json {why}" in " ".join(drawn.told.split())
    ended = world.kit(*world.resume())
    assert (ended.status, "Traceback" in ended.told) == (0, False), ended.told
    if kind == "swap" and file != "scores.json":
        assert f"{file} is that of" in " ".join(ended.told.split())
    weights, logged = outcome(run)
    due_weights, due_logged = undisturbed
    assert all(torch.equal(weights[name], value) for name, value in due_weights.items())
    lost = [record for record in due_logged if record not in logged]
    if file != "metrics.jsonl":
        assert lost == []
    elif kind == "flip":
        # Two, where it was the end of a line.
        assert len(lost) in (1, 2)
    assert [record for record in logged if record not in due_logged] == []
    assert json.loads((run / "provenance.json").read_text())["mlflow_run_id"] == identity
    if file == "scores.json":
        world.must(0, "evaluate", "--checkpoint", str(run / "checkpoints" / "best"))
    world.must(0, "verify", str(run))
