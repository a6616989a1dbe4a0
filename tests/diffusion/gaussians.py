"""Denoisers of Gaussian states, which are known exactly."""

from dataclasses import dataclass

import torch

from kit.diffusion.schedules import Levels, spread


@dataclass(frozen=True)
class Gaussian:
    """States of a normal distribution with a mean [C] and a covariance [C, C]."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        root = torch.linalg.cholesky(self.covariance)
        drawn: torch.Tensor = self.mean + torch.randn(count, len(self.mean), generator=generator) @ root.T
        return drawn

    def estimate(self, noisy: torch.Tensor, levels: Levels) -> torch.Tensor:
        """The mean of the states behind noisy ones, from Bayes' rule for normal distributions."""
        signal, noise = spread(levels.signal, noisy), spread(levels.noise, noisy)
        variances, axes = torch.linalg.eigh(self.covariance)
        along = (noisy - signal * self.mean) @ axes
        share = signal * variances / (signal**2 * variances + noise**2)
        estimate: torch.Tensor = self.mean + (along * share) @ axes.T
        return estimate

    def left(self, levels: Levels) -> torch.Tensor:
        """Mean variance of the states that noisy ones leave unknown, [B]."""
        variances = torch.linalg.eigvalsh(self.covariance)
        signal, noise = levels.signal[:, None], levels.noise[:, None]
        left: torch.Tensor = (variances * noise**2 / (signal**2 * variances + noise**2)).mean(1)
        return left


UNIT = Gaussian(torch.zeros(2), torch.eye(2))
TILTED = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.5]]))
