"""The table of targets: its command lines are accepted, its numbers are put beside each other rightly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from kit.bench import planning as targets
from kit.bench.planning import FULL_BELOW_LORA, TARGETS, BenchTarget, read
from kit.bench.workload import on_rows
from kit.memory.checks import check_training_memory


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_targets_settings_are_settings_that_run(target: BenchTarget) -> None:
    settings = read(f"--model.variant {target.variant} {target.words} --grid 721x1440")
    assert settings.forecast == target.is_forecast
    assert target.aim < target.must
    if not target.is_forecast:
        check_training_memory(settings.memory, settings.adapt.method, torch.device("cuda"), autocast=True)
    assert (target.host is not None) == bool(settings.memory.offload)


def test_a_crop_has_no_more_bands_than_rows() -> None:
    settings = read("--memory.latitude_bands 36 --memory.recompute blocks")
    assert on_rows(settings, 24).memory.latitude_bands == 24
    assert on_rows(settings, 24).memory.recompute == "blocks"
    assert on_rows(settings, 45) == settings


def test_what_is_called_lora_is_lora() -> None:
    methods = {target.name: read(target.words).adapt.method for target in TARGETS}
    assert all(("QLoRA" in name) == (method == "qlora") for name, method in methods.items())
    assert all(name.startswith("LoRA") == (method == "lora") for name, method in methods.items())


class FakePlanner:
    """Peaks in GiB, and a second for each GiB."""

    peaks: ClassVar = {"recompute upstream": 64.0, "precision fp32": 90.0, "method lora": 8.0, "blocks": 12.0}

    def command(self, words: str) -> str:
        return f"kit plan {words}"

    def plan(self, words: str) -> Any:
        if "--forecast" in words:
            gib = 9.0 if "bands" in words else 30.0
        else:
            gib = next(gib for part, gib in self.peaks.items() if part in words)
        peak = SimpleNamespace(bytes=int(gib * 2**30), where="backbone", phase="backward")
        inexact = ("rounds",) if "qlora" in words or "8bit" in words else ()
        return SimpleNamespace(trace=SimpleNamespace(peak=peak, host_bytes=2**31), inexact=inexact, gib=gib)

    def seconds(self, made: Any, card: str) -> float:
        return float(made.gib)


def rows(*, has_targets: bool = True) -> dict[str, dict[str, Any]]:
    planner: Any = FakePlanner()
    plans = {target.name: targets._plans(planner, target) for target in TARGETS}
    times = {"LoRA, 1.26 B": 0.9}
    made = targets.rows_of(plans, times, planner, "A100 80GB", has_targets=has_targets)
    return {row.name: row.as_dict("plan", "m") for row in made}


def test_a_row_stands_beside_upstreams_recipe_and_the_plain_way() -> None:
    row = rows()["LoRA, 1.26 B"]
    assert (row["value"], row["baseline"], row["ratio"], row["plain_gib"], row["host_gib"]) == (8, 64, 0.125, 90, 2)
    assert (row["must"], row["aim"], row["verdict"], row["host_must"]) == (12, 9, "aim", 24)
    assert (row["time_ratio"], row["time_ratio_estimate"]) == (0.9, 0.125)
    assert row["exact"]
    assert row["command"].startswith("kit plan --model.variant pretrained --adapt.method lora")


def test_what_was_not_measured_is_left_open_and_what_rounds_says_so() -> None:
    row = rows()["full, 1.26 B, nothing offloaded"]
    assert row["time_ratio"] is None
    assert not row["exact"]
    assert row["inexact"] == ["rounds"]


def test_a_forecast_is_compared_with_upstreams_forecast() -> None:
    row = rows()["forecast, 1.26 B"]
    assert (row["value"], row["baseline"], row["reported_gib"]) == (9, 30, 37.3)


def test_lora_is_compared_with_full_fine_tuning_as_published_and_as_plainly_written() -> None:
    published, plain = (rows()[f"{FULL_BELOW_LORA} {how}"] for how in ("as published", "as plainly written"))
    # 8 of 64.6 GiB and 8 of 90 GiB.
    assert published["value"] == pytest.approx(0.1238, abs=1e-4)
    assert published["percent_below"] == pytest.approx(87.62, abs=0.01)
    assert plain["percent_below"] == pytest.approx(91.11, abs=0.01)
    assert published["verdict"] == plain["verdict"] == "must"


def test_on_another_grid_there_are_no_targets() -> None:
    assert not any("must" in row or "host_must" in row for row in rows(has_targets=False).values())
