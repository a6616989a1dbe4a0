from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.sources.grib.scan import is_grib, scan
from kit.io.errors import StoreError
from tests.data.sources.grib_files import field, message, write

FIRST, SECOND = message(field(1)), message(field(2), time="2020-01-01T06", edition=2)


def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        scan(path)
    return str(caught.value)


def test_headers(tmp_path: Path) -> None:
    first, second = scan(write(tmp_path / "a.grib", FIRST, SECOND))
    assert (first.number, first.offset, first.length) == (1, 0, len(FIRST))
    assert (second.number, second.offset, second.length) == (2, len(FIRST), len(SECOND))
    assert (first.param, first.short_name, first.units) == (167, "2t", "K")
    assert (first.lead, first.window, first.step_type) == (0, 0, "instant")
    assert str(second.time) == "2020-01-01T06:00:00"
    assert str(second) == "a.grib, message 2"


@pytest.mark.parametrize(
    ("sample", "level", "expected"),
    (("isobaricInhPa", 500, 500), ("isobaricInPa", 50, 0.5)),
)
def test_pressure_in_both_units(tmp_path: Path, sample: str, level: int, expected: float) -> None:
    (found,) = scan(write(tmp_path / "a.grib", message(param=130, level=level, typeOfLevel=sample, edition=2)))
    assert found.on_pressure
    assert found.level == expected


def test_forecasts_are_dated_by_the_time_they_are_valid_at(tmp_path: Path) -> None:
    (found,) = scan(write(tmp_path / "a.grib", message(time="2020-01-01T18", stepRange="5-6", param=228, edition=2)))
    assert str(found.time) == "2020-01-02T00:00:00"
    assert (found.lead, found.window, found.step_type) == (6, 1, "accum")


@pytest.mark.parametrize("content", (FIRST, SECOND))
@pytest.mark.parametrize("share", (0.99, 0.5, 0.2))
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, content: bytes, share: float) -> None:
    path = write(tmp_path / "a.grib", FIRST, content[: int(share * len(content))])
    assert f"{path}: message 2 cannot be read" in refusal(path)


@pytest.mark.parametrize("content", (FIRST, SECOND))
def test_bytes_lost_within_a_file_are_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "a.grib", content[:-40], FIRST)
    assert f"{path}: message 1 cannot be read" in refusal(path)


def test_a_message_that_lost_its_first_bytes_is_not_passed_over(tmp_path: Path) -> None:
    large = message(np.zeros((30, 40)) + np.arange(40), grid=(np.arange(30.0)[::-1], np.arange(40.0)))
    path = write(tmp_path / "a.grib", FIRST, b"GRIX" + large[4:], SECOND)
    assert f"{path}: {len(large)} bytes before message 2 are no message" in refusal(path)
    path = write(tmp_path / "b.grib", FIRST, b"GRIX" + large[4:])
    assert f"{path}: {len(large)} bytes before message 2 are no message" in refusal(path)


def test_headings_and_padding_between_messages_are_passed_over(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.grib", b"\x01\r\r\n001\r\r\nHTXA50 ECMF 010000\r\r\n", FIRST, bytes(1000), SECOND, bytes(9)
    )
    assert [found.number for found in scan(path)] == [1, 2]


def test_several_fields_in_one_message_are_not_lost(tmp_path: Path) -> None:
    # Sections 4 to 7 once more, and the length to match.
    at = 16
    while SECOND[at + 4] != 4:
        at += int.from_bytes(SECOND[at : at + 4])
    double = SECOND[:-4] + SECOND[at:-4] + SECOND[-4:]
    double = double[:8] + len(double).to_bytes(8) + double[16:]
    path = write(tmp_path / "a.grib", FIRST, double)
    assert "message 2 holds 2 fields; split them first with eccodes' `grib_copy a.grib NEW.grib`" in refusal(path)


@pytest.mark.parametrize("keys", ({"month": 13}, {"indicatorOfUnitOfTimeRange": 255}))
def test_impossible_times(tmp_path: Path, keys: dict[str, Any]) -> None:
    path = write(tmp_path / "a.grib", message(late=True, edition=2, **keys))
    assert f"{path}: message 1 cannot be read" in refusal(path)


def test_files_are_known_by_name_or_by_their_first_bytes(tmp_path: Path) -> None:
    for name in ("a.grib", "a.GRB2", "a", "a.dat"):
        assert is_grib(write(tmp_path / name, FIRST))
    assert is_grib(write(tmp_path / "b.grb", b"anything"))
    assert not is_grib(write(tmp_path / "b.json", b"{}"))


def test_the_library_leaves_sqlite_to_python() -> None:
    # In a process of its own: what is loaded first stays.
    script = """
import sqlite3; print(sqlite3.sqlite_version)
"""
    before = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    script = "from kit.data.sources.grib.scan import load_eccodes; load_eccodes()" + script
    after = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert after == before


def test_a_section_that_claims_more_than_the_message(tmp_path: Path) -> None:
    """Eccodes would read behind the message's end, and take the process with it."""
    content = bytearray(message())
    # GRIB 1: 8 bytes of section 0, 52 of section 1, then the length of section 2.
    assert int.from_bytes(content[60:63]) == 32
    content[60:63] = (10**6).to_bytes(3)
    path = tmp_path / "a.grib"
    path.write_bytes(content)
    assert f"message 1 cannot be read (section 2 ends at byte 1000060, the message at {len(content)})" in refusal(path)
