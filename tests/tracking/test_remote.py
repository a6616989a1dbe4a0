"""A tracking server over HTTP: while it is there, while it is away, and when it is back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from kit.checkpoint.folder import write_checkpoint
from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.io.atomic import write_json
from kit.io.errors import KitError
from kit.tracking import tracker
from kit.tracking.run_records import Account, sync
from kit.tracking.store import MissingRunError, connect, reach
from kit.tracking.tracker import Tracker
from tests.batches import small_spec
from tests.tracking.servers import Gate, Server, silence


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), empty_database)
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds where people wait longer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracker, "_CLOSE_SECONDS", 3.0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The folder of a run that recorded three steps, two samples of its machine and a checkpoint, and ended."""
    folder = RunFolder(tmp_path / "runs" / "first")
    folder.path.mkdir(parents=True)
    folder.write_config({"track": {}})
    write_json(folder.provenance, {"run_key": "4f1c"})
    description = {"kit_version": "0", "model": small_spec("small").as_dict()}
    write_checkpoint(folder.best, {"weight": torch.ones(2)}, description)
    folder.figures.mkdir()
    (folder.figures / "loss.png").write_bytes(b"png")
    for step in (1, 2, 3):
        MetricsLog(folder.metrics).append({"step": step, "time_ms": 1000 + step, "kind": "train", "loss": 1.0 / step})
    for step in (0, 1):
        MetricsLog(folder.system).append({"step": step, "time_ms": 1000 + step, "cpu_utilization_percentage": 50.0})
    Account(
        experiment="demo", run_name="first", params={"train.steps": "3"}, tags={"mlflow.note.content": "told"},
        dataset={"name": "sample", "digest": "abc", "source_type": "local", "source": "{}"}, checkpoint=True,
        started_ms=1000, status="FINISHED", ended_ms=5000,
    ).write(folder)  # fmt: skip
    return folder


