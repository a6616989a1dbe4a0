"""Rows about building: what is compared, and against what it is held."""

from __future__ import annotations

import importlib.util
from functools import partial

import pytest

from kit.bench import building, data
from kit.bench.results import Row
from kit.bench.settings import BenchSettings
from kit.bench.subprocess_measure import apart
from kit.io.errors import SettingsError
from kit.planning.settings import GridSize


def test_without_pygrib_the_suite_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pygrib, which is not installed; run `nox -s bench -- data`"):
        building.building_rows(GridSize(8, 16), 1)


def test_the_grid_is_the_globes_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "building_rows", lambda grid, repeats: [Row(str(grid), repeats, "s")])
    for name in ("length_rows", "year_rows", "loading_rows", "sample_rows", "waiting_rows"):
        monkeypatch.setattr(data, name, lambda *_: [])
    assert [row.name for row in data.run(BenchSettings(suites=("data",)))] == ["721x1440"]
    assert [row.name for row in data.run(BenchSettings(suites=("data",), grid=GridSize(8, 16)))] == ["8x16"]


def test_what_a_year_takes_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "write_year", partial(building.write_year, states=30))
    size, hours = building.year_rows(GridSize(13, 24))
    # 69 fields of 30 states in four bytes, and two static ones.
    assert size.baseline == pytest.approx((69 * 30 + 2) * 13 * 24 * 4 / 1e9)
    assert size.ratio is not None
    assert 0.2 < size.ratio < 1.2
    assert hours.value
    assert "foreseen from" in hours.more["note"]


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    taken = apart(bytearray, 64 * 2**20)
    assert len(taken.result) == 64 * 2**20
    # What comes back is copied on the way.
    assert taken.grown_bytes >= 64 * 2**20


@pytest.mark.slow
def test_both_ways_of_building(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygrib")
    (row,) = building.building_rows(GridSize(19, 36), 1)
    assert row.value
    assert row.baseline
    assert row.must == row.baseline / 2
    # Three of six states' pairs are twelve states, in float32.
    assert 1.9 < float(row.more["note"].split("pairs ")[1]) < 2.2
    assert 0 < row.more["disk_ratio"] < 1.2
