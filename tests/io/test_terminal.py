"""Standard error that goes away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from kit.cli.views.tables import show_facts
from kit.io.terminal import StandardError
from kit.run.display import training_progress


@contextmanager
def abandoned() -> Iterator[TextIO]:
    """A standard error whose reader has gone; no fixture, between which and its test pytest puts back its own."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield stream


def test_what_nobody_reads_is_dropped() -> None:
    with abandoned() as stream:
        out = StandardError()
        out.write("lost\n")
        out.flush()
        # Whatever else writes there does not fail either.
        stream.write("lost too\n")
        stream.flush()


def test_progress_that_nobody_reads_does_not_end_a_run() -> None:
    with abandoned(), training_progress(2) as progress:
        progress.update(step=1, loss=0.5, step_seconds=1.0)
        progress.say("a line")
        show_facts("Title", {"a": 1})


def test_what_somebody_reads_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    out = StandardError()
    out.write("heard\n")
    assert not out.isatty()
    assert capsys.readouterr().err == "heard\n"


def test_a_notebook_shows_progress_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich hands what is printed to the notebook, whatever file the console has."""
    shown: list[str] = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda _segments, text: shown.append(text))
    with training_progress(2) as progress:
        progress.update(step=1, loss=0.5, step_seconds=1.0)
        progress.say("a line")
    assert shown == ["step 1/2  loss 0.5000  1 s/step  0:00:01 left\n", "a line\n"]
    assert not capsys.readouterr().err
