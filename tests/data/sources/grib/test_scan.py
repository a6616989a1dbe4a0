from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.sources.grib.scan import is_grib, scan
from kit.io.errors import StoreError
from tests.data.sources.grib_files import eccodes, field, message, write

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


def changed(content: bytes, at: int, *octets: int) -> bytes:
    """A message with octets of its headers replaced."""
    return content[:at] + bytes(octets) + content[at + len(octets) :]


# Octets of the first section of GRIB 1, and of the sections 1 and 4 of GRIB 2, in these samples.
OF_1, OF_2, STEP_OF_2 = 8, 16, 109


@pytest.mark.parametrize(
    ("content", "part"),
    (
        (changed(FIRST, OF_1 + 12, 255), "year"),
        (changed(FIRST, OF_1 + 13, 255), "month"),
        (changed(FIRST, OF_1 + 14, 0), "day"),
        (changed(FIRST, OF_1 + 15, 255), "hour"),
        (changed(SECOND, OF_2 + 12, 255, 255), "year"),
        (changed(SECOND, OF_2 + 12, 0, 0), "year"),
        (changed(SECOND, OF_2 + 14, 0), "month"),
        (changed(SECOND, OF_2 + 15, 255), "day"),
        (changed(SECOND, OF_2 + 17, 255), "minute"),
    ),
)
def test_a_date_without_a_part_is_refused_for_that(tmp_path: Path, content: bytes, part: str) -> None:
    message = refusal(write(tmp_path / "a.grib", content))
    assert f"message 1 states a date without a {part} (" in message
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("place", "value", "range_"),
    (
        ("month", 13, "1 to 12"), ("month", 99, "1 to 12"), ("day", 32, "1 to 31"), ("hour", 24, "0 to 23"),
        ("hour", 25, "0 to 23"), ("minute", 60, "0 to 59"), ("second", 75, "0 to 59"),
    ),
)  # fmt: skip
def test_a_part_of_a_date_that_no_calendar_has(tmp_path: Path, place: str, value: int, range_: str) -> None:
    position = ("month", "day", "hour", "minute", "second").index(place)
    contents = [changed(SECOND, OF_2 + 14 + position, value)]
    if place != "second":
        contents.append(changed(FIRST, OF_1 + 13 + position, value))
    for content in contents:
        message = refusal(write(tmp_path / "a.grib", content))
        assert f"message 1 states a date with the {place} {value}, where {range_} can be; the file is whole" in message
        assert f"grib_copy -w {place}:i!={value} a.grib NEW.grib" in message
        assert "damaged" not in message


def test_days_of_a_month(tmp_path: Path) -> None:
    for content in (changed(SECOND, OF_2 + 14, 2, 30), changed(FIRST, OF_1 + 13, 2, 30)):
        assert "the day 30, where 1 to 29 can be" in refusal(write(tmp_path / "a.grib", content))
    (leap,) = scan(write(tmp_path / "a.grib", changed(SECOND, OF_2 + 14, 2, 29)))
    assert str(leap.time) == "2020-02-29T06:00:00"


def test_seconds_count_where_they_are_stated(tmp_path: Path) -> None:
    (stated,) = scan(write(tmp_path / "a.grib", changed(SECOND, OF_2 + 16, 6, 30, 15)))
    (left_out,) = scan(write(tmp_path / "b.grib", changed(SECOND, OF_2 + 16, 6, 30, 255)))
    assert (str(stated.time), str(left_out.time)) == ("2020-01-01T06:30:15", "2020-01-01T06:30:00")


@pytest.mark.parametrize("edition", (1, 2))
def test_the_advice_leaves_out_what_cannot_be_read(tmp_path: Path, edition: int) -> None:
    """The tool compares numbers after ``:i``; as texts, a unit of months is "M" and not 3."""
    content = changed(FIRST, OF_1 + 17, 3, 6)
    if edition == 2:
        content = changed(SECOND, STEP_OF_2 + 17, 3, 0, 0, 0, 6)
    text = refusal(write(tmp_path / "a.grib", content))
    advice = re.search(r"-w (\w+):i!=(\d+) a.grib", text)
    assert advice is not None
    handle = eccodes.codes_new_from_message(content)
    assert eccodes.codes_get_long(handle, advice[1]) == int(advice[2])
    assert eccodes.codes_get_string(handle, advice[1]) != advice[2]
    eccodes.codes_release(handle)


