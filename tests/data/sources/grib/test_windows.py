from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.sources.base import Request
from kit.data.sources.grib.scan import Message, scan
from kit.data.sources.grib.source import open_source
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


def forecast(start: int, first: int, last: int, value: float) -> bytes:
    """Rain of a forecast that begins at an hour of the first of January, over some of its hours."""
    keys: dict[str, Any] = {"edition": 2, "stepType": "accum", "stepRange": f"{first}-{last}", "bitsPerValue": 24}
    return message(np.full((3, 4), value), param=228, time=f"2020-01-01T{start:02d}", **keys)


def rain_of(folder: Path, *content: bytes, **asked: Any) -> tuple[dict[int, float], tuple[str, ...], float]:
    """Read rain by valid hour, what is said of it, and its window."""
    with open_source([write(folder / "a.grib", *content)], Request(**asked)) as source:
        field = source.fields["tp"].load()
    hours = (field["time"].values - np.datetime64("2020-01-01", "s")) // np.timedelta64(3600, "s")
    values = dict(zip(hours.tolist(), field.values[:, 0, 0].tolist(), strict=True))
    return values, source.notes, float(field.attrs["accumulation_hours"])


def test_where_forecasts_overlap_the_shortest_lead_is_taken(tmp_path: Path) -> None:
    # Each forecast rains differently: ten times its start, and one for each hour of lead.
    content = [forecast(start, lead - 1, lead, 10 * start + lead) for start in (6, 0, 3) for lead in range(12, 0, -1)]
    values, notes, window = rain_of(tmp_path, *content)
    expected = {hour: 10 * start + hour - start for start in (0, 3, 6) for hour in range(start + 1, start + 13)}
    assert values == pytest.approx(expected, rel=1e-6)
    assert window == 1
    assert "tp: where forecasts overlap, the one of the shortest lead was taken" in notes


def test_totals_since_the_start_where_forecasts_overlap(tmp_path: Path) -> None:
    # The first forecast rains 1, 2, 3, ... in its hours, the second 10 in each.
    content = [forecast(0, 0, lead, lead * (lead + 1) / 2) for lead in range(1, 13)]
    content += [forecast(6, 0, lead, 10 * lead) for lead in range(1, 13)]
    values, notes, window = rain_of(tmp_path, *content)
    expected = {hour: hour for hour in range(1, 7)} | dict.fromkeys(range(7, 19), 10)
    assert values == pytest.approx(expected, rel=1e-5)
    assert window == 1
    assert "tp: running totals made differences, exactly those of the hours between them" in notes
    # Over six hours, those of the forecast that begins with them.
    values, _, window = rain_of(tmp_path, *content, step=6)
    assert values == pytest.approx({6: 21, 12: 60, 18: 60}, rel=1e-6)
    assert window == 6


def test_windows_and_totals_of_gfs_side_by_side(tmp_path: Path) -> None:
    """GFS gives rain twice: since the last multiple of six hours, and since the start."""
    hourly = np.arange(1.0, 13)
    content = []
    for lead in (3, 6, 9, 12):
        begin = (lead - 1) // 6 * 6
        content.append(forecast(0, begin, lead, hourly[begin:lead].sum()))
        if begin:
            content.append(forecast(0, 0, lead, hourly[:lead].sum()))
    values, _, window = rain_of(tmp_path, *content)
    assert values == pytest.approx({3: 6, 6: 15, 9: 24, 12: 33}, rel=1e-6)
    assert window == 3
    values, _, window = rain_of(tmp_path, *content, step=6)
    assert values == pytest.approx({6: 21, 12: 57}, rel=1e-6)
    assert window == 6


def test_leads_that_are_chosen(tmp_path: Path) -> None:
    content = [forecast(start, lead - 1, lead, 10 * start + lead) for start in (0, 3) for lead in range(1, 7)]
    values, _, _ = rain_of(tmp_path, *content, leads=(4.0, 6.0))
    assert values == pytest.approx({4: 4, 5: 5, 6: 6, 7: 34, 8: 35, 9: 36}, rel=1e-6)
