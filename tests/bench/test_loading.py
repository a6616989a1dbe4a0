"""How pairs are read is measured, on a grid where that takes no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.bench import loading
from kit.bench.loading import loading_rows, made_up, waiting_rows
from kit.planning.settings import GridSize

GRID = GridSize(9, 16)


def test_pairs_beside_files_and_states_beside_raw_reads(tmp_path: Path) -> None:
    rows = loading_rows(GRID, 1, tmp_path)
    assert not list(tmp_path.iterdir())
    beside_files, beside_raw = rows[:3], rows[3:]
    assert all(row.name == "a pair, 9x16, 4 states of 69 fields" for row in beside_files)
    assert [row.must is not None for row in beside_files] == [True, False, False]
    assert [row.more["beside"] for row in beside_raw] == ["Zarr", "numpy.memmap", "numpy.fromfile"] * 2
    assert [row.name.rpartition(" ")[2] for row in beside_raw] == ["fast"] * 3 + ["none"] * 3
    assert all(row.value and row.baseline and row.value > 0 for row in rows)
    # 70 % of the speed is 1 / 0.7 of the time.
    assert beside_raw[3].must == pytest.approx(beside_raw[3].baseline / 0.7)  # type: ignore[operator]


def test_waiting_is_what_is_left_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "STEP", 0.02)
    rows = waiting_rows(GRID, tmp_path, workers=(0, 1))
    assert [row.name[-1] for row in rows] == ["0", "1"]
    assert all(row.value is not None and 0 <= row.value < 1 and row.must == 0.05 for row in rows)


def test_states_are_made_up_of_weather_and_not_alike() -> None:
    states = made_up(GRID, states=2, levels=(500, 850))
    assert states["t"].dims == ("time", "level", "latitude", "longitude")
    assert len({states["t"].values[time, level].tobytes() for time in range(2) for level in range(2)}) == 4
    assert 200 < float(states["t"].mean()) < 300
