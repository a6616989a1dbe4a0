"""Schedules against their papers' numbers."""

import math

import pytest
import torch

from kit.diffusion.schedules import TIMESTEPS, Edm, VariancePreserving, cosine, linear


def test_the_linear_schedule_is_that_of_the_paper() -> None:
    schedule = linear()
    assert schedule.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    # The variance that is left after all timesteps: exp of the sum of ln(1 - beta).
    left = math.prod(1 - (1e-4 + (0.02 - 1e-4) * place / 999) for place in range(TIMESTEPS))
    assert schedule.remaining[-1].item() == pytest.approx(left, rel=1e-9)
    assert left == pytest.approx(4.04e-5, rel=1e-2)


def test_the_cosine_schedule_is_that_of_the_paper() -> None:
    schedule = cosine()
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for timestep in (0, 250, 700):
        expected = math.cos(((timestep + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert schedule.remaining[timestep].item() == pytest.approx(expected, rel=1e-9)
    assert schedule.betas.max().item() == 0.999


def test_the_clipped_cosine_ends_with_more_signal() -> None:
    clipped = cosine(least=1e-4, most=0.02)
    assert clipped.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert clipped.remaining[-1] > 100 * cosine().remaining[-1]


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_unit_variance_stays_and_noise_wins(make: object, timesteps: int) -> None:
    schedule = make(timesteps)  # type: ignore[operator]
    assert isinstance(schedule, VariancePreserving)
    levels = schedule.at(torch.arange(timesteps))
    torch.testing.assert_close(levels.signal**2 + levels.noise**2, torch.ones(timesteps))
    assert (levels.noise.diff() > 0).all()
    assert levels.noise[-1] > 0.999


def test_edm_draws_the_logarithm_of_its_deviations() -> None:
    levels = Edm().draw(200_000, torch.Generator().manual_seed(0))
    logarithms = levels.noise.log()
    # The standard error of the mean is 1.2 / sqrt(200000) = 0.0027, that of the deviation 0.0019.
    assert logarithms.mean().item() == pytest.approx(-1.2, abs=0.011)
    assert logarithms.std().item() == pytest.approx(1.2, abs=0.008)
    torch.testing.assert_close(levels.label, logarithms / 4)
    assert (levels.signal == 1).all()


def test_edm_descends_from_80_to_nothing() -> None:
    sigmas = Edm().descent(18)
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([80, 0.002, 0])
    # Equation 5 of Karras et al. 2022, at the second of 18 steps.
    expected = (80 ** (1 / 7) + 1 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert sigmas[1].item() == pytest.approx(expected)


def test_the_same_seed_draws_the_same_levels() -> None:
    for schedule in (linear(), Edm()):
        drawn = [schedule.draw(8, torch.Generator().manual_seed(seed)).noise for seed in (1, 1, 2)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
