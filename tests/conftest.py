"""What tests of several rooms share."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

# Two processes of the suite share two cores: PyTorch with more threads than that only waits for itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A suite that is started in the background ignores signals, and so would the processes that its tests end by them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One empty MLflow database for the session: making it takes seconds, copying it none."""
    from kit.tracking.store import connect

    folder = tmp_path_factory.mktemp("mlflow")
    connect(f"sqlite:///{folder / 'mlflow.db'}", folder)
    return folder / "mlflow.db"


@pytest.fixture
def run_dir(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs whose MLflow store exists already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path
