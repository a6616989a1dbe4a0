"""Guidance and the amplitude of perturbations: the curve that exact predictors have on white noise, and its inverse."""

from functools import cache, partial

import pytest
import torch

from kit.diffusion.guidance import TOLERANCE, calibrate
from kit.diffusion.samplers import sample
from kit.diffusion.schedules import Levels, linear, spread
from kit.io.errors import SettingsError

POINTS = 20_000


@cache
def amplitude(guidance: float, steps: int) -> float:
    """Standard deviation of samples around their condition, where the condition is the state, of unit variance."""
    generator = torch.Generator().manual_seed(0)
    condition, start = torch.randn(2, POINTS, 1, generator=generator)

    def estimate(noisy: torch.Tensor, levels: Levels) -> torch.Tensor:
        # Of white noise alone the best guess is the signal's share of what is seen.
        free = spread(levels.signal, noisy) * noisy
        mixed: torch.Tensor = free + guidance * (condition - free)
        return mixed

    drawn = sample(estimate, start, linear(), "dpm++", steps, generator)
    return float((drawn - condition).std())


@pytest.mark.parametrize(
    ("guidance", "steps", "expected"),
    [(0.5, 10, 0.34), (0.5, 25, 0.22), (0.5, 100, 0.12), (0.9, 10, 0.04), (0.9, 25, 0.02), (0.9, 100, 0.006)],
)
def test_guidance_is_no_amplitude(guidance: float, steps: int, expected: float) -> None:
    assert amplitude(guidance, steps) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("steps", [10, 25, 100])
def test_a_calibrated_guidance_gives_the_spread_whatever_the_steps(steps: int) -> None:
    found = calibrate(partial(amplitude, steps=steps), 0.2)
    assert found.spread == pytest.approx(0.2, rel=TOLERANCE)
    assert amplitude(found.guidance, steps) == found.spread
    guidances, spreads = zip(*found.curve, strict=True)
    assert guidances == tuple(sorted(guidances))
    assert spreads == tuple(sorted(spreads, reverse=True))


def test_more_steps_want_less_guidance() -> None:
    few, many = (calibrate(partial(amplitude, steps=steps), 0.2).guidance for steps in (10, 100))
    assert many < few


@pytest.mark.parametrize("due", [0.0001, 3.0])
def test_a_spread_that_no_guidance_gives_is_refused(due: float) -> None:
    with pytest.raises(SettingsError, match="expected one from"):
        calibrate(lambda guidance: 0.5 + (1 - guidance), due)
