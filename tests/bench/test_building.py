"""Rows about building: what is compared, and against what it is held."""

from __future__ import annotations

from functools import partial

import pytest

from kit.bench import building
from kit.bench.building import measure_in_subprocess
from kit.planning.settings import GridSize


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
    taken = measure_in_subprocess(bytearray, 64 * 2**20)
    assert len(taken.result) == 64 * 2**20
    # What comes back is copied on the way.
    assert taken.grown_bytes >= 64 * 2**20
