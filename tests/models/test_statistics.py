"""Statistics belong to a checkpoint, not to the process."""

from __future__ import annotations

import pytest
import torch
from aurora import normalisation

from kit.io.errors import SettingsError
from kit.models.space import TrainingSpace
from kit.models.statistics import Statistics, level_key
from tests.batches import small_spec, synthetic_batch


def test_installed_values_reach_upstream_and_go_away_again() -> None:
    before = dict(normalisation.locations), dict(normalisation.scales)
    with Statistics({"2t": (1.0, 2.0), "tp": (0.0, 3.0)}).installed():
        # (5 - 1) / 2 and 6 / 3
        assert normalisation.normalise_surf_var(torch.tensor(5.0), "2t") == 2
        assert normalisation.normalise_surf_var(torch.tensor(6.0), "tp") == 2
    assert (normalisation.locations, normalisation.scales) == before


def test_values_go_away_after_a_failure_too() -> None:
    with pytest.raises(RuntimeError, match="inside"), Statistics({"new": (0.0, 1.0)}).installed():
        raise RuntimeError("inside")
    assert "new" not in normalisation.locations


@pytest.mark.parametrize("bad", ((0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))))
def test_a_scale_that_cannot_divide_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="statistics of tp: expected a finite location and a scale above zero"):
        Statistics({"tp": bad})


def test_published_values_stay_upstreams_while_others_are_installed() -> None:
    published = Statistics.published("2t")
    with Statistics({"2t": (1.0, 2.0)}).installed():
        assert Statistics.published("2t") == published
    assert Statistics.published("no-such-channel") is None


def test_level_keys_are_upstreams() -> None:
    assert level_key("u", 500.0) == "u_500"
    assert level_key("u", 0.5) == "u_0_5"


def test_two_models_with_different_statistics_work_in_one_process() -> None:
    """Interleaved forwards give what each model gives alone: statistics never leak from one into the other."""
    torch.manual_seed(0)
    spec = small_spec("small")
    other = type(spec)(
        **{**vars(spec), "statistics": Statistics({k: (a + 1, b * 2) for k, (a, b) in spec.statistics.values.items()})}
    )
    state = synthetic_batch(spec)
    model = spec.build()
    spaces = [TrainingSpace(model, each) for each in (spec, other)]
    with torch.no_grad():
        alone = [space.predict(state).surf_vars["2t"] for space in spaces]
        interleaved = [space.predict(state).surf_vars["2t"] for space in (spaces[1], spaces[0], spaces[1])]
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(interleaved[1], alone[0])
    assert torch.equal(interleaved[0], interleaved[2])
    assert torch.equal(interleaved[0], alone[1])
