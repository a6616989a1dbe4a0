"""How large residuals and errors are, and how far samples of one state depart from each other."""

import math

import numpy as np
import torch

from kit.data.dataset import Pairs, moved
from kit.diffusion.space import DiffusionSpace, cropped

_MOST_DATES = 64
"""Dates, at most, that residuals are measured on; a deviation over as many fields is within a few percent."""


def spread_places(count: int, most: int) -> list[int]:
    """Choose places evenly spread over a number of them."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return places


@torch.no_grad()
def measure(space: DiffusionSpace, pairs: Pairs) -> None:
    """Measure what a network draws, and note it in its buffers: how large residuals are, and how large anything is.

    Residuals and changes have the scale of their root mean square, in standard deviations of the states; 1 where there
    is none.
    """
    model, squares = space.model, []
    model.scale.fill_(1)
    drawn = []
    for index in spread_places(len(pairs), _MOST_DATES):
        pair = pairs[index].to(space.device)
        values = space.examples(pair.inputs, pair.target, [False]).drawn
        squares.append((values.double() ** 2).mean((0, -2, -1)))
        drawn.append(values.abs().amax((0, -2, -1)))
    if space.spec.settings.of in ("residual", "mean"):
        scale = torch.stack(squares).mean(0).sqrt().float()
        model.scale.copy_(scale.where(scale > 0, 1))
    model.bound.copy_(torch.stack(drawn).amax(0) / model.scale)


@torch.no_grad()
def operator_error(space: DiffusionSpace, pairs: Pairs, most: int) -> float:
    """Measure the operator's error of one step, in standard deviations of each field over space.

    The root mean square over space, then the mean over channels and dates.
    """
    errors = []
    for index in spread_places(len(pairs), most):
        pair = pairs[index].to(space.device)
        forecast = space.forecast_values(pair.inputs)
        truth = cropped(space.values(pair.target), forecast)
        own = space.own_scale(truth)
        errors.append(_departure(own.standardised(forecast), own.standardised(truth)))
    return float(np.mean(errors))


@torch.no_grad()
def perturbation_spread(space: DiffusionSpace, states: torch.Tensor, guidance: float) -> float:
    """Measure how far samples of one state depart from each other, in standard deviations over space.

    The root mean square over space of the difference of two samples, over the root of 2, then the mean over channels
    and states: what samples have in common, as guidance below 1 draws all of them towards what is usual, is no spread.

    Args:
        space: Network that draws states.
        states: States, standardised over space, [B, C, H, W].
        guidance: Guidance that they are drawn with.
    """
    twice = states.repeat_interleave(2, 0)
    generators = [torch.Generator(states.device).manual_seed(place) for place in range(len(twice))]
    start = torch.stack([torch.randn(states.shape[1:], generator=each, device=states.device) for each in generators])
    drawn = space.draw(twice, start, generators, guidance=guidance)
    return _departure(drawn[0::2], drawn[1::2]) / math.sqrt(2)


def _departure(values: torch.Tensor, states: torch.Tensor) -> float:
    return float(((values - states) ** 2).mean((-2, -1)).sqrt().mean())


@torch.no_grad()
def standardised_states(space: DiffusionSpace, pairs: Pairs, most: int) -> torch.Tensor:
    """Read states, standardised over space, [B, C, H, W]."""
    found = []
    for index in spread_places(len(pairs), most):
        values = space.values(moved(pairs[index].target, space.device))
        found.append(space.own_scale(values).standardised(values))
    return torch.cat(found)
