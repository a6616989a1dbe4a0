from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.io.errors import KitError
from kit.tracking.store import connect
from kit.tracking.tracker import MetricRecord
from kit.tracking.ui import serve
from tests.tracking.conftest import StartRun

SERVE = (
    "import logging, sys; from pathlib import Path; from kit.tracking.ui import serve;"
    "logging.basicConfig(level=logging.INFO, format='%(message)s');"
    "serve(None, Path(sys.argv[1]), int(sys.argv[2]))"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as response:
        return bytes(response.read())


@pytest.fixture
def server(run_dir: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The pages of ``run_dir``, served by a process of its own, as ``kit ui`` does."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, str(run_dir), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    url = f"http://127.0.0.1:{port}"
    assert url in line, line + process.stderr.read()
    yield url, process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def test_pages_tracking_and_the_end(
    server: tuple[str, subprocess.Popen[str]], start: StartRun, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server for all of it: starting one takes seconds."""
    url, process = server
    assert answer(f"{url}/health") == b"OK"

    local = start(tags={"made": "locally"})
    local.artifact(run_dir / "mlflow.db", "copies")
    assert answer(f"{url}/get-artifact?path=copies/mlflow.db&run_uuid={local.run_id}").startswith(b"SQLite")

    first = start(uri=url, params={"seed": 0}, experiment="remote", run_key="k")
    first.log(1, {"loss": 0.5, "nan": float("nan"), "infinite": float("inf")}, 1001)
    first.log(2, {"loss": 0.4}, 1002)
    assert first.flush()
    second = start(uri=url, params={"seed": 0}, experiment="remote", run_key="k", run_id=None)
    assert second.run_id == first.run_id
    assert second.reconcile([MetricRecord(1, {"loss": 0.5, "other": 1.0}, 1001)]) == 1
    second.log(2, {"loss": 0.4, "nan": float("nan")}, 9002)
    second.log(3, {"loss": 0.3}, 9003)
    (run_dir / "config.toml").write_text("[train]\n")
    second.artifact(run_dir / "config.toml", "config")
    second.finish("FINISHED")
    client = connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    losses = [(point.step, point.value) for point in client.get_metric_history(first.run_id, "loss")]
    assert losses == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert len(client.get_metric_history(first.run_id, "nan")) == 2
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(first.run_id, "config")] == ["config/config.toml"]

    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 0
    assert rest == ""
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):
        pass


def test_no_store_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(KitError, match=r"no MLflow store at .*mlflow.db yet. Run `kit finetune` first"):
        serve(None, tmp_path, free_port())
    assert not list(tmp_path.iterdir())


def test_a_taken_port(run_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KitError, match=rf"Port {port} on 127.0.0.1 cannot be used .*--port"):
            serve(None, run_dir, port)


def test_a_store_that_is_a_server_already(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"^http://\*\*\*@host:5000 is an MLflow server already"):
        serve("http://ann:pa55@host:5000", tmp_path, free_port())


@pytest.mark.slow
def test_a_database_that_mlflow_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("not a database, but longer than the sixteen bytes of its magic number")
    with pytest.raises(KitError, match="the MLflow server did not start"):
        serve(f"sqlite:///{tmp_path / 'other.db'}", tmp_path, free_port())
