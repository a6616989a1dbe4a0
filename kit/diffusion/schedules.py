"""Schedules of diffusion: how much of a noisy state is signal and how much is noise.

A noisy state is ``a x + b e`` of a state x and standard normal noise e. Dimensions: B sample, T timestep.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

TIMESTEPS = 1000
"""Timesteps of Ho et al. 2020, "Denoising Diffusion Probabilistic Models", section 4."""

# Ho et al. 2020, section 4, for 1000 timesteps; of another number the ends are scaled, so that as much noise is added.
_FIRST_BETA, _LAST_BETA = 1e-4, 0.02
# Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", section 3.2 and equation 17.
_COSINE_OFFSET, _LARGEST_BETA = 0.008, 0.999
# Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1.
_LOG_MEAN, _LOG_DEVIATION = -1.2, 1.2
_LEAST_SIGMA, _MOST_SIGMA, _RHO = 0.002, 80.0, 7.0
# diff-o3-pro's betas (``models/diffusion/ddpm_ultra_minimal.py``).
_CLIPPED = (1e-4, 0.02)

ScheduleName = Literal["linear", "cosine", "clipped-cosine", "edm"]


@dataclass(frozen=True)
class Levels:
    """Levels of noise, one for each sample.

    Attributes:
        signal: Factor of the state, [B].
        noise: Factor of the noise, [B].
        label: What a network is told of the level, [B].
    """

    signal: torch.Tensor
    noise: torch.Tensor
    label: torch.Tensor

    def mix(self, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Add noise to states, [B, ...]."""
        return spread(self.signal, state) * state + spread(self.noise, state) * noise


class NoiseSchedule(Protocol):
    """Levels that training draws."""

    def labelled(self, labels: torch.Tensor) -> Levels:
        """Return the levels of labels, [B]."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Levels:
        """Draw levels for some samples, on the generator's device."""
        ...

    def quantiles(self, shares: torch.Tensor) -> Levels:
        """Return the levels below which shares of those that training draws lie, [B]."""
        ...


@dataclass(frozen=True)
class VariancePreserving:
    """Timesteps of growing noise, at which states of unit variance keep it; labels are timesteps from 0.

    Attributes:
        betas: Share of the variance that each timestep replaces by noise, [T], in double precision.
    """

    betas: torch.Tensor

    @property
    def remaining(self) -> torch.Tensor:
        """Share of a state's variance that is left after each timestep, [T]."""
        return torch.cumprod(1 - self.betas, 0)

    def at(self, timesteps: torch.Tensor) -> Levels:
        """Return the levels at timesteps, [B]."""
        left = self.remaining.to(timesteps.device)[timesteps]
        return Levels(left.sqrt().float(), (1 - left).sqrt().float(), timesteps.float())

    def labelled(self, labels: torch.Tensor) -> Levels:
        """Return the levels of labels, [B]."""
        return self.at(labels.long())

    def draw(self, count: int, generator: torch.Generator) -> Levels:
        """Draw timesteps, all with the same probability."""
        return self.at(torch.randint(len(self.betas), (count,), generator=generator, device=generator.device))

    def quantiles(self, shares: torch.Tensor) -> Levels:
        """Return the levels below which shares of those that training draws lie, [B], from 0 to 1."""
        return self.at((shares * len(self.betas)).long().clamp(max=len(self.betas) - 1))


def linear(timesteps: int = TIMESTEPS) -> VariancePreserving:
    """Betas that grow linearly (Ho et al. 2020, section 4)."""
    scale = TIMESTEPS / timesteps
    return VariancePreserving(
        torch.linspace(scale * _FIRST_BETA, scale * _LAST_BETA, timesteps, dtype=torch.float64).clamp(max=_LARGEST_BETA)
    )


def cosine(timesteps: int = TIMESTEPS, least: float = 0.0, most: float = _LARGEST_BETA) -> VariancePreserving:
    """A share of signal that falls as a squared cosine (Nichol and Dhariwal 2021, section 3.2).

    Args:
        timesteps: Number of timesteps.
        least: Least beta.
        most: Largest beta, there 0.999. With ``least`` 1e-4 and ``most`` 0.02 it is the schedule of diff-o3-pro
            (``models/diffusion/ddpm_ultra_minimal.py``), which ends with more signal.
    """
    moments = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    left = torch.cos((moments + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * torch.pi / 2) ** 2
    return VariancePreserving((1 - left[1:] / left[:-1]).clamp(least, most))


@dataclass(frozen=True)
class Edm:
    """Noise of a deviation sigma on states that stay as they are (Karras et al. 2022); labels are ln(sigma) / 4.

    Attributes:
        log_mean: Mean of ln(sigma) in training.
        log_deviation: Its standard deviation.
    """

    log_mean: float = _LOG_MEAN
    log_deviation: float = _LOG_DEVIATION

    def at(self, sigmas: torch.Tensor) -> Levels:
        """Return the levels with some deviations of the noise, [B]."""
        return Levels(torch.ones_like(sigmas), sigmas, sigmas.log() / 4)

    def labelled(self, labels: torch.Tensor) -> Levels:
        """Return the levels of labels, [B]."""
        return self.at((4 * labels).exp())

    def draw(self, count: int, generator: torch.Generator) -> Levels:
        """Draw deviations, log-normal."""
        normal = torch.randn(count, generator=generator, device=generator.device)
        return self.at((self.log_mean + self.log_deviation * normal).exp())

    def quantiles(self, shares: torch.Tensor) -> Levels:
        """Return the levels below which shares of those that training draws lie, [B], between 0 and 1."""
        return self.at((self.log_mean + self.log_deviation * torch.special.ndtri(shares)).exp())

    def descent(self, steps: int) -> torch.Tensor:
        """Return the deviations that a sampler goes through, from the most to 0, [steps + 1] (equation 5)."""
        places = torch.linspace(0, 1, steps, dtype=torch.float64)
        ends = _MOST_SIGMA ** (1 / _RHO), _LEAST_SIGMA ** (1 / _RHO)
        sigmas = (ends[0] + places * (ends[1] - ends[0])) ** _RHO
        return torch.cat([sigmas, sigmas.new_zeros(1)])


def schedule_named(name: ScheduleName, timesteps: int | None) -> VariancePreserving | Edm:
    """Choose a schedule.

    Args:
        name: Its name.
        timesteps: Its timesteps; None for those of Ho et al. ``edm`` has none.
    """
    if name == "edm":
        return Edm()
    count = timesteps or TIMESTEPS
    if name == "linear":
        return linear(count)
    if name == "clipped-cosine":
        return cosine(count, *_CLIPPED)
    return cosine(count)


def spread(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give values of samples, [B], the dimensions of states, [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