def losses(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    points = connect(uri, Path()).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def begin(uri: str, run_dir: Path, **more: object) -> Tracker:
    arguments: dict[str, object] = {
        "uri": uri, "run_dir": run_dir, "experiment": "demo", "run_name": "remote", "params": {}, "tags": {},
    }  # fmt: skip
    return Tracker.start(**{**arguments, **more})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_server_takes_all_of_a_run_once(server: Server, run: RunFolder, capfd: pytest.CaptureFixture[str]) -> None:
    told = sync(run.path, server.uri.replace("//", "//ann:pa55@"))
    assert "pa55" not in "".join([*capfd.readouterr(), *map(str, told.values())])
    told["store"] = server.uri
    assert told["values"] == 5
    assert sync(run.path, server.uri) == {**told, "values": 0}
    client: MlflowClient = connect(server.store, Path())
    found = client.get_run(told["mlflow_run_id"])
    assert found.data.params == {"train.steps": "3"}
    assert found.data.tags["mlflow.note.content"] == "told"
    assert (found.info.status, found.info.start_time, found.info.end_time) == ("FINISHED", 1000, 5000)
    assert found.inputs is not None
    assert [item.dataset.name for item in found.inputs.dataset_inputs] == ["sample"]
    assert losses(server.uri, found.info.run_id, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert losses(server.uri, found.info.run_id, "system/cpu_utilization_percentage") == [(0, 50.0), (1, 50.0)]
    kept = server.folder / "artifacts" / found.info.experiment_id / found.info.run_id / "artifacts"
    assert (kept / "figures" / "loss.png").read_bytes() == b"png"
    assert (kept / "checkpoint" / "kit.json").read_bytes() == (run.best / "kit.json").read_bytes()
    assert len(client.search_runs([found.info.experiment_id], "tags.`kit.run_key` = '4f1c'")) == 1


@pytest.mark.slow
def test_what_a_person_wrote_about_a_run_stays(server: Server, run: RunFolder) -> None:
    run_id = sync(run.path, server.uri)["mlflow_run_id"]
    connect(server.uri, Path()).set_tag(run_id, "mlflow.note.content", "my own words")
    sync(run.path, server.uri)
    assert connect(server.uri, Path()).get_run(run_id).data.tags["mlflow.note.content"] == "my own words"


@pytest.mark.slow
def test_a_lost_server_is_said_once_and_gets_everything_when_it_is_back(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(server.port)
    gate.open()
    run = begin(gate.uri, tmp_path)
    run.log(1, {"loss": 1.0}, 1001)
    assert run.flush()
    gate.shut()
    for step in (2, 3):
        run.log(step, {"loss": 1.0 / step}, 1000 + step)
        assert not run.flush()
    assert caplog.text.count("WARNING") == 1
    assert "nothing listens there; training goes on, 1 values wait" in caplog.text
    gate.open()
    assert run.finish("FINISHED")
    gate.shut()
    assert "answers again and has everything that waited" in caplog.text
    assert losses(server.store, run.run_id) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_run_ends_in_time_beside_a_server_that_hangs_and_is_sent_later(
    server: Server, run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(run.provenance, {"run_key": "hangs"})
    hung = begin(server.uri, run.path.parent, folder=run.path, run_key="hangs")
    write_json(run.provenance, {"run_key": "hangs", "mlflow_run_id": hung.run_id})
    server.signal(signal.SIGSTOP)
    try:
        hung.log(1, {"train/loss": 1.0}, 1001)
        began = time.monotonic()
        hung.flush_at_end()
        hung.artifact(run.config)
        hung.artifact(run.best, "checkpoint", link=True)
        assert not hung.finish("FINISHED")
        assert time.monotonic() - began < 6
    finally:
        server.signal(signal.SIGCONT)
    assert f"1 values and config.toml, checkpoint; {run.path} has them; kit sync {run.path} sends them" in caplog.text
    assert sync(run.path, server.uri)["mlflow_run_id"] == hung.run_id
    assert losses(server.uri, hung.run_id, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert connect(server.uri, Path()).get_run(hung.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_goes_on_where_its_server_is_away(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = begin(server.uri, tmp_path, params={"train.steps": "9"})
    first.log(1, {"loss": 1.0}, 1001)
    first.finish("KILLED")
    server.signal(signal.SIGSTOP)
    try:
        second = begin(server.uri, tmp_path, run_id=first.run_id)
        assert "it does not answer; the run goes on, and what there is to tell waits" in caplog.text
        second.log(1, {"loss": 1.0}, 9001)  # computed again
        second.log(2, {"loss": 0.5}, 9002)
    finally:
        server.signal(signal.SIGCONT)
    assert second.finish("FINISHED")
    assert losses(server.uri, first.run_id) == [(1, 1.0), (2, 0.5)]


def test_a_server_that_was_never_there_is_an_error_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with silence() as uri, pytest.raises(KitError, match=r"it does not answer\. Start it, correct track.uri"):
        reach(uri.replace("//", "//ann:pa55@"), tmp_path)
    with pytest.raises(KitError, match=r"nothing listens there.*--track.uri sqlite:.*kit sync") as error:
        reach("http://ann:pa55@127.0.0.1:9", tmp_path)
    assert "pa55" not in str(error.value)
    reach(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_artifact_that_is_refused_ends_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def refuse(*_arguments: object) -> None:
        msg = "413 Client Error: too large for http://ann:pa55@127.0.0.1/artifact"
        raise requests.HTTPError(msg)

    run = begin(server.uri, tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        run.artifact(tmp_path / "a.txt")
    run.artifact(tmp_path / "a.txt", "later")
    assert not run.finish("FINISHED")
    assert "413 Client Error" in caplog.text
    assert "pa55" not in caplog.text
    assert [item.path for item in connect(server.uri, tmp_path).list_artifacts(run.run_id)] == ["later"]


def test_sync_of_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"expected the folder of a run, with tracking.json"):
        sync(tmp_path)


def test_sync_to_where_the_run_began_makes_no_second_one(run: RunFolder, run_dir: Path) -> None:
    folder = RunFolder(run_dir / "first")
    run.path.rename(folder.path)
    begun = begin(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    write_json(folder.provenance, {"run_key": "x", "mlflow_run_id": begun.run_id})
    assert sync(folder.path)["mlflow_run_id"] == begun.run_id
    write_json(folder.provenance, {"run_key": "x", "mlflow_run_id": "0" * 32})
    with pytest.raises(MissingRunError):
        sync(folder.path)


def test_the_users_name_and_password_are_not_kept() -> None:
    from kit.io.secrets import without_user

    assert without_user("https://ann:pa55@host:5000/mlflow") == "https://host:5000/mlflow"
    assert without_user("postgresql://ann:pa55@host/db") == "postgresql://***@host/db"
    assert without_user("sqlite:///runs/mlflow.db") == "sqlite:///runs/mlflow.db"


def test_a_password_in_the_address_is_kept_nowhere(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from kit.run.finetune import finetune
    from kit.settings import Settings
    from tests.factories import synthetic_store

    given = {
        "run": {"name": "secret", "dir": tmp_path / "runs"},
        "data": {"store": str(synthetic_store(tmp_path / "store", times=16).path)},
        "model": {"weights": "random"},
        "train": {"steps": 2},
        "track": {"uri": server.uri.replace("//", "//ann:pa55word@")},
    }
    result = finetune(Settings.model_validate(given))
    run = tmp_path / "runs" / "secret"
    assert f'uri = "{server.uri}"' in (run / "config.toml").read_text()
    kept = [file for folder in (run, server.folder) for file in folder.rglob("*") if file.is_file()]
    assert run / "checkpoints" / "last" / "kit.json" in kept
    assert not [file for file in kept if b"pa55word" in file.read_bytes()]
    assert "pa55word" not in "".join(capfd.readouterr())
    assert losses(server.uri, result.mlflow_run_id, "train/loss")[-1][0] == 2
    assert sync(run)["values"] == 0
