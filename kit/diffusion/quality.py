"""How well a network draws: its loss by the level of noise, what it makes of noisy states, and the power of samples.

Dimensions: B sample, C channel, H row, W column.
"""

import math
from typing import Any

import numpy as np
import torch

from kit.diffusion.space import DiffusionSpace, Example

LEVELS = 8
"""Levels of noise at which the loss is taken, in the middle of as many parts of those that training draws."""
_SHOWN = (0.1, 0.4, 0.7, 0.95)
"""Shares of levels below those at which noisy states are shown."""
_MOST_POINTS = 128
"""Rows and columns, at most, of the part of a field that is shown: its middle."""
FINE = (2.0, 8.0)
"""Wavelengths of what is fine, in grid lengths."""


@torch.no_grad()
def sample_quality(space: DiffusionSpace, example: Example) -> dict[str, Any]:
    """Look at a network from several sides.

    Args:
        space: Network.
        example: What it should draw, and from what.

    Returns:
        ``loss``: pairs of a share of the levels that training draws and the mean squared error there. ``fields``: of
        one channel, the ``target``, and for some shares what is ``noisy`` and the ``estimate``, standardised, [H, W].
        ``power``: ``wavelength`` in grid lengths, and mean power over channels of ``target`` and ``sample``.
        ``fine``: power of samples over that of targets from 2 to 8 grid lengths, and ``fine_by_channel``
        of those that have any.
    """
    device = space.device
    # Levels of noise are looked at where training looks: on a tile, if the network reads those.
    looked_at = space.cut(example, [np.random.default_rng(0)] * len(example.drawn))
    drawn, condition = looked_at.drawn, looked_at.condition
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.randn(drawn.shape, generator=generator, device=device)
    losses = []
    for part in range(LEVELS):
        share = (part + 0.5) / LEVELS
        levels = space.schedule.quantiles(torch.full((len(drawn),), share, device=device))
        predicted, due = space.denoiser.compare(drawn, noise, levels, condition)
        losses.append([share, float(((predicted - due) ** 2).mean())])
    shown = []
    for share in _SHOWN:
        levels = space.schedule.quantiles(torch.full((len(drawn),), share, device=device))
        noisy = levels.mix(drawn, noise)
        estimate = space.denoiser.state(noisy, levels, condition)
        shown.append({"share": share, "noisy": _middle(noisy), "estimate": _middle(estimate)})
    generators = [torch.Generator(device).manual_seed(place) for place in range(len(drawn))]
    shape = example.drawn.shape[1:]
    start = torch.stack([torch.randn(shape, generator=each, device=device) for each in generators])
    samples = space.draw(example.condition, start, generators)
    wavelengths, target = power(example.drawn, circular=space.spec.circular)
    _, sampled = power(samples, circular=space.spec.circular)
    by_channel = {}
    for place, name in enumerate(space.spec.channels):
        pair = [power(values[:, [place]], circular=space.spec.circular)[1] for values in (samples, example.drawn)]
        ratio = fine_ratio(wavelengths, *pair)
        # A field of no rain has no power to compare with.
        if math.isfinite(ratio):
            by_channel[name] = ratio
    return {
        "loss": losses,
        "fields": {"channel": space.spec.channels[0], "target": _middle(drawn), "shown": shown},
        "power": {
            "wavelength": wavelengths.tolist(),
            "target": target.tolist(),
            "sample": sampled.tolist(),
        },
        "fine": fine_ratio(wavelengths, sampled, target),
        "fine_by_channel": by_channel,
    }


def power(values: torch.Tensor, *, circular: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the mean power of fields by wavelength, over directions, channels and samples.

    Sides that do not go around the globe are faded by Hann's window, which keeps a step there from looking fine.

    Args:
        values: Fields, [B, C, H, W].
        circular: Whether columns go around the globe.

    Returns:
        Wavelengths in grid lengths, falling, and power, [K] each; of one constant direction nothing is kept.
    """
    rows, columns = values.shape[-2:]
    fields = values.double() - values.double().mean((-2, -1), keepdim=True)
    window = torch.hann_window(rows, periodic=False, dtype=torch.float64, device=values.device)[:, None]
    if not circular:
        window = window * torch.hann_window(columns, periodic=False, dtype=torch.float64, device=values.device)
    transformed = torch.fft.rfft2(fields * window)
    # Of real fields half of the columns stands for both directions.
    both = torch.full((transformed.shape[-1],), 2.0, dtype=torch.float64, device=values.device)
    both[0] = 1.0
    squares = (transformed.abs() ** 2 * both).mean((0, 1)) / (rows * columns) ** 2
    vertical, horizontal = torch.fft.fftfreq(rows), torch.fft.rfftfreq(columns)
    waves = (vertical[:, None] ** 2 + horizontal**2).sqrt().to(values.device)
    width = 1 / min(rows, columns)
    bins = (waves / width).round().long()
    count = int(0.5 / width) + 1
    sums = torch.zeros(max(int(bins.max()) + 1, count), dtype=torch.float64, device=values.device)
    sums.index_add_(0, bins.flatten(), squares.flatten())
    numbers = torch.arange(1, count, device=values.device)
    return 1 / (numbers * width), sums[1:count]


def fine_ratio(wavelengths: torch.Tensor, sampled: torch.Tensor, target: torch.Tensor) -> float:
    """Compare the power of samples with that of targets at fine wavelengths."""
    inside = (wavelengths >= FINE[0]) & (wavelengths <= FINE[1])
    return float(sampled[inside].sum() / target[inside].sum())


def _middle(values: torch.Tensor) -> list[list[float]]:
    """Cut the middle out of the first channel of the first sample, to three digits after the point."""
    rows, columns = (min(side, _MOST_POINTS) for side in values.shape[-2:])
    above, left = ((side - kept) // 2 for side, kept in zip(values.shape[-2:], (rows, columns), strict=True))
    field = values[0, 0, above : above + rows, left : left + columns]
    found: list[list[float]] = (field * 1000).round().div(1000).tolist()
    return found
