"""What is said of folders, and of the kit's files."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kit import registry
from kit.doctor.disk import WatchedFolder, check_files, check_folder, probe_folder, watched_folders
from kit.doctor.network import examine_network
from kit.registry.entry import RESOURCES

GIB = 2**30


def watched(path: Path) -> WatchedFolder:
    return replace(watched_folders(path)[0], path=path)


def test_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    found = probe_folder(watched(tmp_path / "a" / "runs"))
    assert (found.is_file, found.refusal) == (False, "")
    assert found.free > 0
    assert found.system
    assert list(tmp_path.iterdir()) == []
    assert check_folder(replace(found, free=99 * GIB, system="ext4")).status == "ok"


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    for path in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        found = check_folder(probe_folder(watched(path)))
        assert found.status == "error"
        assert f"{tmp_path / 'runs'} is not a folder" in found.detail
        assert "--run.dir" in found.remedy


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    found = check_folder(probe_folder(watched(tmp_path)))
    assert found.status == "error"
    assert "no file can be made there (Read-only file system)" in found.detail


@pytest.mark.parametrize(
    ("facts", "status", "word"),
    (
        ({"free": 20 * GIB}, "warning", "up to 40 GB"),
        ({"free": GIB // 4}, "error", "less than the 0.5 GiB"),
        ({"system": "nfs4"}, "warning", "SQLite"),
        ({"system": ""}, "ok", "renamed"),
    ),
)
def test_a_folder_with_too_little(facts: dict[str, object], status: str, word: str, tmp_path: Path) -> None:
    full = replace(watched(tmp_path), free=99 * GIB, system="ext4")
    found = check_folder(replace(full, **facts))  # type: ignore[arg-type]
    assert found.status == status
    assert word in found.detail


def test_the_cache_and_the_temporary_folder_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    runs, cache, temporary = watched_folders(Path("here"))
    assert (runs.path, cache.path) == (Path("here"), tmp_path / "cache")
    assert temporary.setting == "TMPDIR"


def test_the_files_that_the_kit_carries_are_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    assert [(one.name, one.status) for one in check_files(verify=False)] == [
        ("file era5-sample", "ok"),
        ("file aurora-tiny", "ok"),
        ("file coastlines", "ok"),
        ("cache files", "skipped"),
    ]


def test_a_damaged_file_that_the_kit_carries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = bytearray((RESOURCES / "aurora-tiny.safetensors").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "aurora-tiny.safetensors").write_bytes(damaged)
    monkeypatch.setattr(registry.entry, "RESOURCES", tmp_path)
    sample, tiny, *_ = check_files(verify=False)
    assert "No such file" in sample.detail
    assert "SHA-256 is" in tiny.detail
    assert [(one.status, one.remedy) for one in (sample, tiny)] == [("error", "install the kit again")] * 2


def test_files_in_the_cache_are_hashed_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    assert check_files(verify=True)[-1].status == "ok"
    entry = registry.entries()["era5-western-usa-2025-01-surface-statistics"]
    path = registry.entry.place(entry)
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * int(entry.size or 0))
    found = check_files(verify=True)[-1]
    assert (found.name, found.status) == (f"file {entry.name}", "warning")
    assert str(path) in found.remedy


def test_a_list_of_the_users_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[broken")
    monkeypatch.setenv("KIT_REGISTRY", str(tmp_path / "own.toml"))
    [found] = check_files(verify=True)
    assert (found.name, found.status) == ("registry", "error")
    assert "own.toml" in found.detail
    assert examine_network(asked=True)[-1].status == "skipped"
