"""Shorthand for starting runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kit.tracking.tracker import Tracker

StartRun = Callable[..., Tracker]


@pytest.fixture
def start(run_dir: Path) -> StartRun:
    """``Tracker.start`` on the store of ``run_dir``, with defaults for what a test does not care about."""

    def start_run(**changes: object) -> Tracker:
        arguments: dict[str, object] = {
            "uri": None, "run_dir": run_dir, "experiment": "demo", "run_name": "first", "params": {}, "tags": {},
        }  # fmt: skip
        return Tracker.start(**{**arguments, **changes})  # type: ignore[arg-type]

    return start_run
