from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from kit.io.errors import KitError
from kit.tracking.store import MissingRunError, connect
from kit.tracking.tracker import MetricRecord, Tracker
from tests.tracking.conftest import StartRun


def record(step: int, time_ms: int | None = None) -> MetricRecord:
    return MetricRecord(step, {"loss": 1.0 / step, "loss/2t": 2.0 / step}, 1000 + step if time_ms is None else time_ms)


def log(tracker: Tracker, records: Iterable[MetricRecord]) -> None:
    for item in records:
        tracker.log(*item)


def history(tracker: Tracker, key: str, run_dir: Path) -> list[tuple[int, float]]:
    """Steps and values of a metric, in the order of the steps."""
    points = client_of(run_dir).get_metric_history(tracker.run_id, key)
    return sorted((point.step, point.value) for point in points)


def client_of(run_dir: Path) -> MlflowClient:
    return connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)


def test_a_run_has_its_settings_tags_metrics_and_artifacts(start: StartRun, run_dir: Path) -> None:
    (run_dir / "first" / "figures").mkdir(parents=True)
    (run_dir / "first" / "config.toml").write_text("[train]\n")
    (run_dir / "first" / "figures" / "loss.png").write_bytes(b"png")
    tracker = start(params={"train": {"steps": 2}, "hub": {"token": "abc"}}, tags={"kit.version": "0.1.0"})
    log(tracker, [record(1), record(2)])
    tracker.artifact(run_dir / "first" / "config.toml")
    tracker.artifact(run_dir / "first" / "figures", "figures")
    tracker.finish("FINISHED")
    run = client_of(run_dir).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params == {"train.steps": "2"}
    assert run.data.tags["kit.version"] == "0.1.0"
    assert history(tracker, "loss/2t", run_dir) == [(1, 2.0), (2, 1.0)]
    stored = run_dir / "mlartifacts" / tracker.run_id / "artifacts"
    assert (stored / "config.toml").read_text() == "[train]\n"
    assert (stored / "figures" / "loss.png").read_bytes() == b"png"


def test_more_settings_than_one_request_takes(start: StartRun, run_dir: Path) -> None:
    tracker = start(params={f"setting{number}": "x" * 7000 for number in range(250)})
    assert len(client_of(run_dir).get_run(tracker.run_id).data.params) == 250


def test_metrics_that_are_no_numbers(start: StartRun, run_dir: Path) -> None:
    tracker = start()
    tracker.log(1, {"nan": math.nan, "infinite": math.inf, "odd{name}": 1.0}, 1000)
    assert tracker.flush()
    assert math.isnan(history(tracker, "nan", run_dir)[0][1])
    assert history(tracker, "infinite", run_dir)[0][1] > 1e308
    assert len(client_of(run_dir).get_run(tracker.run_id).data.metrics) == 3


def test_a_reopened_run_takes_no_value_twice(start: StartRun, run_dir: Path) -> None:
    first = start(params={"train": {"steps": 9, "resume": "never"}})
    log(first, map(record, range(1, 8)))  # the checkpoint is at step 5: steps 6 and 7 are computed again
    first.finish("KILLED")

    second = start(params={"train": {"steps": 9, "resume": "auto"}, "new": 1}, run_id=first.run_id, tags={"again": "1"})
    run = client_of(run_dir).get_run(first.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"train.steps": "9", "train.resume": "never", "new": "1"}
    assert run.data.tags["again"] == "1"

    assert second.reconcile(map(record, range(1, 6))) == 0
    log(second, (record(step, time_ms=9000 + step) for step in range(6, 10)))
    second.finish("FINISHED")
    assert history(second, "loss", run_dir) == [(step, 1.0 / step) for step in range(1, 10)]
    assert history(second, "loss/2t", run_dir) == [(step, 2.0 / step) for step in range(1, 10)]


def test_what_a_crash_kept_from_mlflow_is_sent_at_resume(start: StartRun, run_dir: Path) -> None:
    first = start()
    log(first, map(record, [1, 2]))
    first.flush()
    first.log(3, {"loss": 1 / 3}, 1003)  # of step 3, only one of two values arrived
    first.flush()

    second = start(run_id=first.run_id)
    assert second.reconcile([*map(record, range(1, 6)), record(5)]) == 1 + 2 + 2
    assert history(second, "loss", run_dir) == [(step, 1.0 / step) for step in range(1, 6)]
    assert history(second, "loss/2t", run_dir) == [(step, 2.0 / step) for step in range(1, 6)]


