"""The file of results: merged by suite, and refused where it is something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.bench import results
from kit.io.errors import SettingsError


def suite(date: str) -> dict[str, Any]:
    return {"command": "kit bench", "date": date, "machine": {"name": "m"}, "rows": []}


def test_a_suite_replaces_itself_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    old = {"step": suite("2026-01-01"), "plan": suite("2026-01-01")}
    results.write(path, {**old, "step": suite("2026-02-02")})
    found = results.load(path)
    assert {name: entry["date"] for name, entry in found.items()} == {"step": "2026-02-02", "plan": "2026-01-01"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "expected results of kit bench, as JSON.*delete it"),
        ("[]", "in format 1"),
        ('{"format": 2, "suites": {}}', "in format 1"),
        ('{"format": 1, "suites": {"step": {"rows": []}}}', "in format 1"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=told):
        results.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no file of results"):
        results.load(tmp_path / "none.json")


def test_what_cannot_be_written_is_refused_and_what_can_is_left_alone(tmp_path: Path) -> None:
    results.check_writable(tmp_path / "new" / "b.md")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "b.md", tmp_path):
        with pytest.raises(SettingsError, match="cannot write .*choose another file with --out"):
            results.check_writable(path)
