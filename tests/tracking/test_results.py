"""Scores of checkpoints in MLflow: as models with their data sets, once, and whatever became of the store meanwhile."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from kit.checkpoint.folder import write_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.io.atomic import write_json
from kit.tracking.datasets import dataset_fields, split_fields
from kit.tracking.results import CHANGED, kept
from kit.tracking.run_records import Account, attach, sync
from kit.tracking.store import connect
from tests.batches import small_spec
from tests.factories import synthetic_store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DATASET = {
    "name": "sample 2020/2021", "digest": "abc", "source_type": "local", "source": "{}", "context": "test",
}  # fmt: skip
SCORES = {"test/rmse/2t": 1.5, "test/024h/csi_1mm/tp": 0.25}


@pytest.fixture
def run(run_dir: Path) -> RunFolder:
    """The folder of a run that ended, and whose MLflow run has all of it."""
    folder = RunFolder(run_dir / "first.run")
    folder.path.mkdir()
    folder.write_config({"track": {}})
    write_json(folder.provenance, {"run_key": "4f1c"})
    described = {"kit_version": "0", "model": small_spec("small").as_dict(), "lineage": [{"steps": 7}], "base": None}
    write_checkpoint(folder.best, {"weight": torch.ones(2)}, described)
    changed = {"optim.lr": "0.003"}
    Account(
        experiment="demo", run_name="first.run", params={"adapt.method": "lora", "optim.lr": "0.003", "seed": "0"},
        tags={CHANGED: json.dumps(changed)}, dataset={}, datasets=[DATASET | {"context": "training"}],
        checkpoint=True, started_ms=1000, status="FINISHED", ended_ms=5000,
    ).write(folder)  # fmt: skip
    write_json(folder.provenance, {"run_key": "4f1c", "mlflow_run_id": sync(folder.path)["mlflow_run_id"]})
    return folder


def client_of(run: RunFolder) -> MlflowClient:
    return connect(f"sqlite:///{run.path.parent / 'mlflow.db'}", run.path.parent)


def run_id_of(run: RunFolder) -> str:
    return str(json.loads(run.provenance.read_text())["mlflow_run_id"])


def test_a_checkpoint_is_a_model_with_its_scores(run: RunFolder) -> None:
    client, run_id = client_of(run), run_id_of(run)
    experiment = client.get_run(run_id).info.experiment_id
    (before,) = client.search_logged_models([experiment])
    assert before.name == "first-run-best"
    assert before.status == "READY"
    # Few parameters: those that tell it from others.
    assert before.params == {"adapt.method": "lora", "optim.lr": "0.003", "base": "random weights"}
    attach(run.path, metrics=SCORES | {"test/skill/tp": None}, checkpoint=run.best, dataset=DATASET | {"name": "other"})
    sync(run.path)
    sync(run.path)
    (model,) = client.search_logged_models([experiment])
    assert model.model_id == before.model_id
    assert {(metric.key, metric.value, metric.dataset_name) for metric in model.metrics or ()} == {
        (name, value, "other") for name, value in SCORES.items()
    }
    found = client.get_run(run_id)
    assert found.data.metrics == SCORES
    assert len(client.get_metric_history(run_id, "test/rmse/2t")) == 1
    assert found.inputs is not None
    inputs = {(one.dataset.name, one.tags[0].value) for one in found.inputs.dataset_inputs}
    assert inputs == {("sample 2020/2021", "training"), ("other", "test")}
    assert found.outputs is not None
    assert [(one.model_id, one.step) for one in found.outputs.model_outputs] == [(model.model_id, 7)]


def test_another_state_of_a_checkpoint_is_another_model(run: RunFolder) -> None:
    described = json.loads((run.best / "kit.json").read_text())
    described["lineage"] = [{"steps": 9}]
    (run.best / "kit.json").write_text(json.dumps(described))
    attach(run.path, metrics=SCORES, checkpoint=run.best)
    client = client_of(run)
    models = client.search_logged_models([client.get_run(run_id_of(run)).info.experiment_id])
    assert len(models) == 2
    assert sorted(len(model.metrics or ()) for model in models) == [0, 2]


def test_scores_and_pages_wait_for_a_store_that_is_away(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = tmp_path / "compare.html"
    page.write_text("<p>")
    run.write_config({"track": {"uri": "http://127.0.0.1:9"}})
    with caplog.at_level(logging.WARNING):
        attach(run.path, metrics=SCORES, checkpoint=run.best, dataset=DATASET)
        attach(run.path, files=[page])
    assert caplog.text.count(f"kit sync {run.path} sends it later") == 2
    assert [sorted(result.metrics) for result in kept(run)] == [sorted(SCORES), []]
    run.write_config({"track": {}})
    client, run_id = client_of(run), run_id_of(run)
    assert client.get_run(run_id).data.metrics == {}
    sync(run.path)
    assert client.get_run(run_id).data.metrics == SCORES
    assert "compare.html" in [item.path for item in client.list_artifacts(run_id)]
    (model,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert len(model.metrics or ()) == 2


def test_a_damaged_record_is_said_and_the_others_are_sent(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    attach(run.path, metrics=SCORES, checkpoint=run.best)
    (run.results / "0.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert len(kept(run)) == 1
    assert "0.json" in caplog.text


def test_the_same_states_are_one_data_set(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", times=4, height=8, width=16)
    periods = {"training": "2020/2020", "validation": "2021/2021", "test": "2021/2021"}
    train, rest = split_fields(store, str(store.path), periods)
    assert (train["name"], train["context"]) == ("store 2020/2020", "training")
    assert (rest["name"], rest["context"]) == ("store 2021/2021", "validation,test")
    assert train["digest"] == rest["digest"] == store.fingerprint()[:36]
    assert json.loads(train["source"]) == {"uri": "store", "sha256": store.fingerprint()}
    remote = dataset_fields(store, "https://ann:pa55word@example.org/store", "test", "2021/2021")
    assert "pa55word" not in json.dumps(remote)


def test_many_scores_are_sent_again_without_effect(run: RunFolder) -> None:
    scores = {f"test/{lead:03}h/rmse/{channel}": lead + channel / 100 for lead in range(24) for channel in range(50)}
    attach(run.path, metrics=scores, checkpoint=run.best)
    sync(run.path)
    client = client_of(run)
    (model,) = client.search_logged_models([client.get_run(run_id_of(run)).info.experiment_id])
    assert {metric.key: metric.value for metric in model.metrics or ()} == scores
    assert len(model.metrics or ()) == len(scores)
