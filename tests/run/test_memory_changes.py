"""Runs that go on with other memory settings: which may, how near they stay, and where it is recorded."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from kit.checkpoint.folder import open_checkpoint
from kit.cli import main as cli
from kit.io.errors import SettingsError
from kit.memory.changes import why_inexact
from kit.memory.settings import MemorySettings
from kit.run.finetune import FinetuneResult, finetune
from kit.settings import Settings
from kit.train.trainer import Trainer
from tests.factories import synthetic_store
from tests.run.test_finetune import assert_same_weights, settings
from tests.run.test_interruption import sending

EXACT: dict[str, dict[str, Any]] = {
    "recompute blocks": {"recompute": "blocks"},
    "recompute selective": {"recompute": "selective"},
    "recompute upstream": {"recompute": "upstream"},
    "latitude bands": {"latitude_bands": 2},
    "window bands": {"recompute": "blocks", "window_bands": 2},
    "stages": {"recompute": "blocks", "stages": 1},
    "step in backward": {"step_in_backward": True},
}
INEXACT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "compile": ({}, {"compile": True}, r"memory.compile was False, is True \(it changes the last bits of predictions"),
    "saved inputs": (
        {"recompute": "blocks"},
        {"recompute": "blocks", "saved_inputs": "bf16"},
        r"memory.saved_inputs was fp32, is bf16 \(it rounds what is computed again",
    ),
    "what is rounded": (
        {"recompute": "blocks", "saved_inputs": "bf16"},
        {"recompute": "selective", "saved_inputs": "bf16"},
        r"memory.recompute was blocks, is selective \(with memory.saved_inputs bf16 it decides what is rounded",
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("data") / "store", times=16).path


def run_settings(store: Path, folder: Path, resume: str = "never", memory: dict[str, Any] | None = None) -> Settings:
    """A run of three steps; nothing is clipped, so that steps in the backward pass are possible."""
    train = {"steps": 3, "resume": resume}
    return settings(store, folder, memory=memory or {}, optim={"clip": None}, train=train)


def stop_early(wanted: Settings) -> FinetuneResult:
    """Take a single step, as a machine that is taken away after it does."""
    with sending(Trainer, "step", signal.SIGTERM):
        result = finetune(wanted)
    assert result.interrupted == "SIGTERM"
    return result


@pytest.fixture(scope="module")
def stopped(store: Path, tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A folder of runs with one that was stopped after its first step."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        stop_early(run_settings(store, folder))
    return folder


@pytest.fixture(scope="module")
def unchanged(stopped: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, gone on with as it was."""
    folder = shutil.copytree(stopped, tmp_path_factory.mktemp("unchanged") / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        finetune(run_settings(store, folder, "auto"))
    return folder / "first"


SLOW = (
    "recompute blocks", "recompute selective", "recompute upstream", "window bands", "stages", "step in backward",
    "compile", "saved inputs",
)  # fmt: skip


def cases(table: Iterable[str]) -> list[Any]:
    """The names of a table, those that tell little more than the others as slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in table]


@pytest.mark.parametrize("name", cases(EXACT))
def test_a_run_goes_on_with_exact_memory_settings_and_records_it(
    name: str, store: Path, stopped: Path, unchanged: Path, tmp_path: Path
) -> None:
    memory = EXACT[name]
    folder = shutil.copytree(stopped, tmp_path / "runs")
    assert finetune(run_settings(store, folder, "auto", memory)).steps == 3
    run = folder / "first"
    one, other = (load_file(place / "checkpoints" / "last" / "model.safetensors") for place in (unchanged, run))
    start = load_file(stopped / "first" / "checkpoints" / "last" / "model.safetensors")
    for key, tensor in one.items():
        # AdamW divides by the size of the gradient, so that its last bits weigh most where it is next to nothing: held
        # against the way that the parameter went in the steps that were taken under the other settings.
        way = (tensor - start[key]).norm()
        assert (other[key] - tensor).norm() <= 0.01 * way, key
    default = MemorySettings().model_dump(mode="json")
    changed = {f"memory.{key}": {"before": default[key], "now": value} for key, value in memory.items()}
    change = {"step": 1, "settings": changed}
    [stage] = open_checkpoint(run / "checkpoints" / "last").description["lineage"]
    assert stage["memory_changes"] == [change]
    assert json.loads((run / "provenance.json").read_text())["resumed"][-1]["memory_change"] == change
    log = (run / "log.txt").read_text()
    assert "memory: after step 1 memory." in log
    assert "no longer the same run to the last bit" in log
    run_id = json.loads((run / "provenance.json").read_text())["mlflow_run_id"]
    tags = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_run(run_id).data.tags
    assert tags["kit.memory-changes"].startswith("after step 1 memory.")


def test_a_run_that_goes_on_as_it_was_says_nothing_of_it(unchanged: Path) -> None:
    [stage] = open_checkpoint(unchanged / "checkpoints" / "last").description["lineage"]
    assert "memory_changes" not in stage
    assert "memory:" not in (unchanged / "log.txt").read_text()


def test_every_change_stays_on_the_record(store: Path, stopped: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stopped, tmp_path / "runs")
    stop_early(run_settings(store, folder, "auto", {"recompute": "blocks"}))
    finetune(run_settings(store, folder, "auto"))
    [stage] = open_checkpoint(folder / "first" / "checkpoints" / "last").description["lineage"]
    there, back = {"before": "none", "now": "blocks"}, {"before": "blocks", "now": "none"}
    assert stage["memory_changes"] == [
        {"step": 1, "settings": {"memory.recompute": there}},
        {"step": 2, "settings": {"memory.recompute": back}},
    ]


@pytest.mark.parametrize("name", cases(INEXACT))
def test_what_is_not_exact_is_refused_with_the_reason(
    name: str, store: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, now, wanted = INEXACT[name]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    stop_early(run_settings(store, tmp_path, memory=before))
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "first", kept)
    with pytest.raises(SettingsError, match=wanted):
        finetune(run_settings(store, tmp_path, "auto", now))
    assert_same_weights(tmp_path / "first", kept)
    assert (tmp_path / "first" / "config.toml").read_text() == (kept / "config.toml").read_text()


def test_another_optimiser_is_refused_whatever_the_memory_settings(
    store: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "runs")
    words = ["finetune", "--config", str(folder / "first" / "config.toml"), "--run.dir", str(folder)]
    words += ["--run.name", "first", "--train.resume", "auto", "--memory.recompute", "blocks"]
    assert cli.main([*words, "--optim.name", "adafactor"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "cannot go on with other settings or data: optim.name was adamw, is adafactor. Start a new run" in told


def test_every_memory_setting_is_exact_or_says_why_not() -> None:
    exact = {"fit", "offload", "frozen_weights", "step_in_backward"}
    exact_unless_rounded = {"latitude_bands", "window_bands", "recompute", "stages"}
    plain = MemorySettings().model_dump(mode="json")
    rounded = MemorySettings(saved_inputs="bf16").model_dump(mode="json")
    for name in MemorySettings.model_fields:
        reasons = [why_inexact(name, now) is None for now in (plain, rounded)]
        assert reasons == [name in exact | exact_unless_rounded, name in exact], name
