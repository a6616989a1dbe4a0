from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.data.sources.grib.scan import Message, scan
from kit.data.sources.grib.source import check_statistic, window_of
from kit.io.errors import StoreError
from tests.data.sources.grib_files import message, write


def rain(tmp_path: Path, *steps: str, **keys: Any) -> list[Message]:
    content = [message(param=228, edition=2, stepRange=step, **keys) for step in steps]
    return scan(write(tmp_path / "a.grib", *content))


def test_windows_are_stated(tmp_path: Path) -> None:
    assert list(map(window_of, rain(tmp_path, "0-1", "1-2", "11-12", "6-12", "0-9"))) == [1, 1, 1, 6, 9]


def test_an_old_header_means_since_the_start(tmp_path: Path) -> None:
    messages = scan(write(tmp_path / "a.grib", message(param=228, stepType="instant", stepRange="12")))
    assert (messages[0].step_type, messages[0].lead) == ("instant", 12)
    assert window_of(messages[0]) == 12


def test_statistics_are_no_states(tmp_path: Path) -> None:
    messages = scan(
        write(tmp_path / "a.grib", message(param=130, level=500, edition=2, stepType="avg", stepRange="0-6"))
    )
    with pytest.raises(StoreError, match=r"t is a state, but this is a statistic of the type 'avg' over 6 h"):
        check_statistic("t", messages, False)
