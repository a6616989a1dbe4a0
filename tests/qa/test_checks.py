from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.store import Store
from kit.errors import StoreError
from kit.qa.checks import CHECKS
from kit.qa.subject import Channel
from tests.qa.stores import (
    HOURS,
    Edit,
    attribute,
    damage,
    editable,
    examine,
    forget,
    of,
    remove,
    replace,
    report_of,
    rewrite,
    set_values,
    spoil,
    statistics,
    stuck,
)  # fmt: skip
from tests.qa.test_meaning import FURTHER

CHANGING = ("10u", "10v", "2t", "msl", "q", "swh", "t", "tp", "u", "v", "z")
"""Variables of the sound store that have times."""

FIRES = (
    ("format", attribute("kit_store", 2), None, "error", r"kit_store is 2, 1 expected"),
    ("layout", remove("longitude"), "longitude", "error", r"no such coordinate"),
    ("layout", rewrite("x", np.zeros((2, 2)), ("a", "b")), "x", "error", r"dimensions are \('a', 'b'\)"),
    ("layout", rewrite("number", 0, ()), "number", "warning", r"dimensions are \(\)"),
    ("layout", rewrite("lsm", np.zeros((16, 32)), ("latitude", "longitude")), "lsm", "error", r"are named static_"),
    ("layout", rewrite("latitude", np.arange(15.0), ("latitude",)), "2t", "error", r"shape is \(12, 16, 32\), .*15"),
    ("layout", rewrite("2t", np.zeros((12, 16, 32), bool), ("time", "latitude", "longitude")), "2t", "error", "bool"),
    ("layout", rewrite("time", HOURS // 3600, ("time",), units="hours since 1970-01-01"), "time", "error", r"'hours"),
    ("layout", remove("level"), "u", "error", r"no usable coordinate level"),
    ("readable", damage, "2t", "error", r"state 3 of 12 cannot be read"),
    ("variables", remove("2t", "10u", "10v", "msl", "tp", "swh"), None, "error", r"no surface variable"),
    ("variables", remove("u", "v", "q", "z", "t"), None, "error", r"no atmospheric variable"),
    ("variables", remove("static_lsm", "static_slt", "static_z"), None, "error", r"no static variable"),
    (
        "known-variables",
        rewrite("mystery", np.zeros((12, 16, 32)), ("time", "latitude", "longitude")),
        "mystery",
        "info",
        r"range is not checked",
    ),
    ("statistics", forget, None, "error", r"has no statistics"),
    ("statistics", spoil, None, "error", r"not the statistics"),
    ("statistics", statistics(lambda v: v.pop("2t")), "2t", "error", r"stats.json lacks 2t"),
    ("statistics", statistics(lambda v: v.pop("u_500")), "u", "error", r"stats.json lacks u_500$"),
    ("statistics", statistics(lambda v: v["2t"].update(std=0)), "2t", "error", r"2t has mean .*, scale 0"),
    ("statistics", statistics(lambda v: v["q_850"].update(mean=None)), "q", "error", r"q_850 has mean nan"),
    (
        "statistics",
        statistics(lambda v: v["static_lsm"].update(std=0)),
        "static_lsm",
        "warning",
        r"static_lsm has mean .*, scale 0",
    ),
    ("latitude", replace("latitude", np.flip), "latitude", "error", r"not strictly decreasing at 15 of 15 steps: -84"),
    ("latitude", set_values("latitude", 0, 95.0), "latitude", "error", r"1 of 16 values outside \[-90, 90\], first 95"),
    ("latitude", set_values("latitude", 3, np.nan), "latitude", "error", r"not strictly decreasing at 2 of 15"),
    ("longitude", replace("longitude", lambda v: v - 180), "longitude", "error", r"16 of 32 .*\[0, 360\), first -180"),
    ("longitude", set_values("longitude", 5, 0.0), "longitude", "error", r"at 1 of 31 steps: 45 is followed by 0"),
    ("level", replace("level", np.flip), "level", "error", r"not strictly increasing at 2 of 2 steps: 850"),
    (
        "level",
        replace("level", lambda v: v * 100),
        "level",
        "error",
        r"outside \(0, 1100\] hPa \(Pa for hPa: divide by 100\), first 10000",
    ),
    (
        "grid-spacing",
        set_values("latitude", 0, 89.0),
        "latitude",
        "warning",
        r"1 of 15 steps differ from 11.25 degrees",
    ),
    (
        "grid-spacing",
        replace("longitude", lambda v: np.where(v > 180, v, v / 10)),
        "longitude",
        "warning",
        r"differ from",
    ),
    (
        "time-order",
        set_values("time", 4, HOURS[3]),
        "time",
        "error",
        r"1 times occur more than once, first 2020-01-01T18:00",
    ),
    (
        "time-order",
        replace("time", lambda v: np.roll(v, 1)),
        "time",
        "error",
        r"unsorted at 1 places: 2020-01-03T18:00 is followed by 2020-01-01T00:00",
    ),
    (
        "time-gaps",
        replace("time", lambda v: v + 86400 * (np.arange(12) > 7)),
        "time",
        "warning",
        r"1 of 11 steps differ from the usual 6 h, first from 2020-01-02T18:00 to 2020-01-04T00:00",
    ),
    (
        "time-gaps",
        rewrite("time", HOURS[:1], ("time",), units="seconds since 1970-01-01"),
        "time",
        "error",
        "one state",
    ),
    (
        "nan",
        set_values("u", (slice(4, 6), 1, 2, slice(0, 3)), np.nan),
        "u",
        "error",
        r"6 of 18432 values NaN in 2 of 12 states on 1 of 3 levels, a block; first: 2020-01-02T00:00, 500 hPa, 61.8",
    ),
    (
        "nan",
        set_values("static_z", (15, 1), np.nan),
        "static_z",
        "error",
        r"1 of 512 values NaN, scattered; first: 84.375 S, 11.25 E$",
    ),
    (
        "nan",
        set_values("swh", (slice(None), 1, 1), np.nan),
        "swh",
        "info",
        r"12 of 6144 values NaN in 12 of 12 states, the same points in every state; first",
    ),
    (
        "nan",
        set_values("swh", 7, np.nan),
        "swh",
        "error",
        r"512 of 6144 values NaN in 1 of 12 states, whole fields; first: 2020-01-02T18",
    ),
    (
        "inf",
        set_values("2t", (0, 0, 31), -np.inf),
        "2t",
        "error",
        r"1 of 6144 values infinite in 1 of 12 states, scattered; first: 2020",
    ),
    ("range", replace("2t", lambda v: v - 273.15), "2t", "error", r"6144 of .*outside \[150, 350\] K \(values span"),
    ("range", set_values("tp", (0, 0, 0), 2.0), "tp", "error", r"1 of .*outside \[0, 1\] m \(values span 0 to 2\)"),
    ("range", set_values("static_lsm", (0, 0), 100), "static_lsm", "error", r"1 of 512 values outside \[0, 1\] 1"),
    (
        "constant-in-space",
        replace("10u", np.zeros_like),
        "10u",
        "error",
        r"one value \(0\) everywhere in all 12 states",
    ),
    ("constant-in-space", replace("tp", np.zeros_like), "tp", "error", r"one value \(0\) everywhere in all 12 states"),
    ("constant-in-space", set_values("q", (slice(None), 0), 1e-6), "q", "error", r"in all 12 states at 100 hPa"),
    ("constant-in-space", set_values("static_slt", ..., 0), "static_slt", "warning", r"one value \(0\) everywhere$"),
    (
        "constant-in-space",
        set_values("2t", 5, 280.0),
        "2t",
        "warning",
        r"1 of 12 fields with one .*; first: 2020-01-02T06:00$",
    ),
    ("constant-in-time", replace("2t", lambda v: v[:1] + 0 * v), "2t", "error", r"the same in all 12 states$"),
    (
        "constant-in-time",
        replace("u", lambda v: np.concatenate([v[:, :2], v[:1, 2:] + 0 * v[:, 2:]], axis=1)),
        "u",
        "error",
        r"the same in all 12 states at 850 hPa$",
    ),
    (
        "constant-in-time",
        stuck("10u", 4),
        "10u",
        "warning",
        r"1 of 12 fields equal to the one before .*: 2020-01-02T00",
    ),
)


@pytest.mark.parametrize(
    ("name", "edit", "variable", "severity", "detail"), FIRES, ids=[f"{i}-{case[0]}" for i, case in enumerate(FIRES)]
)
def test_fires(path: Path, name: str, edit: Edit, variable: str | None, severity: str, detail: str) -> None:
    report = examine(path, edit)
    failed = [check for check in of(report, name) if check.status == "failed" and check.variable == variable]
    found = [check for check in failed if re.search(detail, check.detail)]
    assert len(found) == 1, failed
    assert found[0].severity == severity
    assert found[0].remedy
    assert severity != "error" or not report.passed


SILENT = (
    ("layout", rewrite("level", [1.0, 2.0, 3.0], ("level",))),
    ("variables", remove("2t", "q", "static_z")),
    ("statistics", statistics(lambda v: v.update(more=v["2t"]))),
    ("grid-spacing", set_values("latitude", 0, 84.5)),
    ("time-gaps", replace("time", lambda v: v // 6)),
    ("range", set_values("tp", (0, 0, 0), -1e-7)),
    ("constant-in-space", set_values("tp", 5, 0.0)),
    ("constant-in-time", set_values("tp", slice(5, 8), 0.0)),
    ("constant-in-time", set_values("swh", (slice(None), 3, 3), np.nan)),
)
"""What looks like a fault and is none: coarse rounding, dry hours, packing noise, land."""


@pytest.mark.parametrize(("name", "edit"), SILENT, ids=[f"{i}-{case[0]}" for i, case in enumerate(SILENT)])
def test_stays_silent(path: Path, name: str, edit: Edit) -> None:
    (check,) = of(examine(path, edit), name)
    assert check.status == "passed", check


def test_a_sound_store_passes_every_check(path: Path) -> None:
    report = report_of(path)
    assert report.passed
    assert [check.name for check in report.checks] == list(CHECKS)
    # Three levels of Aurora's thirteen: for the record.
    (told,) = (check for check in report.checks if check.status != "passed")
    assert (told.name, told.severity, told.variable) == ("missing-levels", "info", "level")
    result = report.as_dict()
    assert {key: result[key] for key in ("store", "passed", "accepted")} == {
        "store": str(path), "passed": True, "accepted": [],
    }  # fmt: skip
    assert result["checks"][0] == {
        "name": "format",
        "status": "passed",
        "severity": "error",
        "variable": None,
        "detail": "a store of format 1",
        "remedy": "",
        "evidence": {},
        "accepted": False,
    }


def test_every_check_fires_somewhere() -> None:
    assert {case[0] for case in (*FIRES, *FURTHER)} == set(CHECKS)


@pytest.mark.parametrize(
    "edit",
    (
        replace("latitude", np.flip),
        replace("longitude", lambda v: v - 180),
        replace("time", np.flip),
        attribute("kit_store", None),
        forget,
        remove("time"),
    ),
)
def test_a_store_that_training_refuses_is_reported(path: Path, edit: Edit) -> None:
    report = examine(path, edit)
    assert not report.passed
    with pytest.raises(StoreError):
        Store.open(path)


def test_checks_without_their_coordinate_are_skipped(path: Path) -> None:
    report = examine(path, remove("time"))
    skipped = {check.name: check.detail for check in report.checks if check.status == "skipped"}
    assert skipped == dict.fromkeys(("time-step", "time-order", "time-gaps", "splits"), "no usable coordinate time")
    assert [check.variable for check in of(report, "layout")] == ["time", *CHANGING]


def test_warnings_alone_do_not_fail(path: Path) -> None:
    report = examine(path, set_values("latitude", 0, 89.0))
    assert report.passed
    assert [check.variable for check in report.failed("warning")] == ["latitude"]


def test_all_faults_are_reported_at_once(path: Path) -> None:
    set_values("2t", (3, 0, 0), np.nan)(editable(path), path)
    report = examine(path, replace("latitude", np.flip))
    assert {check.name for check in report.failed("error")} == {"nan", "latitude"}


@pytest.mark.usefixtures("each_reads")
def test_states_are_read_one_by_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    whole = Channel.read

    def spy(self: Channel, time: int) -> Any:
        read.append((self.name, time))
        field = whole(self, time)
        assert field.shape == (3 if self.kind == "atmospheric" else 1, 16, 32)
        return field

    monkeypatch.setattr(Channel, "read", spy)
    report_of(path)
    expected = [(name, time) for name in CHANGING for time in range(12)]
    assert sorted(read) == sorted(expected + [(f"static_{name}", 0) for name in ("lsm", "slt", "z")])


@pytest.mark.parametrize("content", (None, "a file", {}, {"zarr.json": "{"}, {"zarr.json": '{"zarr_format": 2}'}))
def test_what_is_no_store_is_an_error(tmp_path: Path, content: str | dict[str, str] | None) -> None:
    path = tmp_path / "store"
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        path.mkdir()
        for name, text in content.items():
            (path / name).write_text(text)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        report_of(path)


def test_neither_torch_nor_xarray_is_imported() -> None:
    code = "import sys, kit.qa.checks; assert not {'torch', 'xarray', 'aurora'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
