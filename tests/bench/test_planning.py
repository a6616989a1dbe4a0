"""Plans by command line, each made once."""

from __future__ import annotations

import pytest

from kit.bench import planning
from kit.bench.planning import BenchPlanner, read, size_of
from kit.io.errors import SettingsError
from kit.planning.plan import Plan, plan
from kit.planning.settings import GridSize, PlanSettings


@pytest.mark.slow
def test_a_plan_is_made_once_and_is_that_of_its_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PlanSettings] = []

    def count(settings: PlanSettings) -> Plan:
        made.append(settings)
        return plan(settings)

    monkeypatch.setattr(planning, "plan", count)
    planner = BenchPlanner(GridSize(16, 32))
    first = planner.plan("--memory.recompute blocks")
    assert planner.plan("--memory.recompute blocks") is first
    assert len(made) == 1
    assert first.settings.memory.recompute == "blocks"
    assert planner.command("--memory.recompute blocks") == "kit plan --memory.recompute blocks --grid 16x32"
    assert size_of(first) == first.trace.peak.bytes / 2**30
    assert planner.seconds(first, "A100 80GB") > 0
    assert planner.command("--grid 8x16") == "kit plan --grid 8x16"


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_MEMORY__RECOMPUTE", "blocks")
    assert read("--grid 16x32").memory.recompute == "none"


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"memory\.recompute"):
        read("--memory.recompte blocks")
