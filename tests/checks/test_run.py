from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.checks.run import CHECKS
from kit.checks.store_reader import Channel
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.checks.stores import (
    Edit,
    attribute,
    editable,
    examine,
    forget,
    of,
    remove,
    replace,
    report_of,
    set_values,
)  # fmt: skip

CHANGING = ("10u", "10v", "2t", "msl", "q", "swh", "t", "tp", "u", "v", "z")
"""Variables of the sound store that have times."""


def test_a_sound_store_passes_every_check(path: Path) -> None:
    report = report_of(path)
    assert report.passed
    assert [check.name for check in report.checks] == list(CHECKS)
    # Three levels of Aurora's thirteen: for the record.
    (told,) = (check for check in report.checks if check.status == "failed")
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


def test_checks_without_their_coordinate_do_not_apply(path: Path) -> None:
    report = examine(path, remove("time"))
    told = {check.name: check.detail for check in report.checks if check.status == "not-applicable"}
    reason = "no usable coordinate time"
    assert {name for name, detail in told.items() if detail == reason} == {
        "time-step",
        "time-order",
        "time-gaps",
        "splits",
    }
    assert told["hydrostatic"] == "the store lacks z, t"
    assert told["constant-in-time"] == "no variable with several states"
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
    code = "import sys, kit.checks.run; assert not {'torch', 'xarray', 'aurora'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
