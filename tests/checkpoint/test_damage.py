"""Random damage to everything that the kit has written: nothing damaged is trained on, scored or exported unseen.

Every reader gets every damaged file of a checkpoint or an export: it refuses with a message that names the file. Side
files of a run are written anew or told of, and the run goes on. ``report`` counts what was done.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kit.adapt.settings import AdaptSettings
from kit.checkpoint.folder import open_checkpoint, write_checkpoint
from kit.checkpoint.verify import verify_path
from kit.cli.main import main
from kit.export.export import export
from kit.export.settings import ExportSettings
from kit.forecasting.forecast import forecast
from kit.forecasting.loaded import load_checkpoint
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import CheckpointError
from kit.io.sealed import read_sealed, write_sealed
from kit.models.weights.load import load
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.checkpoint.damage import KINDS, damaged, flip
from tests.checkpoints import SPEC, store_for, write_delta, write_whole
from tests.factories import synthetic_store

RESUME = {"loop": {"step": 3}, "values": list(range(2000))}


class Made:
    """Checkpoints and exports of every form, on a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = store_for(folder / "store", times=16)
        runs = [folder / "runs" / name / "checkpoints" for name in ("a", "b")]
        base = write_whole(folder / "base", self.store)
        self.checkpoints: list[Path] = []
        for seed, run in enumerate(runs):
            best, last = (write_whole(run / name, self.store, seed=seed) for name in ("best", "last"))
            resumable(last, RESUME)
            self.checkpoints += [best, last]
            self.checkpoints.append(write_delta(folder / f"delta{seed}", base, self.store, seed=seed))
            prefix = write_delta(folder / f"prefix{seed}", base, self.store, settings=AdaptSettings(method="prefix"))
            for given, checkpoint in ((f"whole{seed}", best), (f"bundle{seed}", prefix)):
                export(ExportSettings(checkpoint=(checkpoint,), out=folder / given))
                self.checkpoints.append(folder / given)

    def like(self, folder: Path) -> list[Path]:
        return [other for other in self.checkpoints if other != folder]


