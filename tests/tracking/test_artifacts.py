from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kit.tracking.store import connect, link_into, local_folder
from tests.tracking.conftest import StartRun


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "best"
    (folder / "adapter").mkdir(parents=True)
    (folder / "kit.json").write_text("{}")
    (folder / "adapter" / "weights").write_bytes(b"weights")
    return folder


def test_a_checkpoint_takes_its_room_once_and_outlives_its_run(
    checkpoint: Path, start: StartRun, run_dir: Path
) -> None:
    tracker = start()
    tracker.artifact(checkpoint, "checkpoint", link=True)
    tracker.artifact(checkpoint, "checkpoint", link=True)
    client = connect(f"sqlite:///{run_dir / 'mlflow.db'}", run_dir)
    assert [item.path for item in client.list_artifacts(tracker.run_id, "checkpoint")] == [
        "checkpoint/adapter", "checkpoint/kit.json",
    ]  # fmt: skip
    kept = run_dir / "mlartifacts" / tracker.run_id / "artifacts" / "checkpoint" / "adapter" / "weights"
    weights = checkpoint / "adapter" / "weights"
    assert kept.samefile(weights)
    assert kept.stat().st_nlink == 2
    weights.unlink()
    assert kept.read_bytes() == b"weights"


def test_between_disks_files_are_copied(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_into(checkpoint, tmp_path / "artifacts")
    copy = tmp_path / "artifacts" / "adapter" / "weights"
    assert copy.read_bytes() == b"weights"
    assert not copy.samefile(checkpoint / "adapter" / "weights")
    assert sorted(path.name for path in tmp_path.glob("artifacts/**/*")) == ["adapter", "kit.json", "weights"]


@pytest.mark.parametrize(
    ("uri", "folder"),
    (
        ("file:///runs/a%20b/artifacts", Path("/runs/a b/artifacts")),
        ("/runs/artifacts", Path("/runs/artifacts")),
        ("mlflow-artifacts:/1/abc/artifacts", None),
        ("s3://bucket/abc", None),
        ("file://elsewhere/runs", None),
    ),
)
def test_only_artifacts_on_this_machine_have_a_folder(uri: str, folder: Path | None) -> None:
    assert local_folder(uri) == folder
