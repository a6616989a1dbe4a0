from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kit.data.sources.grib.scan import Message, scan
from kit.data.sources.grib.windows import states_of, window_of
from kit.data.store.build import build_store
from kit.io.errors import StoreError
from tests.data.sources.grib_files import field, message, write


def rain(tmp_path: Path, *steps: str, **keys: Any) -> list[Message]:
    content = [message(param=228, edition=2, stepRange=step, **keys) for step in steps]
    return scan(write(tmp_path / "a.grib", *content))


def test_windows_are_stated(tmp_path: Path) -> None:
    assert list(map(window_of, rain(tmp_path, "0-1", "1-2", "11-12", "6-12", "0-9"))) == [1, 1, 1, 6, 9]


def test_an_old_header_means_since_the_start(tmp_path: Path) -> None:
    messages = scan(write(tmp_path / "a.grib", message(param=228, stepType="instant", stepRange="12")))
    assert (messages[0].step_type, messages[0].lead) == ("instant", 12)
    assert window_of(messages[0]) == 12


@pytest.mark.parametrize(
    ("step_type", "words"),
    (
        ("max", "a maximum"), ("min", "a minimum"), ("accum", "a sum"), ("rms", "a root mean square"),
        ("sd", "a standard deviation"), ("diff", "a difference"), ("cov", "a covariance"), ("ratio", "a ratio"),
    ),
)  # fmt: skip
def test_statistics_are_no_states(tmp_path: Path, step_type: str, words: str) -> None:
    keys: dict[str, Any] = {"param": 130, "level": 500, "edition": 2, "stepType": step_type, "stepRange": "0-6"}
    messages = scan(write(tmp_path / "a.grib", message(**keys)))
    text = re.escape(f"t is a state, but this is {words} over 6 h; leave it out with --leave_out t")
    with pytest.raises(StoreError, match=text):
        states_of("t", messages, False, print)


def test_sums_of_several_analyses_are_named(tmp_path: Path) -> None:
    # Time range 123 of GRIB 1: an average of analyses, as in monthly means.
    messages = scan(write(tmp_path / "a.grib", message(timeRangeIndicator=123)))
    with pytest.raises(StoreError, match="this is a mean of several analyses or forecasts; leave"):
        states_of("2t", messages, False, print)


def test_moments_stand_before_statistics_of_the_same_name(tmp_path: Path) -> None:
    """As GFS gives cloud cover: of the moment, and as a mean since the last window began."""
    mean = message(field(50), param=228164, edition=2, stepType="avg", stepRange="0-6")
    instant = message(param=228164, edition=2, stepRange="6")
    notes: list[str] = []
    states = states_of("tcc", scan(write(tmp_path / "a.grib", mean, instant)), False, notes.append)
    assert [state.step_type for state in states] == ["instant"]
    assert notes == ["tcc: 1 of 2 fields left out, which are statistics such as a mean over 6 h"]


def test_means_are_labelled_with_their_hours(tmp_path: Path) -> None:
    # In GRIB 2 means have parameter numbers of their own.
    keys: dict[str, Any] = {"param": 130, "level": 500, "stepType": "avg"}
    content = [message(field(day), time=f"2020-01-0{day}T00", **keys, stepRange="0-24") for day in (1, 2)]
    store = build_store(
        source="grib", path=write(tmp_path / "a.grib", *content), out=tmp_path / "store", lead=(24.0, 24.0),
        statics=("coslat",), train="2020/2020",
    )  # fmt: skip
    assert store.variable_attributes("t")["averaging_hours"] == 24
    assert store.times.astype("datetime64[h]").astype(str).tolist() == ["2020-01-02T00", "2020-01-03T00"]
    uneven = message(time="2020-01-03T00", **keys, stepRange="0-12")
    messages = scan(write(tmp_path / "b.grib", *content, uneven))
    with pytest.raises(StoreError, match="t is a state, but this is a mean over 24 h"):
        states_of("t", messages, False, print)
