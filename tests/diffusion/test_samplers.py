"""Samplers draw a known Gaussian from its perfect denoiser."""

from functools import partial
from typing import Any

import pytest
import torch

from kit.diffusion.samplers import Sampler, sample
from kit.diffusion.schedules import Edm, cosine, linear
from kit.io.errors import SettingsError
from tests.diffusion.gaussians import TILTED

COUNT = 20_000
SCHEDULES: dict[str, Any] = {"linear": linear(), "cosine": cosine(), "edm": Edm()}
CASES = [
    (name, *sampler) for name in ("linear", "cosine") for sampler in (("ddpm", 1000), ("ddim", 200), ("dpm++", 40))
]


@pytest.mark.parametrize(("name", "sampler", "steps"), [*CASES, ("edm", "heun", 40)])
def test_mean_and_covariance_are_those_of_the_states(name: str, sampler: Sampler, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(COUNT, 2, generator=generator)
    found = sample(TILTED.estimate, start, SCHEDULES[name], sampler, steps, generator)
    # Standard errors of means are 0.007 and 0.005, those of variances 0.010 and 0.005.
    assert found.mean(0).tolist() == pytest.approx(TILTED.mean.tolist(), abs=0.03)
    torch.testing.assert_close(torch.cov(found.T), TILTED.covariance, atol=0.04, rtol=0)


def test_more_steps_come_nearer() -> None:
    start = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(0))
    draw = partial(sample, TILTED.estimate, start, Edm(), "heun", generators=torch.Generator())
    exact = draw(steps=400)
    errors = [(draw(steps=steps) - exact).abs().max().item() for steps in (10, 20, 40)]
    # A method of second order: half the step, a quarter of the error.
    assert errors[0] > 2.5 * errors[1] > 6 * errors[2]


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "heun"])
def test_the_same_noise_gives_the_same_states(sampler: Sampler) -> None:
    schedule = Edm() if sampler == "heun" else linear()
    start = torch.randn(4, 2)
    one, other = (
        sample(TILTED.estimate, start, schedule, sampler, 10, torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("schedule", "sampler", "steps", "message"),
    [
        (Edm(), "ddpm", 10, "ddpm: is not for EDM's schedule; use heun"),
        (linear(), "heun", 10, "heun: is not for a variance-preserving schedule"),
        (linear(100), "ddim", 101, "has 100, got 101"),
    ],
    ids=["edm", "heun", "steps"],
)
def test_what_cannot_be_sampled_is_refused(schedule: Any, sampler: Sampler, steps: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        sample(TILTED.estimate, torch.randn(1, 2), schedule, sampler, steps, torch.Generator())
