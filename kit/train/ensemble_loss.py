"""Continuous ranked probability score of ensemble members, point by point in training space.

Dimensions: M members, B batch, C level, H latitude, W longitude.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from kit.models.space import Fields
from kit.train.loss import FieldLoss, Loss
from kit.train.point_errors import PointError


class MemberScore(torch.autograd.Function):
    """CRPS of an ensemble as a function of one of its members.

    Almost fair (Lang et al. 2024, "AIFS-CRPS", arXiv 2412.15832, section 2): with e = (1 - alpha) / M,

        mean over members of |x - y|  -  (1 - e) / (2 M (M - 1)) x sum over pairs (both orders) of |x_j - x_k|,

    fair with alpha 1 (Ferro 2014, Q. J. R. Meteorol. Soc. 140), so that its expectation does not depend on M, and the
    score of the members' own step function with alpha 0. Fair alone, a member that leaves the others costs nothing as
    long as one stays at the truth.
    """

    @staticmethod
    def forward(
        ctx: Any, member: torch.Tensor, others: Sequence[torch.Tensor], target: torch.Tensor, alpha: float
    ) -> torch.Tensor:
        """Score, and keep the derivative: it has the size of one member, where autograd would keep every difference."""
        count = len(others) + 1
        spread = (1 - (1 - alpha) / count) / (count * (count - 1))
        error = member - target
        score = error.abs() / count
        slope = error.sign() / count
        for position, other in enumerate(others):
            score += (other - target).abs() / count
            apart = member - other
            score -= spread * apart.abs()
            slope -= spread * apart.sign()
            for later in others[position + 1 :]:
                score -= spread * (other - later).abs()
        ctx.save_for_backward(slope)
        return score

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Take the gradient for the member."""
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None, None


class EnsembleLoss(FieldLoss):
    """Mean of the CRPS in the place of the absolute error, weighted as the paper weighs that.

    Attributes:
        alpha: Share of the fair score, from 0 to 1.
    """

    alpha: float = 1.0
    _others: Sequence[Fields] = ()

    def of_member(self, member: Fields, others: Sequence[Fields], target: Fields, alpha: float) -> Loss:
        """Score an ensemble as a function of one of its members.

        Args:
            member: Fields whose gradient is taken.
            others: Fields of the other members, one at least; constants.
            target: Fields that came.
            alpha: Share of the fair score.
        """
        self.alpha, self._others = alpha, others
        try:
            return self(member, target)
        finally:
            self._others = ()

    def _error_of(self, name: str, level: int | None = None) -> PointError:
        others = []
        for fields in self._others:
            value = fields.surface[name] if name in fields.surface else fields.atmospheric[name]
            others.append((value if level is None else value[:, level]).detach())
        return partial(member_score, others=others, alpha=self.alpha)


def member_score(
    value: torch.Tensor, target: torch.Tensor, *, others: Sequence[torch.Tensor], alpha: float
) -> torch.Tensor:
    """Score an ensemble in every point, as a function of one member; the others stand.

    Args:
        value: The member, of any shape.
        target: What came, of the same shape.
        others: The other members, one at least, of the same shape.
        alpha: Share of the fair score, from 0 to 1.
    """
    score: torch.Tensor = MemberScore.apply(value, [other.to(target.dtype) for other in others], target, alpha)  # type: ignore[no-untyped-call]
    return score
