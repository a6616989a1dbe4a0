"""One empty MLflow database for the session: making it takes seconds, copying it none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.tracking.store import connect
from kit.tracking.tracker import Tracker

StartRun = Callable[..., Tracker]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    connect(f"sqlite:///{folder / 'mlflow.db'}", folder)
    return folder / "mlflow.db"


@pytest.fixture
def run_dir(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs whose MLflow store exists already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def start(run_dir: Path) -> StartRun:
    """``Tracker.start`` on the store of ``run_dir``, with defaults for what a test does not care about."""

    def start_run(**changes: object) -> Tracker:
        arguments: dict[str, object] = {
            "uri": None, "run_dir": run_dir, "experiment": "demo", "run_name": "first", "params": {}, "tags": {},
        }  # fmt: skip
        return Tracker.start(**{**arguments, **changes})  # type: ignore[arg-type]

    return start_run
