"""Suite ``fit`` over a planner that is not run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kit.bench import fitting
from kit.bench.fitting import words_for
from kit.bench.settings import BenchSettings
from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.planning.settings import GridSize, PlanSettings


def test_settings_are_told_as_on_the_command_line() -> None:
    memory = MemorySettings(recompute="blocks", offload=("inputs", "optimizer"), latitude_bands=8, compile=True)
    told = "--memory.latitude_bands 8 --memory.recompute blocks --memory.offload inputs,optimizer --memory.compile"
    assert words_for(memory) == told
    assert not words_for(MemorySettings(fit="8GiB"))


def test_each_limit_is_a_row_and_a_refusal_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(settings: PlanSettings, workload: object, estimator: object) -> Any:
        assert settings.memory.fit is not None
        limit = float(settings.memory.fit.removesuffix("GiB"))
        if limit < 12:
            msg = "nothing fits"
            raise SettingsError(msg)
        cost = SimpleNamespace(seconds=lambda card: 2.0)
        trace = SimpleNamespace(peak=SimpleNamespace(bytes=int((limit - 2) * 2**30)), host_bytes=2**30, cost=cost)
        return SimpleNamespace(memory=MemorySettings(recompute="blocks"), trace=trace)

    monkeypatch.setattr(fitting, "fit", fake)
    rows = {
        row.name: row.as_dict("fit", "m") for row in fitting.run(BenchSettings(variant="tiny", grid=GridSize(16, 32)))
    }
    assert list(rows)[:3] == ["full, 8 GiB", "full, 12 GiB", "full, 16 GiB"]
    assert len(rows) == 12
    assert rows["full, 8 GiB"]["value"] is None
    assert rows["full, 8 GiB"]["refused"] == "nothing fits"
    row = rows["lora, 24 GiB"]
    # A peak of 22 and 1 in reserve.
    assert (row["value"], row["must"], row["verdict"]) == (23, 24, "must")
    assert row["chosen"] == "--memory.recompute blocks"
    assert row["command"] == "kit plan --model.variant tiny --adapt.method lora --memory.fit 24GiB --grid 16x32"