def resumable(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint again with the state of its training and items of a replay buffer."""
    checkpoint = open_checkpoint(folder)

    def items(fresh: Path) -> None:
        (fresh / "resume" / "replay").mkdir()
        (fresh / "resume" / "replay" / "000000.safetensors").write_bytes(random.Random(str(folder)).randbytes(9000))

    write_checkpoint(folder, checkpoint.tensors(), checkpoint.description, state, more=items)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


def readers(made: Made, folder: Path, scratch: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything that reads a checkpoint, by name."""
    store = {"store": str(made.store.path)}
    settings = {
        "run": {"name": "next", "dir": scratch},
        "data": store,
        "model": {"variant": "small", "weights": str(folder)},
        "train": {"steps": 1},
    }
    yield "open", lambda: open_checkpoint(folder)
    yield "weights", lambda: load(str(folder), SPEC.upstream)
    yield "python", lambda: load_checkpoint(folder, device="cpu")
    yield "score", lambda: evaluate(EvaluateSettings.model_validate({"checkpoint": folder, "data": store}))
    yield (
        "forecast",
        lambda: forecast(
            ForecastSettings.model_validate({"checkpoint": (folder,), "data": store, "out": scratch / "out.nc"})
        ),
    )
    yield "export", lambda: export(ExportSettings(checkpoint=(folder,), out=scratch / "given"))
    yield "train", lambda: finetune(Settings.model_validate(settings))


def arguments(made: Made, folder: Path, scratch: Path) -> Iterator[list[str]]:
    """The same on the command line."""
    store = ["--data.store", str(made.store.path)]
    yield ["evaluate", "--checkpoint", str(folder), *store]
    yield ["forecast", "--checkpoint", str(folder), *store, "--out", str(scratch / "out.nc")]
    yield ["export", "--checkpoint", str(folder), "--out", str(scratch / "given")]
    weights = ["--model.variant", "small", "--model.weights", str(folder)]
    yield ["finetune", "--run.dir", str(scratch), "--run.name", "next", *store, *weights]
    yield ["verify", str(folder)]


def refusal_of(read: Callable[[], object]) -> str | None:
    """What a reader says of damage; None if it reads it."""
    try:
        read()
    except CheckpointError as error:
        return str(error)
    return None


def check_refused(made: Made, tmp_path: Path, rng: random.Random, count: int) -> Counter[str]:
    """Damage checkpoints and exports, and let every reader try; returns what was done, by kind."""
    done: Counter[str] = Counter()
    while done.total() < count:
        folder = rng.choice(made.checkpoints)
        damage = damaged(folder, made.like(folder), rng)
        if damage is None:
            continue
        name = damage.file.relative_to(folder).as_posix()
        for reader, read in readers(made, folder, tmp_path):
            told = refusal_of(read)
            assert told is not None, (reader, damage)
            assert name.split("/")[0] in told, (reader, damage)
        assert not verify_path(folder)["passed"]
        damage.undo()
        assert list(tmp_path.iterdir()) == [], damage
        done[damage.kind] += 1
    return done


def test_no_reader_takes_a_damaged_checkpoint(made: Made, tmp_path: Path) -> None:
    assert set(check_refused(made, tmp_path, random.Random(1), 40)) == set(KINDS)


@pytest.mark.slow
def test_no_reader_takes_any_of_many_damaged_checkpoints(made: Made, tmp_path: Path) -> None:
    done = check_refused(made, tmp_path, random.Random(2), 850)
    assert done.total() == 850, done


@pytest.mark.slow
def test_the_command_line_refuses_damage_in_one_message(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, done = random.Random(3), 0
    while done < 60:
        folder = rng.choice(made.checkpoints)
        damage = damaged(folder, made.like(folder), rng)
        if damage is None:
            continue
        name = damage.file.relative_to(folder).parts[0]
        words = rng.choice(list(arguments(made, folder, tmp_path)))
        assert main(words) == 2, (words, damage)
        told = capsys.readouterr().err
        # A description that belongs to other files lists these as wrong.
        assert name in told or (words[0] == "verify" and damage.kind == "swap")
        assert "Traceback" not in told
        assert list(tmp_path.iterdir()) == []
        damage.undo()
        done += 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """The folder of a run from a replay buffer on the disk, with figures."""
    place = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_database, place / "mlflow.db")
    store = synthetic_store(place / "store", times=16).path
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        finetune(resumed(place, store))
    write_sealed(place / "first" / "scores.json", {"scores": {}})
    return place / "first"


def resumed(place: Path, store: Path) -> Settings:
    raw = {
        "run": {"name": "first", "dir": place},
        "data": {"store": str(store), "valid": "2020-01-03T06/2020-01-04T18"},
        "model": {"weights": "random"},
        "rollout": {"steps": 3, "buffer": 4, "refresh": 3, "keep": "disk"},
        "train": {"steps": 4, "checkpoint_every": 4, "resume": "auto"},
    }
    return Settings.model_validate(raw)


def copied(finished: Path, place: Path) -> Path:
    shutil.copy(finished.parent / "mlflow.db", place)
    return Path(shutil.copytree(finished, place / finished.name))


@pytest.mark.slow
def test_all_side_files_are_written_anew_when_the_run_goes_on(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, store = copied(finished, tmp_path), finished.parent / "store"
    gone, changed = ("provenance.json", "trains.json", "config.toml"), ("tracking.json", "qa.json", "figures/loss.png")
    before = json.loads((run / "provenance.json").read_text())
    for name in gone:
        (run / name).unlink()
    for name in changed:
        (run / name).write_bytes(flip((run / name).read_bytes(), random.Random(name)))
    # One letter, so that it stays JSON whichever byte a flip would have met.
    whole = (finished / "tracking.json").read_bytes()
    (run / "tracking.json").write_bytes(whole.replace(b"first", b"firsu", 1))
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([lines[0], bytes(len(lines[1]) - 1), b"\n", *lines[2:]]))
    (run / ".loss.png.123.0123abcd.part").touch()
    found = {problem["file"] for problem in verify_path(run)["problems"]}
    assert found == {*gone, *changed, "metrics.jsonl"}
    finetune(resumed(tmp_path, store))
    assert verify_path(run)["problems"] == []
    assert not list(run.glob(".*.part"))
    after = json.loads((run / "provenance.json").read_text())
    assert {key: after[key] for key in ("run_key", "mlflow_run_id")} == {
        key: before[key] for key in ("run_key", "mlflow_run_id")
    }
    told = "\n".join(caplog.messages)
    for words in (
        "provenance.json is gone; it is written anew from the checkpoint",
        "trains.json is gone; it is written anew",
        "tracking.json cannot be read: it was changed",
        "metrics.jsonl: line 2 is damaged and left out",
        "metrics.jsonl lacks 1 of 4 steps",
    ):
        assert words in told


@pytest.mark.slow
def test_side_files_of_another_run_are_not_taken_for_its_own(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, store = copied(finished, tmp_path), finished.parent / "store"
    before = read_sealed(run / "provenance.json")
    write_sealed(run / "provenance.json", {**before, "run_key": "other", "mlflow_run_id": "0" * 32})
    write_sealed(run / "tracking.json", {**read_sealed(run / "tracking.json"), "run_name": "other"})
    finetune(resumed(tmp_path, store))
    after = read_sealed(run / "provenance.json")
    assert [after[key] for key in ("run_key", "mlflow_run_id")] == [before["run_key"], before["mlflow_run_id"]]
    assert read_sealed(run / "tracking.json")["run_name"] == "first"
    assert "provenance.json is that of another run; it is written anew from the checkpoint" in caplog.text
    assert "tracking.json is that of run other; it is written anew" in caplog.text


# The name of the run is taken: nothing begins, but all settings were read.
_TAKEN = ("--train.resume", "never", "--run.name", "first", "--run.dir")


@pytest.mark.parametrize("damage", ("empty", "remove", "no toml"))
def test_a_configuration_is_written_anew_from_a_checkpoint(
    damage: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(finished, tmp_path)
    whole = (run / "config.toml").read_text()
    if damage == "remove":
        (run / "config.toml").unlink()
    else:
        (run / "config.toml").write_text("" if damage == "empty" else whole.replace("=", "\0", 1))
    assert main(["finetune", "--config", str(run / "config.toml"), *_TAKEN, str(tmp_path)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "this run exists already" in told
    assert "it was written anew from" in told
    assert (run / "config.toml").read_text() == whole


def test_a_configuration_that_was_edited_is_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(finished, tmp_path)
    text = (run / "config.toml").read_text()
    edited, cut = text.replace("steps = 4", "steps = 5"), text[: text.rindex("[")]
    for changed, words in ((edited, "was changed since the kit wrote it"), (cut, "lacks its last line"), (text, None)):
        (run / "config.toml").write_text(changed)
        assert main(["finetune", "--config", str(run / "config.toml"), *_TAKEN, str(tmp_path)]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert (words or "exists already") in told
        assert words or "config.toml" not in told
        assert (run / "config.toml").read_text() == changed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_run_goes_on_from_damage_and_side_files_cost_nothing_but_themselves(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng, store, done = random.Random(4), finished.parent / "store", Counter[str]()
    while done.total() < 150:
        place = tmp_path / str(done.total())
        place.mkdir()
        run = copied(finished, place)
        damage = damaged(run, [], rng)
        if damage is None:
            shutil.rmtree(place)
            continue
        caplog.clear()
        name = damage.file.relative_to(run).as_posix()
        state = (run / "checkpoints" / "last" / "resume" / "state.pt").is_file()
        if name.startswith("checkpoints/last/") or not state:
            told = refusal_of(partial(finetune, resumed(place, store)))
            assert told is not None, damage
            assert damage.file.name in told or "kit.json" in told, (told, damage)
        else:
            finetune(resumed(place, store))
            if name.startswith("checkpoints/best/"):
                assert "the run's best checkpoint is damaged" in caplog.text, damage
            else:
                left = {problem["file"] for problem in verify_path(run)["problems"]}
                # Scores are evaluate's and maps are plot's; what was added is nobody's.
                assert left <= {"scores.json", "figures/scorecard.png"}, (left, damage)
        shutil.rmtree(place)
        done[f"{name.split('/')[0]} {damage.kind}"] += 1
