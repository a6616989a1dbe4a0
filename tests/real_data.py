"""Where real ERA5 files lie, if they are here at all; they are never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["real_data"]


def real_data(name: str) -> Path:
    """Path of a folder of real data, from ``KIT_TEST_DATA`` or beside the repository; skips without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KIT_TEST_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set KIT_TEST_DATA")
    return folder