@pytest.mark.parametrize("edition", (1, 2))
@pytest.mark.parametrize("keys", ({"bitsPerValue": 8}, {"bitsPerValue": 12, "decimalScaleFactor": 2}))
def test_the_step_of_packed_values(tmp_path: Path, edition: int, keys: dict[str, Any]) -> None:
    values = np.random.default_rng(0).uniform(250, 300, (3, 4))
    content = message(values, edition=edition, **keys)
    (found,) = scan(write(tmp_path / "a.grib", content))
    handle = eccodes.codes_new_from_message(content)
    packed = eccodes.codes_get_values(handle) - eccodes.codes_get_double(handle, "minimum")
    eccodes.codes_release(handle)
    counts = packed / found.packing_step
    np.testing.assert_allclose(counts, counts.round(), atol=1e-6)
    assert np.gcd.reduce(counts.round().astype(int)) == 1


@pytest.mark.parametrize(
    ("unit", "expected"), ((0, 0.1), (1, 6), (2, 144), (10, 18), (11, 36), (12, 72), (13, 1.5), (14, 3), (254, 1 / 600))
)
def test_every_unit_of_steps_of_grib_1(tmp_path: Path, unit: int, expected: float) -> None:
    (found,) = scan(write(tmp_path / "a.grib", changed(FIRST, OF_1 + 17, unit, 6)))
    assert found.lead == pytest.approx(expected)
    assert found.time == np.datetime64("2020-01-01", "s") + round(3600 * expected)


@pytest.mark.parametrize(
    ("unit", "expected"), ((0, 0.1), (1, 6), (2, 144), (10, 18), (11, 36), (12, 72), (13, 1 / 600))
)
def test_every_unit_of_steps_of_grib_2(tmp_path: Path, unit: int, expected: float) -> None:
    (found,) = scan(write(tmp_path / "a.grib", changed(SECOND, STEP_OF_2 + 17, unit, 0, 0, 0, 6)))
    assert found.lead == pytest.approx(expected)
    assert found.time == np.datetime64("2020-01-01T06", "s") + round(3600 * expected)


@pytest.mark.parametrize(("unit", "name"), ((3, "months"), (4, "years"), (7, "centuries"), (9, "table names (9)")))
def test_units_without_a_length_are_refused(tmp_path: Path, unit: int, name: str) -> None:
    for content in (changed(FIRST, OF_1 + 17, unit, 6), changed(SECOND, STEP_OF_2 + 17, unit, 0, 0, 0, 6)):
        message = refusal(write(tmp_path / "a.grib", content))
        assert name in message
        assert "damaged" not in message


def test_steps_before_the_reference_time_are_no_damage(tmp_path: Path) -> None:
    # The sign of a number in GRIB is its first bit.
    message = refusal(write(tmp_path / "a.grib", changed(SECOND, STEP_OF_2 + 18, 0x80, 0, 0, 6)))
    assert "message 1 states the forecast step -6 h, which is before its reference time; the file is whole" in message
    assert "grib_copy -w forecastTime:i!=-6 a.grib NEW.grib" in message


def test_what_the_reference_time_means(tmp_path: Path) -> None:
    six_hours = changed(SECOND, STEP_OF_2 + 18, 0, 0, 0, 6)
    (found,) = scan(write(tmp_path / "a.grib", changed(six_hours, OF_2 + 11, 2)))
    # A verifying time is the valid time itself.
    assert (str(found.time), found.lead) == ("2020-01-01T06:00:00", 6)
    assert "after an observation" in refusal(write(tmp_path / "b.grib", changed(six_hours, OF_2 + 11, 3)))
    assert "local time" in refusal(write(tmp_path / "c.grib", changed(SECOND, OF_2 + 11, 4)))


def test_climatologies_are_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a.grib", changed(FIRST, OF_1 + 20, 51)))
    assert "is a climatological mean (time range indicator 51), no state" in message


@pytest.mark.parametrize("octet", (0, 2))
@pytest.mark.parametrize("scale", (0x7FFF, 0xFFFF))
def test_scales_of_packing_that_no_number_holds(tmp_path: Path, octet: int, scale: int) -> None:
    # Section 5 of GRIB 2: the binary scale in octets 16 and 17, the decimal one in the next two.
    at = 16
    while SECOND[at + 4] != 5:
        at += int.from_bytes(SECOND[at : at + 4])
    content = changed(SECOND, at + 15 + octet, *scale.to_bytes(2))
    (found,) = scan(write(tmp_path / "a.grib", content))
    assert not 0 < found.packing_step < np.inf
