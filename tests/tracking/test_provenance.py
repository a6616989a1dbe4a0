from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kit.tracking.provenance import collect, settings_hash, tags


def collected(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"settings": {"train": {"seed": 0}}, "data": {"fingerprint": "f00"}, "argv": ["kit"]}
    return collect(**(arguments | changes))


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "requirements.lock").write_text("numpy==2.0\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_it_says_what_ran_where() -> None:
    found = collected(started=datetime(2020, 1, 1, 2, tzinfo=UTC), base_weights={"sha256": "abc"})
    assert found["started"] == "2020-01-01T02:00:00+00:00"
    assert {"torch", "microsoft-aurora", "numpy", "xarray", "zarr"} <= found["packages"].keys()
    assert found["python"]["version"] == sys.version.split()[0]
    assert found["cpu"]["threads"] >= 1
    assert found["cpu"]["cores"] >= 1
    assert found["data"] == {"fingerprint": "f00"}
    assert found["base_weights"] == {"sha256": "abc"}
    json.dumps(found)


def test_commit_and_lock_of_a_checkout(checkout: Path) -> None:
    found = collected(checkout=checkout)
    assert re.fullmatch("[0-9a-f]{40}", found["git"]["commit"])
    assert found["git"]["dirty"] is False
    assert found["lock_sha256"] == hashlib.sha256(b"numpy==2.0\n").hexdigest()
    (checkout / "new.txt").write_text("x")
    assert collected(checkout=checkout)["git"]["dirty"] is True


def test_an_installed_kit_has_no_commit_even_inside_a_repository(checkout: Path) -> None:
    site_packages = checkout / "lib"
    site_packages.mkdir()
    found = collected(checkout=site_packages)
    assert found["git"] is None
    assert found["lock_sha256"] is None


@pytest.mark.parametrize(
    ("revision", "git"),
    [
        ("a1" * 20, {"commit": "a1" * 20, "dirty": False}),
        ("a1" * 20 + "-dirty", {"commit": "a1" * 20, "dirty": True}),
        ("unknown", None),
    ],
)
def test_an_image_knows_what_it_was_built_from(tmp_path: Path, revision: str, git: object) -> None:
    record = tmp_path / "image.json"
    record.write_text(json.dumps({"revision": revision, "lock_sha256": "b2" * 32}))
    found = collected(checkout=tmp_path, image=record)
    assert found["git"] == git
    assert found["lock_sha256"] == "b2" * 32


def test_a_machine_without_git_is_no_failure(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert collected(checkout=checkout)["git"] is None


def test_a_checkout_that_git_refuses_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".git").write_text("gitdir: /nowhere")
    assert collected(checkout=tmp_path)["git"] is None


def test_secrets_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hidden-token-1")
    settings = {"hub": {"token": "hidden-token-2"}, "track": {"uri": "http://ann:hidden-token-3@host"}}
    found = collected(settings=settings, argv=["kit", "--hub.token", "hidden-token-2", "http://a:hidden-token-3@h"])
    assert "hidden-token" not in json.dumps(found)
    assert settings_hash(settings) == settings_hash({"track": {"uri": "http://***@host"}})


def test_settings_hash_follows_values_and_not_order() -> None:
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_tags(checkout: Path) -> None:
    found = collected(checkout=checkout, base_weights={"file": "tiny.safetensors", "sha256": "abc"})
    labels = tags(found)
    assert labels["mlflow.source.git.commit"] == found["git"]["commit"]
    assert labels["kit.git_dirty"] == "false"
    assert labels["kit.data.fingerprint"] == "f00"
    assert labels["kit.base_weights.sha256"] == "abc"
    assert "kit.lock_sha256" in labels
    assert tags(collected(checkout=checkout / "nowhere"))["kit.data.fingerprint"] == "f00"


def test_importing_it_imports_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, kit.tracking.provenance, kit.tracking.tracker, kit.tracking.ui;"
        "sys.exit(bool({'mlflow', 'torch', 'sqlalchemy'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
