from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.data.sources.grib.scan import Message, scan
from kit.data.sources.grib.source import check_steps, window_of
from kit.io.errors import StoreError
from tests.data.sources.grib_files import message, write


def rain(tmp_path: Path, *steps: str, **keys: Any) -> list[Message]:
    content = [message(param=228, edition=2, stepRange=step, **keys) for step in steps]
    return scan(write(tmp_path / "a.grib", *content))


def test_windows_are_stated(tmp_path: Path) -> None:
    messages = rain(tmp_path, "0-1", "1-2", "11-12")
    check_steps("tp", messages, True, pytest.fail)
    assert window_of("tp", messages) == 1
    assert window_of("tp", rain(tmp_path, "6-12")) == 6


def test_an_old_header_means_since_the_start(tmp_path: Path) -> None:
    messages = scan(write(tmp_path / "a.grib", message(param=228, stepType="instant", stepRange="12")))
    assert (messages[0].step_type, messages[0].lead) == ("instant", 12)
    assert window_of("tp", messages) == 12


@pytest.mark.parametrize(
    ("steps", "expected"),
    (
        (("0-3", "0-6", "0-9"), r"message 1 and a.grib, message 3: tp is accumulated over 3, 6, 9 h; .*differences"),
        (("0-0",), r"message 1: tp is an accumulation but its header states no window"),
        (("0m-30m",), r"message 1: tp is an accumulation over 0.5 h; whole hours are needed"),
    ),
)
def test_windows_that_cannot_be(tmp_path: Path, steps: tuple[str, ...], expected: str) -> None:
    with pytest.raises(StoreError, match=expected):
        window_of("tp", rain(tmp_path, *steps))


def test_short_forecasts_stand_for_analyses_and_long_ones_do_not(tmp_path: Path) -> None:
    def gusts(*steps: int) -> list[Message]:
        content = [message(param=228029, edition=2, stepRange=str(step)) for step in steps]
        return scan(write(tmp_path / "a.grib", *content))

    notes: list[str] = []
    check_steps("i10fg", gusts(1, 2, 12), False, notes.append)
    assert notes == ["i10fg comes from forecasts 1, 2, 12 h ahead; its times are those that it is valid at"]
    check_steps("i10fg", gusts(24), False, notes.append)
    with pytest.raises(StoreError, match=r"i10fg comes from 2 forecast steps, up to 24 h ahead"):
        check_steps("i10fg", gusts(12, 24), False, notes.append)


def test_statistics_are_no_states(tmp_path: Path) -> None:
    messages = scan(
        write(tmp_path / "a.grib", message(param=130, level=500, edition=2, stepType="avg", stepRange="0-6"))
    )
    with pytest.raises(StoreError, match=r"t is a state, but this is a statistic of the type 'avg' over 6 h"):
        check_steps("t", messages, False, pytest.fail)
