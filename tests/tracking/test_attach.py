"""Scores and figures that come after a run land in its MLflow run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from kit.tracking.run_records import attach, run_folder_of
from kit.tracking.store import connect
from tests.tracking.conftest import StartRun


@pytest.fixture
def run(run_dir: Path, start: StartRun) -> Path:
    tracker = start()
    tracker.finish("FINISHED")
    folder = run_dir / "first"
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"mlflow_run_id": tracker.run_id}))
    (folder / "config.toml").write_text("[track]\n")
    return folder


def test_metrics_and_figures_join_the_run(run: Path) -> None:
    figure = run / "map.png"
    figure.write_bytes(b"png")
    attach(run, metrics={"test/rmse/2t": 1.5, "test/skill/tp": None}, figures=[figure])
    client = connect(f"sqlite:///{run.parent / 'mlflow.db'}", run.parent)
    run_id = json.loads((run / "provenance.json").read_text())["mlflow_run_id"]
    found = client.get_run(run_id)
    assert found.data.metrics == {"test/rmse/2t": 1.5}
    assert found.info.status == "FINISHED"
    experiment = client.get_experiment(found.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert [item.path for item in client.list_artifacts(run_id, "figures")] == ["figures/map.png"]


def test_a_store_that_is_away_is_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "provenance.json").write_text(json.dumps({"mlflow_run_id": "0" * 32}))
    with caplog.at_level(logging.WARNING):
        attach(run, metrics={"test/rmse/2t": 1.5})
    assert "not recorded in MLflow" in caplog.text


def test_a_checkpoint_knows_its_run(run: Path, tmp_path: Path) -> None:
    assert run_folder_of(run / "checkpoints" / "best") == run
    assert run_folder_of(tmp_path / "elsewhere" / "checkpoints" / "best") is None
