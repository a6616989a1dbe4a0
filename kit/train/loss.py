"""Losses in training space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kit.errors import SettingsError
from kit.models.space import Fields

__all__ = ["PAPER_WEIGHTS", "Loss", "PaperMAE"]

PAPER_WEIGHTS: Mapping[str, float] = {
    "msl": 1.5,
    "10u": 0.77,
    "10v": 0.66,
    "2t": 3.0,
    "z": 2.8,
    "q": 0.78,
    "t": 1.7,
    "u": 0.87,
    "v": 0.6,
}
"""Variable weights of the Aurora paper (Bodnar et al. 2025, supplement D.1); variables it lacks weigh 1."""

_GAMMA = 2.0
_ALPHA = 0.25
_BETA = 1.0


@dataclass(frozen=True)
class Loss:
    """A loss and its parts.

    Attributes:
        total: what is minimised, dimensionless.
        parts: mean absolute error of each variable in training space, unweighted.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class PaperMAE:
    """Mean absolute error with the Aurora paper's weights.

    gamma / (V_S + V_A) x [alpha x sum over surface variables of w x mean|error| + beta x sum over atmospheric
    variables of w x mean|error|], means over batch, levels and grid; alpha = 1/4, beta = 1, gamma = 2.0, the
    paper's value for ERA5 (Bodnar et al. 2025, supplement D.1). V_S and V_A count the decoder's outputs, so that
    the sines, cosines and densities of the wave model count one each.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._given = dict(weights or {})
        self._weights = {**PAPER_WEIGHTS, **self._given}

    def __call__(self, prediction: Fields, target: Fields) -> Loss:
        """Compare a prediction with its target.

        Raises:
            SettingsError: they do not hold the same variables, or a weight names none of them.
        """
        self._check(prediction, target)
        surface = {
            name: _mean_error(value, target.surface[name], target.masks.get(name))
            for name, value in prediction.surface.items()
        }
        atmospheric = {
            name: _mean_error(value, target.atmospheric[name], None) for name, value in prediction.atmospheric.items()
        }
        scale = _GAMMA / (len(surface) + len(atmospheric))
        total = scale * (_ALPHA * self._weighted(surface) + _BETA * self._weighted(atmospheric))
        return Loss(total, {name: value.detach() for name, value in (surface | atmospheric).items()})

    def _weighted(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([self._weights.get(name, 1.0) * value for name, value in parts.items()]).sum()

    def _check(self, prediction: Fields, target: Fields) -> None:
        predicted = prediction.surface.keys() | prediction.atmospheric.keys()
        wanted = target.surface.keys() | target.atmospheric.keys()
        if predicted != wanted:
            msg = (
                f"loss: predicted without a target: {sorted(predicted - wanted)}; target without a prediction: "
                f"{sorted(wanted - predicted)}"
            )
            raise SettingsError(msg)
        if unused := sorted(self._given.keys() - predicted):
            msg = f"loss.weights: {', '.join(unused)} weigh nothing; the loss is over {', '.join(sorted(predicted))}"
            raise SettingsError(msg)


def _mean_error(value: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean absolute error over the scored points; 0 where none is scored, as in a field without waves."""
    if mask is None:
        return (value - target).abs().mean()
    # A masked NaN must not reach the subtraction: its gradient would be NaN even where it is multiplied by 0.
    error = (value - torch.where(mask, target, value.detach())).abs()
    return error.sum() / mask.sum().clamp(min=1)