def test_sending_again_after_a_lost_answer_adds_nothing(
    start: StartRun, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    tracker = start()
    log_batch = MlflowClient.log_batch

    def stored_but_unanswered(self: MlflowClient, *arguments: object, **more: object) -> None:
        log_batch(self, *arguments, **more)  # type: ignore[arg-type]
        msg = "connection lost"
        raise MlflowException(msg)

    tracker.log(*record(1))
    tracker.log(1, {"nan": math.nan}, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", stored_but_unanswered)
        assert not tracker.flush()
    assert "does not take metrics: connection lost; training goes on, 3 values wait" in caplog.text
    assert tracker.flush()
    assert len(history(tracker, "loss", run_dir)) == 1
    assert len(history(tracker, "nan", run_dir)) == 1


def test_a_store_that_fails_never_ends_the_run(
    start: StartRun, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start()
    tracker.log(*record(1))
    client_of(run_dir).delete_run(tracker.run_id)
    tracker.flush_at_end()
    tracker.artifact(run_dir / "mlflow.db")
    assert not tracker.finish("FINISHED")
    assert f"never got of run {tracker.run_id}: 2 values and mlflow.db; they are lost" in caplog.text


def test_a_run_key_finds_the_run_whose_id_was_never_saved(start: StartRun, run_dir: Path) -> None:
    first = start(run_key="4f1c")
    first.log(*record(1))
    first.flush()
    second = start(run_key="4f1c")
    second.log(*record(1, time_ms=9001))
    second.flush()
    assert second.run_id == first.run_id
    assert history(second, "loss", run_dir) == [(1, 1.0)]
    assert start(run_key="other").run_id != first.run_id


def test_an_unknown_run_is_an_error(start: StartRun) -> None:
    with pytest.raises(MissingRunError, match=r"MLflow run 0{32} is not in sqlite:.*Point track.uri"):
        start(run_id="0" * 32)


def test_a_deleted_run_is_an_error(start: StartRun, run_dir: Path) -> None:
    tracker = start()
    client_of(run_dir).delete_run(tracker.run_id)
    with pytest.raises(MissingRunError, match=f"mlflow runs restore --run-id {tracker.run_id}"):
        start(run_id=tracker.run_id)


def test_a_deleted_experiment_is_an_error(start: StartRun, run_dir: Path) -> None:
    start()
    experiment = client_of(run_dir).get_experiment_by_name("demo")
    assert experiment is not None
    client_of(run_dir).delete_experiment(experiment.experiment_id)
    with pytest.raises(KitError, match=r"'demo' was deleted\. Restore it"):
        start()


def test_a_file_that_is_no_database_is_an_error(start: StartRun, run_dir: Path) -> None:
    (run_dir / "other.db").write_text("not a database, but longer than the sixteen bytes of its magic number")
    with pytest.raises(KitError, match=r"cannot open the MLflow store sqlite:.*other.db"):
        start(uri=f"sqlite:///{run_dir / 'other.db'}")


def test_an_unreachable_server_is_an_error_without_its_password(
    start: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(KitError, match=r"cannot start a run in the MLflow store http://\*\*\*@127.0.0.1:9") as error:
        start(uri="http://ann:pa55@127.0.0.1:9")
    assert "pa55" not in str(error.value)


def test_the_environment_names_the_store(start: StartRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mlflow.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere / 'mlflow.db'}")
    tracker = start()
    assert client_of(elsewhere).get_run(tracker.run_id).info.status == "RUNNING"
    tracker.artifact(tmp_path / "mlflow.db")
    assert (elsewhere / "mlartifacts" / tracker.run_id / "artifacts" / "mlflow.db").exists()


CRASH = """
    import json, os, signal, sys
    from pathlib import Path
    from kit.tracking.tracker import Tracker

    folder, sent, logged = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    tracker = Tracker.start(uri=None, run_dir=folder, experiment="demo", run_name="crash", params={}, tags={})
    (folder / "run_id").write_text(tracker.run_id)
    with (folder / "metrics.jsonl").open("w") as lines:
        for step in range(1, logged + 1):
            values = {"loss": 1.0 / step, "loss/2t": 2.0 / step}
            lines.write(json.dumps([step, values, 1000 + step]) + chr(10))
            lines.flush()
            tracker.log(step, values, 1000 + step)
            if step == sent:
                tracker.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "checkpoint"), ((4, 8), (10, 6)), ids=["mlflow-behind", "mlflow-ahead"])
def test_killed_between_log_and_flush(start: StartRun, run_dir: Path, sent: int, checkpoint: int) -> None:
    script = [sys.executable, "-W", "error", "-c", textwrap.dedent(CRASH), str(run_dir), str(sent), "10"]
    done = subprocess.run(script, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stderr == ""

    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    kept = [item for item in (MetricRecord(*json.loads(line)) for line in lines) if item.step <= checkpoint]
    tracker = start(run_id=(run_dir / "run_id").read_text())
    assert tracker.reconcile(kept) == 2 * max(0, checkpoint - sent)
    log(tracker, (record(step, time_ms=9000 + step) for step in range(checkpoint + 1, 13)))
    tracker.finish("FINISHED")
    assert history(tracker, "loss", run_dir) == [(step, 1.0 / step) for step in range(1, 13)]
    assert history(tracker, "loss/2t", run_dir) == [(step, 2.0 / step) for step in range(1, 13)]
    runs = client_of(run_dir).search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"]


@pytest.mark.slow
def test_two_processes_may_create_one_store(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kit.tracking.tracker import Tracker;"
        "Tracker.start(uri=None, run_dir=Path(sys.argv[1]), experiment='demo', run_name='x', params={}, tags={})"
        ".finish('FINISHED')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "runs")]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert len(client_of(tmp_path / "runs").search_runs(["1"])) == 2
    assert not list((tmp_path / "runs").glob("*.creating*"))


def test_a_creation_that_was_cut_short_is_begun_again(
    start: StartRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mlflow.db.creating").write_bytes(b"half a database")
    with caplog.at_level(logging.DEBUG):
        start(run_dir=tmp_path / "new")
    assert [entry.message for entry in caplog.records if entry.name.startswith(("mlflow", "alembic"))] == []
    assert "creating the MLflow database" in caplog.text
