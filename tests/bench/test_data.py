"""How pairs are read is measured, on a grid where that takes no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.bench import data
from kit.bench.data import made_up, raw_rows, waiting_rows
from kit.bench.results import BenchRow
from kit.bench.settings import BenchSettings
from kit.planning.settings import GridSize

GRID = GridSize(9, 16)


def test_the_grid_is_the_globes_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "year_rows", lambda grid: [BenchRow(str(grid), 1.0, "h")])
    monkeypatch.setattr(data, "made_up", lambda grid: grid)
    for name in ("length_rows", "raw_rows", "waiting_rows"):
        monkeypatch.setattr(data, name, lambda *_: [])
    assert [row.name for row in data.run(BenchSettings(suites=("data",)))] == ["721x1440"]
    assert [row.name for row in data.run(BenchSettings(suites=("data",), grid=GridSize(8, 16)))] == ["8x16"]


def test_states_beside_raw_reads(tmp_path: Path) -> None:
    rows = raw_rows(made_up(GRID), 1, "states, 9x16", tmp_path)
    assert not list(tmp_path.iterdir())
    assert [row.more["beside"] for row in rows] == ["Zarr", "numpy.memmap", "numpy.fromfile"] * 2
    assert [row.name for row in rows] == ["states, 9x16, codec fast"] * 3 + ["states, 9x16, codec none"] * 3
    assert all(row.value and row.baseline and row.value > 0 for row in rows)
    # 70 % of the speed is 1 / 0.7 of the time.
    assert rows[3].must == pytest.approx(rows[3].baseline / 0.7)  # type: ignore[operator]


def test_waiting_is_what_is_left_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "STEP", 0.02)
    rows = waiting_rows(GRID, tmp_path, workers=(0, 1))
    assert [row.name[-1] for row in rows] == ["0", "1"]
    assert all(row.value is not None and 0 <= row.value < 1 and row.must == 0.05 for row in rows)


def test_states_are_made_up_of_weather_and_not_alike() -> None:
    states = made_up(GRID, states=2, levels=(500, 850))
    assert states["t"].dims == ("time", "level", "latitude", "longitude")
    assert len({states["t"].values[time, level].tobytes() for time in range(2) for level in range(2)}) == 4
    assert 200 < float(states["t"].mean()) < 300
