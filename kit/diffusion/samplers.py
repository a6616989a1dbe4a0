"""Samplers: from noise to states, step by step along a schedule.

Those of variance-preserving schedules are ``diffusers``'; Heun's method for EDM, which it lacks for denoisers of that
form, is written out. Dimensions: B sample; a state has any others.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch

from kit.diffusion.package import diffusers_class
from kit.diffusion.schedules import Edm, Levels, VariancePreserving
from kit.io.errors import SettingsError

Sampler = Literal["ddpm", "ddim", "dpm++", "heun"]
"""``ddpm`` draws noise at every step (Ho et al. 2020, algorithm 2); ``ddim`` draws none (Song et al. 2021); ``dpm++``
is of second order (Lu et al. 2022, "DPM-Solver++"); ``heun`` is EDM's (Karras et al. 2022, algorithm 1)."""

Estimate = Callable[[torch.Tensor, Levels], torch.Tensor]
"""Estimate of the states behind noisy ones, such as ``Denoiser.state``."""


def sample(
    estimate: Estimate,
    start: torch.Tensor,
    schedule: VariancePreserving | Edm,
    sampler: Sampler,
    steps: int,
    generators: torch.Generator | list[torch.Generator],
) -> torch.Tensor:
    """Draw states.

    Args:
        estimate: Estimate of states.
        start: Standard normal noise, [B, ...].
        schedule: Schedule that the denoiser was trained with.
        sampler: Sampler.
        steps: Evaluations of the estimate; of ``heun``, steps of two evaluations each but the last.
        generators: Of the noise that ``ddpm`` adds on the way; a list has one for each sample.

    Raises:
        SettingsError: the sampler is not for that schedule, has more steps than the schedule, or lacks its package.
    """
    if isinstance(schedule, Edm) != (sampler == "heun"):
        kind = "EDM's" if isinstance(schedule, Edm) else "a variance-preserving"
        fitting = "heun" if isinstance(schedule, Edm) else "ddpm, ddim or dpm++"
        msg = f"sampler {sampler}: is not for {kind} schedule; use {fitting}"
        raise SettingsError(msg)
    if isinstance(schedule, Edm):
        return _heun(estimate, start, schedule, steps)
    if steps > len(schedule.betas):
        msg = f"sampler steps: the schedule has {len(schedule.betas)}, got {steps}; use fewer"
        raise SettingsError(msg)
    scheduler = _scheduler(schedule, sampler)
    scheduler.set_timesteps(steps, device=start.device)
    # The deterministic ones take a generator too, but not several.
    drawing = {"generator": generators} if sampler == "ddpm" else {}
    state = start
    for timestep in scheduler.timesteps:
        levels = schedule.at(timestep.repeat(len(start)).long())
        found = scheduler.step(estimate(state, levels), timestep, state, **drawing)
        state = found.prev_sample
    return state


def _scheduler(schedule: VariancePreserving, sampler: Sampler) -> Any:
    """Make ``diffusers``' scheduler for estimates of states, with nothing clipped: states are not pictures."""
    # The first of evenly spaced steps is the last of the schedule, where there is hardly any signal.
    common: dict[str, Any] = {
        "num_train_timesteps": len(schedule.betas),
        "trained_betas": schedule.betas.tolist(),
        "prediction_type": "sample",
        "timestep_spacing": "trailing",
    }
    names: dict[Sampler, tuple[str, dict[str, Any]]] = {
        "ddpm": ("DDPMScheduler", {"clip_sample": False}),
        "ddim": ("DDIMScheduler", {"clip_sample": False}),
        "dpm++": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    }
    name, own = names[sampler]
    return diffusers_class(name, f"sampler {sampler}")(**common, **own)


def _heun(estimate: Estimate, start: torch.Tensor, schedule: Edm, steps: int) -> torch.Tensor:
    """Follow the probability flow by Heun's method (Karras et al. 2022, algorithm 1)."""
    sigmas = schedule.descent(steps).tolist()

    def slope(state: torch.Tensor, sigma: float) -> torch.Tensor:
        levels = schedule.at(torch.full((len(state),), sigma, device=state.device))
        return (state - estimate(state, levels)) / sigma

    state: torch.Tensor = sigmas[0] * start
    for sigma, following in pairwise(sigmas):
        first = slope(state, sigma)
        moved = state + (following - sigma) * first
        if following > 0:
            # The slope at the end of the step counts as much as that at its beginning.
            moved = state + (following - sigma) * (first + slope(moved, following)) / 2
        state = moved
    return state
