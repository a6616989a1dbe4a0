"""Members of a forward pass: the most for which the very step has room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.checkpoint.folder import open_checkpoint
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.initial_states import InitialStates
from kit.memory.settings import MemorySettings
from kit.planning.passes import largest_pass, members_that_fit, peak_of
from kit.planning.plan import plan
from kit.planning.settings import PlanSettings
from tests.checkpoints import store_for, write_whole


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InitialStates]:
    folder = tmp_path_factory.mktemp("passes")
    base = write_whole(folder / "base", store_for(folder / "store"))
    with InitialStates.opened(None, open_checkpoint(base)) as opened:
        yield opened


def settings(**changes: object) -> EnsembleSettings:
    raw = {"checkpoint": ("a",), "out": Path("e.zarr"), "perturb": "lagged", "members": 8, **changes}
    return EnsembleSettings.model_validate(raw)


@pytest.mark.slow
def test_as_many_members_are_taken_as_there_is_room_for(source: InitialStates) -> None:
    asked = settings()
    assert largest_pass(asked, source, peak_of(asked, source, 2), most=3) == 2


@pytest.mark.slow
def test_the_most_members_that_fit_are_taken(source: InitialStates) -> None:
    asked = settings()
    peaks = {members: peak_of(asked, source, members) for members in (1, 2, 3, 4)}
    assert peaks[1] < peaks[2] < peaks[3] < peaks[4]
    assert largest_pass(asked, source, peaks[3], most=8) == 3
    assert largest_pass(asked, source, peaks[3] - 1, most=8) == 2
    assert largest_pass(asked, source, peaks[4], most=2) == 2
    # Where one does not fit, the forecast itself says what would help.
    assert largest_pass(asked, source, peaks[1] - 1, most=8) == 1


@pytest.mark.slow
def test_settings_of_memory_count(source: InitialStates) -> None:
    asked = settings(memory=MemorySettings(latitude_bands=4, window_bands=2))
    assert peak_of(asked, source, 4) < peak_of(settings(), source, 4)


def test_a_cpu_takes_one(source: InitialStates) -> None:
    assert members_that_fit(settings(device="cpu"), source) == 1


@pytest.mark.slow
def test_the_largest_model_runs_at_a_quarter_degree_on_a_small_card() -> None:
    """1.26 billion parameters below 12 GiB, in bands and in fp32, the reserve included; members take turns."""
    asked: dict[str, Any] = {"model": {"variant": "pretrained"}, "grid": "721x1440", "forecast": True}
    planned = plan(PlanSettings.model_validate({**asked, "memory": {"fit": "12GiB"}}))
    assert planned.to_dict()["total_parameters"] > 1.25e9
    assert planned.needed_gib <= 12
    assert planned.settings.memory.frozen_weights == "fp32"
