"""What commands leave under final names is whole, whenever the power goes."""

import json
import tomllib
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from kit.checkpoint.folder import open_checkpoint
from kit.cli.main import main
from kit.data.store.verify import verify
from tests.factories import synthetic_store
from tests.power_loss import Events, moments, watched

pytestmark = pytest.mark.slow

Names = Literal["durable", "kept"]
NAMES: tuple[Names, ...] = ("durable", "kept")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


def arguments(store: Path, runs: Path) -> list[str]:
    """Return the arguments of a run that writes a checkpoint every two steps."""
    return [
        "finetune", "--run.name", "a", "--run.dir", str(runs), "--data.store", str(store),
        "--model.weights", "random", "--train.steps", "6", "--train.checkpoint_every", "2", "--train.resume", "auto",
        "--optim.warmup", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def training(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Events:
    root = tmp_path_factory.mktemp("runs")
    return watched(["-m", "kit", *arguments(store, root)], root, tmp_path_factory.mktemp("log") / "log")


def check_run(run: Path) -> None:
    """Check that every file of a run under its final name can be read, as far as it is there."""
    for folder in run.glob("checkpoints/[!.]*"):
        checkpoint = open_checkpoint(folder)
        assert checkpoint.tensors()
        # Training goes on from the last one alone.
        if folder.name == "last":
            assert checkpoint.resume_state()
    for file in run.rglob("*.json"):
        if not any(part.startswith(".") for part in file.relative_to(run).parts):
            json.loads(file.read_text())
    if (run / "config.toml").exists():
        assert tomllib.loads((run / "config.toml").read_text())


@pytest.mark.parametrize("names", NAMES)
def test_a_run_is_whole_at_any_moment(training: Events, tmp_path: Path, names: Names) -> None:
    for moment in moments(training, 40, seed=1):
        place = tmp_path / str(moment)
        training.restore(moment, place, names)
        check_run(place / "a")


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_goes_on_after_any_loss(
    training: Events, store: Path, tmp_path: Path, names: Names, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    [moment, _] = moments(training, 1, seed)
    place = tmp_path / "runs"
    training.restore(moment, place, names)
    assert main(arguments(store, place)) == 0, capsys.readouterr().err
    whole = load_file(training.root / "a" / "checkpoints" / "last" / "model.safetensors")
    found = load_file(place / "a" / "checkpoints" / "last" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_a_finished_run_outlives_the_loss_after_its_end(training: Events, tmp_path: Path) -> None:
    training.restore(len(training), tmp_path / "runs", "durable")
    run = tmp_path / "runs" / "a"
    check_run(run)
    for name in ("best", "last"):
        assert (run / "checkpoints" / name / "kit.json").is_file()
    for name in ("config.toml", "provenance.json"):
        assert (run / name).read_bytes() == (training.root / "a" / name).read_bytes()
    assert (run / "metrics.jsonl").read_bytes() == (training.root / "a" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("form", ("nc", "zarr"))
def test_a_forecast_is_whole_or_absent(training: Events, tmp_path: Path, form: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    out = root / f"forecast.{form}"
    checkpoint = training.root / "a" / "checkpoints" / "last"
    command = ["-m", "kit", "forecast", "--checkpoint", str(checkpoint), "--steps", "2", "--out", str(out)]
    check_whole_or_absent(watched(command, root, tmp_path / "log"), out)


@pytest.mark.parametrize("name", ("export", "export.tar"))
def test_an_export_is_whole_or_absent(training: Events, tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    out = root / name
    checkpoint = training.root / "a" / "checkpoints" / "last"
    command = ["-m", "kit", "export", "--checkpoint", str(checkpoint), "--out", str(out)]
    check_whole_or_absent(watched(command, root, tmp_path / "log"), out)


def check_whole_or_absent(events: Events, out: Path) -> None:
    """Check that a result is there with all its bytes, or not at all, at any moment; and there at the end."""
    for names in NAMES:
        for moment in moments(events, 40, seed=2):
            place = events.log / f"{names}-{moment}"
            events.restore(moment, place, names)
            left = place / out.relative_to(events.root)
            assert contents(left) in ({}, contents(out)), f"{names}, {moment}"
    events.restore(len(events), events.log / "end", "durable")
    assert contents(events.log / "end" / out.relative_to(events.root)) == contents(out)


def contents(path: Path) -> dict[str, bytes]:
    """Read all files of a folder, or a file."""
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_store_is_whole_or_absent(tmp_path: Path) -> None:
    source = synthetic_store(tmp_path / "source", times=6).path
    root = tmp_path / "root"
    root.mkdir()
    out = root / "store"
    command = ["-m", "kit", "data", "build", "--source", "zarr", "--path", str(source), "--out", str(out)]
    events = watched(command, root, tmp_path / "log")
    for names in NAMES:
        for moment in moments(events, 25, seed=3):
            place = tmp_path / f"{names}-{moment}"
            events.restore(moment, place, names)
            if (place / "store").exists():
                assert not verify(place / "store").problems, f"{names}, {moment}"
    events.restore(len(events), tmp_path / "end", "durable")
    assert contents(tmp_path / "end" / "store") == contents(out)


def test_a_store_is_whole_while_states_are_appended(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    out = root / "store"
    source = synthetic_store(tmp_path / "source", times=8)
    command = ["data", "build", "--source", "zarr", "--path", str(source.path), "--out", str(out)]
    first = f"{source.times[0]}/{source.times[4]}"
    assert main([*command, "--times", first]) == 0
    more = [*command, "--times", f"{source.times[5]}/{source.times[7]}", "--append"]
    events = watched(["-m", "kit", *more], root, tmp_path / "log")
    for names in NAMES:
        for moment in moments(events, 25, seed=4):
            place = tmp_path / f"{names}-{moment}"
            events.restore(moment, place, names)
            arguments = [str(place / "store") if word == str(out) else word for word in more]
            assert main(arguments) == 0, f"{names}, {moment}"
            assert values(place / "store") == values(out), f"{names}, {moment}"
            assert not verify(place / "store").problems


def values(store: Path) -> dict[str, bytes]:
    """Read the files of a store that hold values."""
    return {name: content for name, content in contents(store).items() if "/c/" in f"/{name}"}
