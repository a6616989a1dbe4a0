"""What people see of the registry: downloads with and without a terminal, pins and licences."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kit.cli.views import progress as view
from kit.cli.views.progress import DownloadProgress
from kit.cli.views.registry import show_fetched, show_pins


@pytest.mark.parametrize("terminal", [False, True])
def test_a_download_is_shown(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        view,
        "error_console",
        lambda: Console(file=screen, force_terminal=terminal, width=120, highlight=False),
    )
    monkeypatch.setattr(view, "_EVERY", 0.0)
    progress = DownloadProgress()
    progress.started("weights [x]", "example.org", 0, 5 * 1024**3)
    progress.advanced(1024**3)
    progress.said("cut; trying again in 1 s")
    progress.started("weights [x]", "example.org", 2 * 1024**3, 5 * 1024**3)
    progress.advanced(5 * 1024**3)
    progress.ended()
    progress.started("next", "example.org", 0, None)
    progress.advanced(700)
    progress.ended()
    text = screen.getvalue()
    assert "weights [x]" in text
    assert "cut; trying again in 1 s" in text
    if not terminal:
        assert "fetching weights [x] (5 GiB) from example.org\n" in text
        assert "weights [x]: 1 GiB (20%)" in text
        assert "(5 GiB) from example.org, from 2 GiB on" in text
        assert "fetching next (size unknown) from example.org" in text


def test_licences_are_told_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"name": "a", "path": "/x/a", "licence": "MIT"}
    show_fetched({"files": [one, {**one, "name": "b", "path": "/x/b"}, {**one, "name": "c", "licence": "CC0"}]})
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["a: /x/a", "b: /x/b"]
    assert lines[3:] == ["licence and credit (a, b): MIT", "licence and credit (c): CC0"]


def test_pins_are_told_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    new = {"name": "a", "sha256": None, "git_blob": "0" * 40, "size": None, "source": "the hub", "new": True}
    show_pins({"pins": [new], "registry": "/x/registry.toml"})
    assert capsys.readouterr().err.splitlines() == [
        f"a: recorded git object id {'0' * 40}, from the hub",
        "in /x/registry.toml",
    ]
