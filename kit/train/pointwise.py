"""Errors point by point, in training space.

Dimensions: B batch, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, mse_loss

from kit.train.settings import LossSettings

__all__ = ["PointError", "absolute", "cross_entropy", "mean_error", "pinball", "point_error"]

PointError = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a prediction and a target, of one shape, to an error in every point of it."""


def absolute(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """|error|."""
    return (value - target).abs()


def pinball(value: torch.Tensor, target: torch.Tensor, *, order: float) -> torch.Tensor:
    """Twice the quantile loss, so that the median's is the absolute error (Koenker and Bassett 1978).

    Args:
        value: predicted quantile.
        target: what came.
        order: of the quantile, in (0, 1).
    """
    error = target - value
    return 2 * torch.maximum(order * error, (order - 1) * error)


def cross_entropy(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of a logit with what came, 0 or 1, in nats."""
    return binary_cross_entropy_with_logits(value, target, reduction="none")


def point_error(settings: LossSettings) -> PointError:
    """The error that a loss is the mean of, where a head does not ask for another."""
    if settings.name == "mse":
        return partial(mse_loss, reduction="none")
    if settings.name == "huber":
        return partial(huber_loss, reduction="none", delta=settings.huber_delta)
    return absolute


def mean_error(
    error: PointError,
    value: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    points: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over the scored points; 0 where none is scored, as in a field without waves.

    Args:
        error: 0 where prediction and target are equal, if there is a mask.
        value: prediction, [B, H, W] or [B, C, H, W].
        target: of the same shape.
        mask: of the same shape, True where it is scored; everywhere without one.
        points: weights of the points, of mean 1, [H, 1] or [H, W]; all weigh the same without them.
    """
    if mask is None:
        found = error(value, target)
        return found.mean() if points is None else (found * points).mean()
    # A masked NaN must not reach the error: its gradient would be NaN even where it is multiplied by 0.
    found = error(value, torch.where(mask, target, value.detach()))
    if points is None:
        return found.sum() / mask.sum().clamp(min=1)
    weight = (mask * points).sum()
    return (found * points).sum() / weight.where(weight > 0, 1)
