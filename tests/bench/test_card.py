"""The suite of a card, on a CPU: plans beside what is counted, forecasts of several members, no calibration."""

from typing import Any

import pytest

from kit.bench import card
from kit.bench.planning import read
from kit.bench.report import page
from kit.bench.settings import BenchSettings


def test_settings_of_steps_are_settings() -> None:
    assert len(card.STEPS) == 12
    for variant, words in card.STEPS:
        assert read(f"--model.variant {variant} {words} --grid 721x1440").model.variant == variant


def test_what_is_planned_is_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "STEPS", (card.STEPS[1], card.STEPS[-1]))
    settings = BenchSettings.model_validate({"device": "cpu", "variant": "tiny", "grid": "32x64", "repeats": 1})
    rows = card.run(settings)
    planned = [row for row in rows if "planned_gib" in row.more]
    # No more bands than the grid has rows of patches.
    assert [row.name for row in planned] == [
        "tiny --memory.latitude_bands 8",
        "tiny --forecast --memory.latitude_bands 8 --memory.window_bands 6",
    ]
    for row in planned:
        assert row.more["peak_ratio"] == pytest.approx(1, abs=0.05)
        assert row.baseline is None
    beside = next(row for row in rows if "beside upstream" in row.name)
    assert beside.ratio is not None
    members = {row.name: row.value for row in rows if "in a pass" in row.name}
    assert set(members) == {"tiny forecast, 1 in a pass", "tiny forecast, 4 in a pass"}
    assert rows[-1].more == {"left_out": "measured on a CPU"}
    machine = {"name": "a machine"}
    suite: dict[str, Any] = {"command": "kit bench card", "date": "2026-01-01", "machine": machine}
    suite["rows"] = [row.as_dict("card", "a machine") for row in rows]
    assert "| calibration | - of its time |" in page({"card": suite})
