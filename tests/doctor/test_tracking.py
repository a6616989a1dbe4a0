"""What is said of MLflow stores."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kit.doctor.diagnosis import Diagnosis
from kit.doctor.network import Reply
from kit.doctor.tracking import check_server, examine_tracking, newest_schema
from kit.tracking.settings import TrackSettings
from tests.doctor.test_network import server
from tests.everyday import one_in


def finding(run_dir: Path, uri: str | None = None) -> Diagnosis:
    return examine_tracking(TrackSettings(uri=uri), run_dir)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_store_that_the_first_run_makes(tmp_path: Path) -> None:
    found = finding(tmp_path)
    assert found.status == "ok"
    assert "the first run makes it" in found.detail
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_as_this_mlflow_makes_it(run_dir: Path) -> None:
    before = (run_dir / "mlflow.db").read_bytes()
    found = finding(run_dir)
    assert (found.status, found.remedy) == ("ok", "")
    assert found.evidence["schema"] == found.evidence["expected"] == newest_schema()
    assert (run_dir / "mlflow.db").read_bytes() == before


def test_a_store_of_another_version(run_dir: Path) -> None:
    with sqlite3.connect(run_dir / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'abc'")
    database.close()
    found = finding(run_dir)
    assert found.status == "error"
    assert "mlflow db upgrade" in found.remedy


def test_a_locked_store(run_dir: Path) -> None:
    holder = sqlite3.connect(run_dir / "mlflow.db", isolation_level=None)
    holder.execute("begin immediate")
    found = finding(run_dir)
    holder.close()
    assert found.status == "warning"
    assert "locked by another process" in found.detail


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 1000)
    found = finding(tmp_path)
    assert found.status == "error"
    assert "file is not a database" in found.detail


def test_a_database_of_something_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table other (a)")
    database.close()
    assert "not MLflow's" in finding(tmp_path).detail


def test_a_folder_in_the_place_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    assert finding(tmp_path).status == "error"


@pytest.mark.parametrize(
    ("code", "status", "word"),
    one_in(
        2,
        (
            (200, "ok", ""),
            (401, "warning", "MLFLOW_TRACKING_TOKEN"),
            (404, "warning", "--track.uri"),
            (500, "error", "server"),
        ),
    ),
)
def test_a_server(code: int, status: str, word: str, tmp_path: Path) -> None:
    with server(code) as address:
        found = finding(tmp_path, address.replace("//", "//me:hunter2@"))
    assert found.status == status
    assert word in found.remedy
    assert "hunter2" not in str(found)


def test_a_server_that_is_lost(tmp_path: Path) -> None:
    found = finding(tmp_path, "http://me:hunter2@127.0.0.1:9")
    assert found.status == "error"
    assert "does not answer" in found.detail
    assert "hunter2" not in str(found)
    assert check_server("http://x", Reply("http://x", None, "time", "timed out")).status == "error"


def test_a_store_of_another_kind_is_not_looked_at(tmp_path: Path) -> None:
    assert finding(tmp_path, "postgresql://me:hunter2@host/db").detail.startswith("postgresql://***@host/db")
