"""Losses of denoisers that predict nothing, and of perfect ones on Gaussian states, against theory."""

from typing import Any

import pytest
import torch

from kit.diffusion.denoiser import Denoiser, Target
from kit.diffusion.schedules import Edm, Levels, cosine, linear, spread
from tests.diffusion.gaussians import TILTED, UNIT, Gaussian

COUNT = 200_000
SCHEDULES: dict[str, Any] = {"linear": linear(), "cosine": cosine(), "edm": Edm()}
PAIRS = [("linear", "noise"), ("linear", "v"), ("cosine", "noise"), ("cosine", "v"), ("edm", "noise"), ("edm", "edm")]


def nothing(
    noisy: torch.Tensor, label: torch.Tensor, condition: torch.Tensor | None, present: torch.Tensor | None
) -> torch.Tensor:
    return torch.zeros_like(noisy)


def losses(denoiser: Denoiser, state: torch.Tensor, noise: torch.Tensor, levels: Levels) -> torch.Tensor:
    predicted, due = denoiser.compare(state, noise, levels)
    return (predicted - due) ** 2


def perfect(states: Gaussian, target: Target, levels: Levels, deviation: float) -> Any:
    """A network whose predictions mean the best estimate of the states."""

    def predict(given: torch.Tensor, *_: Any) -> torch.Tensor:
        signal, noise = spread(levels.signal, given), spread(levels.noise, given)
        total = (noise**2 + deviation**2).sqrt()
        noisy = given * total if target == "edm" else given
        state = states.estimate(noisy, levels)
        if target == "edm":
            return (state - deviation**2 / total**2 * noisy) * total / (noise * deviation)
        guessed = (noisy - signal * state) / noise
        return guessed if target == "noise" else signal * guessed - noise * state

    return predict


def drawn(states: Gaussian, schedule: Any) -> tuple[torch.Tensor, torch.Tensor, Levels]:
    generator = torch.Generator().manual_seed(3)
    levels = schedule.draw(COUNT, generator)
    return states.draw(COUNT, generator), torch.randn(COUNT, 2, generator=generator), levels


@pytest.mark.parametrize(("schedule", "target"), PAIRS)
def test_a_network_that_predicts_nothing_has_the_loss_1(schedule: str, target: Target) -> None:
    state, noise, levels = drawn(UNIT, SCHEDULES[schedule])
    loss = losses(Denoiser(nothing, target), state, noise, levels)
    # The mean of 400,000 squares of standard normal numbers has a standard error of 0.0022.
    assert loss.mean().item() == pytest.approx(1, abs=0.009)


@pytest.mark.parametrize(("schedule", "target"), PAIRS)
def test_a_perfect_network_has_the_loss_of_theory(schedule: str, target: Target) -> None:
    state, noise, levels = drawn(TILTED, SCHEDULES[schedule])
    deviation = 0.8
    found = losses(Denoiser(perfect(TILTED, target, levels, deviation), target, deviation), state, noise, levels)
    # What is left unknown of the states, in units of what is predicted: b e = y - a x, v = (a y - x) / b for a
    # schedule that preserves variance, and EDM's factor of the output.
    unit = {
        "noise": levels.signal / levels.noise,
        "v": 1 / levels.noise,
        "edm": (levels.noise**2 + deviation**2).sqrt() / (levels.noise * deviation),
    }[target]
    expected = TILTED.left(levels) * unit**2
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.02)


@pytest.mark.parametrize(("schedule", "target"), [("linear", "noise"), ("cosine", "v"), ("edm", "edm")])
def test_the_state_of_a_perfect_network_is_the_best_estimate(schedule: str, target: Target) -> None:
    state, noise, levels = drawn(TILTED, SCHEDULES[schedule])
    noisy = levels.mix(state, noise)
    found = Denoiser(perfect(TILTED, target, levels, 0.8), target, 0.8).state(noisy, levels)
    kept = levels.signal > 0.05
    torch.testing.assert_close(found[kept], TILTED.estimate(noisy, levels)[kept], rtol=1e-3, atol=1e-3)


def test_preconditioning_leaves_states_alone_without_noise_and_forgets_them_in_much() -> None:
    state, far = torch.tensor([[0.7, -0.2]]), torch.tensor([[70.0, -20.0]])
    ones = Denoiser(lambda noisy, *_: torch.ones_like(noisy), "edm", 0.5)
    quiet, loud = (Edm().at(torch.tensor([sigma])) for sigma in (1e-4, 1e4))
    # c_skip is 1 and c_out is sigma; then c_skip is 0 and c_out the states' deviation (Karras et al. 2022, table 1).
    torch.testing.assert_close(ones.state(state, quiet), state + 1e-4, atol=1e-6, rtol=0)
    torch.testing.assert_close(ones.state(far, loud), torch.full((1, 2), 0.5), atol=1e-5, rtol=0)


def test_guidance_mixes_estimates_with_and_without_the_condition() -> None:
    def network(
        noisy: torch.Tensor, label: torch.Tensor, condition: torch.Tensor | None, present: torch.Tensor | None
    ) -> torch.Tensor:
        there = 1 if present is None else present[:, None]
        return torch.zeros_like(noisy) if condition is None else condition * there

    denoiser, levels = Denoiser(network, "noise"), linear().at(torch.tensor([500]))
    noisy, condition = torch.randn(1, 3), torch.randn(1, 3)
    free, bound = denoiser.state(noisy, levels), denoiser.state(noisy, levels, condition)
    for guidance in (0.0, 0.5, 1.0, 2.0):
        expected = free + guidance * (bound - free)
        torch.testing.assert_close(denoiser.guided(noisy, levels, condition, guidance), expected)
    assert torch.equal(denoiser.guided(noisy, levels, None, 0.5), free)
