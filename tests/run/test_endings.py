"""An average of the weights beside them, and runs that end when validation stops falling."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kit
from kit.checkpoint.folder import open_checkpoint
from kit.run.endings import EarlyStop
from kit.run.finetune import finetune
from kit.train.loop import LoopState
from kit.train.trainer import Trainer, Validation
from tests.factories import synthetic_store
from tests.run.test_finetune import assert_same_weights, metrics, settings
from tests.run.test_interruption import sending

AVERAGED: dict[str, Any] = {"steps": 8, "checkpoint_every": 4, "ema": 0.9}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


def test_an_average_is_validated_recorded_and_saved(store: Path, run_dir: Path) -> None:
    result = finetune(settings(store, run_dir, train=AVERAGED))
    run = Path(result.run)
    lines = metrics(run)
    averaged = [line["loss"] for line in lines if line["kind"] == "ema"]
    assert len(averaged) == len([line for line in lines if line["kind"] == "valid"]) > 1
    assert result.valid["ema"] == min(averaged)
    checkpoint = open_checkpoint(run / "checkpoints" / "ema")
    assert checkpoint.description["validation"]["best"] == min(averaged)
    assert checkpoint.description["lineage"][-1]["ema"] == 0.9
    assert "ema" not in open_checkpoint(run / "checkpoints" / "best").description["lineage"][-1]
    # What was validated is what was saved: a run from it begins with that loss.
    again = finetune(settings(store, run_dir, "second", model={"weights": str(checkpoint.path)}, train={"steps": 1}))
    assert again.valid["before"] == pytest.approx(min(averaged), rel=1e-6)


@pytest.mark.slow
def test_training_is_the_same_with_and_without_an_average(store: Path, run_dir: Path) -> None:
    with_one = finetune(settings(store, run_dir, train=AVERAGED))
    without = finetune(settings(store, run_dir, "second", train={"steps": 8, "checkpoint_every": 4}))
    assert_same_weights(Path(with_one.run), Path(without.run))
    assert "ema" not in without.valid
    assert not (Path(without.run) / "checkpoints" / "ema").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ("full", "lora"))
def test_a_resumed_run_has_the_same_average(store: Path, run_dir: Path, method: str) -> None:
    pretrained = finetune(settings(store, run_dir, "base", train={"steps": 1}))
    sections: dict[str, dict[str, Any]] = {"train": AVERAGED, "adapt": {"method": method}}
    sections["model"] = {"weights": pretrained.checkpoint}
    whole = finetune(settings(store, run_dir, "whole", **sections))
    with sending(Trainer, "step", signal.SIGTERM):
        finetune(settings(store, run_dir, "cut", **sections))
    resumed = finetune(settings(store, run_dir, "cut", **sections | {"train": AVERAGED | {"resume": "auto"}}))
    assert resumed.valid == whole.valid
    for name in ("ema", "best", "last"):
        for one in (Path(whole.run) / "checkpoints" / name).glob("*.safetensors"):
            ours, theirs = load_file(one), load_file(Path(resumed.run) / "checkpoints" / name / one.name)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), (name, one.name)


@pytest.mark.slow
def test_training_ends_early(store: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Steps that are lost in rounding: no validation finds a lower loss.
    still = {"lr": 1e-30, "weight_decay": 0.0}
    train = {"epochs": 20, "patience": 2, "check_after": None}
    result = finetune(settings(store, run_dir, train=train | {"steps": None}, optim=still))
    losses = [line["loss"] for line in metrics(Path(result.run)) if line["kind"] == "valid"]
    best = losses.index(min(losses))
    assert len(losses) == best + 3
    assert result.early
    assert result.to_dict()["early"] is True
    assert result.interrupted is None
    assert "no lower validation loss in 2 validations; training ends" in capsys.readouterr().err
    # It has come to its end: going on takes no further step.
    again = finetune(settings(store, run_dir, train=train | {"steps": None, "resume": "auto"}, optim=still))
    assert (again.steps, again.early) == (result.steps, True)


def test_patience_counts_validations_without_a_lower_loss() -> None:
    said: list[str] = []
    stop, state = EarlyStop(2, said.append), LoopState()
    for loss, ends in ((1.0, False), (0.9, False), (0.9, False), (0.8, False), (0.9, False), (0.8, True)):
        stop.on_validation(Validation(loss, {}), state, improved=True)
        assert stop.wants_to_stop(state) is ends
    assert len(said) == 1
    # The average counts where there is one.
    state = LoopState(averaged=0.5)
    stop.on_validation(Validation(9.0, {}), state, improved=False)
    assert (state.lowest, state.stale) == (0.5, 0)


def test_bad_settings_are_refused(store: Path, run_dir: Path) -> None:
    for bad in ({"ema": 1.0}, {"ema": 0}, {"ema": -0.5}, {"ema": "nan"}, {"patience": 0}, {"patience": -1}):
        with pytest.raises((ValueError, kit.io.errors.KitError)):
            finetune(settings(store, run_dir, train=bad))
    assert not list(run_dir.glob("first"))


def test_an_average_cannot_begin_in_the_middle(store: Path, run_dir: Path) -> None:
    finetune(settings(store, run_dir, train={"steps": 2}))
    with pytest.raises(kit.io.errors.SettingsError, match=r"train.ema was none, is 0.9"):
        finetune(settings(store, run_dir, train={"steps": 2, "ema": 0.9, "resume": "auto"}))


@pytest.mark.slow
def test_a_checkpoint_whose_average_was_taken_out(store: Path, run_dir: Path) -> None:
    result = finetune(settings(store, run_dir, train=AVERAGED))
    shutil.rmtree(Path(result.run) / "checkpoints" / "ema")
    again = finetune(settings(store, run_dir, train=AVERAGED | {"resume": "auto"}))
    assert json.loads((Path(result.run) / "tracking.json").read_text())
    assert again.steps == 8
