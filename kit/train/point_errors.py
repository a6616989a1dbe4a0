"""Errors point by point, in training space, and their means.

Dimensions: B batch, C level, H latitude, W longitude.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, mse_loss

from kit.train.settings import LossSettings

PointError = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From a prediction and a target, of one shape, to an error in every point of it."""


def absolute(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Take the absolute error."""
    return (value - target).abs()


def pinball(value: torch.Tensor, target: torch.Tensor, *, order: float) -> torch.Tensor:
    """Take twice the quantile loss, so that the median's is the absolute error (Koenker and Bassett 1978).

    Args:
        value: Predicted quantile.
        target: Value that came.
        order: Order of the quantile, in (0, 1).
    """
    error = target - value
    return 2 * torch.maximum(order * error, (order - 1) * error)


def cross_entropy(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Take the binary cross-entropy of a logit with an event, 0 or 1, in nats."""
    return binary_cross_entropy_with_logits(value, target, reduction="none")


def point_error(settings: LossSettings) -> PointError:
    """Choose the error that a loss is the mean of, where a head does not ask for another."""
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
    """Take the mean error over the scored points; 0 where none is scored, as in a field without waves.

    Args:
        error: Error of a point.
        value: Prediction, [B, H, W] or [B, C, H, W].
        target: Target, of the same shape.
        mask: Points that are scored, True, of the same shape; None for all.
        points: Weights of the points, of mean 1, [H, 1] or [H, W]; None for equal ones.
    """
    # Version 1.5 decodes in half precision under autocast, where targets are fp32; not all errors take the two.
    value = value.to(target.dtype)
    if mask is None:
        found = error(value, target)
        if points is not None:
            found = found * points
        return found.mean()
    # A masked NaN must not reach the error: its gradient would be NaN even where it is multiplied by 0.
    found = error(value, torch.where(mask, target, value.detach()))
    # Scores of several members are not 0 where one of them is compared with itself.
    found = torch.where(mask, found, 0)
    if points is not None:
        found = found * points
    weight = weight_of(mask, points)
    # 1 where nothing is scored: 0 / 0 would be NaN.
    return found.sum() / weight.where(weight > 0, 1)


def weight_of(mask: torch.Tensor, points: torch.Tensor | None) -> torch.Tensor:
    """Add up the weights of the points of a mask, by default 1 each."""
    if points is None:
        return mask.sum()
    return (mask * points).sum()
