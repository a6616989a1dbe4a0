"""Denoisers: networks that tell the state behind noise, and the losses that they learn it by.

Dimensions: B sample; a state has any others.
"""

from collections.abc import Callable
from typing import Literal

import torch

from kit.diffusion.schedules import Levels, spread

Target = Literal["noise", "v", "edm"]
"""What a network predicts: the noise (Ho et al. 2020, equation 14), the velocity a e - b x (Salimans and Ho 2022,
"Progressive Distillation for Fast Sampling of Diffusion Models", appendix D), or what EDM's preconditioning leaves
(Karras et al. 2022, equation 7)."""

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor]
"""From a noisy state [B, ...], labels of its levels [B], a condition or None, and which samples have it, [B], or None
for all, to a prediction [B, ...]."""


class Denoiser:
    """A network, and what its predictions mean.

    Args:
        network: Network.
        target: What it predicts.
        deviation: Standard deviation of the states, for EDM's preconditioning.
    """

    def __init__(self, network: Network, target: Target, deviation: float = 1.0) -> None:
        self._network = network
        self._target = target
        self._deviation = deviation

    def compare(
        self,
        state: torch.Tensor,
        noise: torch.Tensor,
        levels: Levels,
        condition: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the network predicts of noisy states, and what it should, [B, ...] each.

        Whatever the target, the mean squared difference is 1 for a network that predicts 0, of states of the deviation
        that was given (for ``v`` of unit deviation).

        Args:
            state: States, [B, ...].
            noise: Standard normal noise, of the same shape.
            levels: Levels of the noise.
            condition: Conditions; None without.
            present: Whether each sample has its condition, 1 or 0, [B]; None for all.
        """
        noisy = levels.mix(state, noise)
        predicted = self._predict(noisy, levels, condition, present)
        signal, noisiness = (spread(values, state) for values in (levels.signal, levels.noise))
        if self._target == "noise":
            return predicted, noise
        if self._target == "v":
            return predicted, signal * noise - noisiness * state
        skip, out, _ = self._preconditioning(levels, state)
        return predicted, (state - skip * noisy) / out

    def state(
        self,
        noisy: torch.Tensor,
        levels: Levels,
        condition: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Estimate the states behind noisy ones, [B, ...], as ``compare`` has its arguments."""
        predicted = self._predict(noisy, levels, condition, present)
        signal, noisiness = (spread(values, noisy) for values in (levels.signal, levels.noise))
        if self._target == "noise":
            return (noisy - noisiness * predicted) / signal
        if self._target == "v":
            return (signal * noisy - noisiness * predicted) / (signal**2 + noisiness**2)
        skip, out, _ = self._preconditioning(levels, noisy)
        return skip * noisy + out * predicted

    def guided(
        self, noisy: torch.Tensor, levels: Levels, condition: torch.Tensor | None, guidance: float
    ) -> torch.Tensor:
        """Estimate states from the predictions with and without the condition.

        Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", with ``guidance`` 0 for no condition, 1 for the
        condition alone, and between them for a condition that counts in part. Estimates are linear in what is
        predicted, so that it does not matter which of them is mixed.
        """
        if condition is None or guidance == 1:
            return self.state(noisy, levels, condition)
        free = self.state(noisy, levels, condition, noisy.new_zeros(len(noisy)))
        if guidance == 0:
            return free
        return free + guidance * (self.state(noisy, levels, condition) - free)

    def _predict(
        self, noisy: torch.Tensor, levels: Levels, condition: torch.Tensor | None, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self._target == "edm":
            noisy = self._preconditioning(levels, noisy)[2] * noisy
        return self._network(noisy, levels.label, condition, present)

    def _preconditioning(self, levels: Levels, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return EDM's factors of the noisy state, of the network's output and of its input (Karras et al., table 1).

        The output's factor is the deviation of what the noisy state leaves unknown, so that the network predicts
        values of unit variance at every level, and the loss with them is the one that the table weighs.
        """
        sigma, deviation = spread(levels.noise, like), self._deviation
        total = sigma**2 + deviation**2
        return deviation**2 / total, sigma * deviation / total.sqrt(), 1 / total.sqrt()


class Regressor(Denoiser):
    """A network that predicts from conditions alone, in training called as a denoiser is: it reads zeros for noise."""

    def compare(
        self,
        state: torch.Tensor,
        noise: torch.Tensor,  # noqa: ARG002
        levels: Levels,
        condition: torch.Tensor | None = None,
        present: torch.Tensor | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the network predicts, and what it should, [B, ...] each."""
        return self.state(state, levels, condition), state

    def state(
        self,
        noisy: torch.Tensor,
        levels: Levels,
        condition: torch.Tensor | None = None,
        present: torch.Tensor | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Predict states like noisy ones, of which the shape alone is read, [B, ...]."""
        nothing = torch.zeros_like(noisy)
        return self._network(nothing, torch.zeros_like(levels.label), condition, None)


def bypass_factors(target: Target, levels: Levels, deviation: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors by which what is to be predicted follows from a noisy state and the state behind it, [B] each.

    Without their signs: noise is y / b - a x / b, the velocity a y / b - x / b (of a^2 + b^2 = 1), and EDM's x / c_out
    - (c_skip / c_out) y, of which networks read c_in y.
    """
    signal, noise = levels.signal, levels.noise
    if target == "noise":
        return 1 / noise, signal / noise
    if target == "v":
        return signal / noise, 1 / noise
    return deviation / noise, (noise**2 + deviation**2).sqrt() / (noise * deviation)
