"""What fine-tuning did to what the weights could do before."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kit.metrics.scores import Scores

__all__ = ["forgetting"]


def forgetting(after: Mapping[str, Scores], before: Mapping[str, Scores]) -> dict[str, dict[str, float | None]]:
    """Compare errors with those of the weights that training started from, on the same samples.

    Args:
        after: scores of the checkpoint, by variable and level.
        before: scores of the base weights; what they cannot predict is not among them.

    Returns:
        For each variable and level that both predict ``before`` and ``after``, the RMSE in its unit, and ``change``,
        the relative change: above 0 it got worse. None where there is no such number.
    """
    return {key: _change(before[key].rmse, score.rmse) for key, score in after.items() if key in before}


def _change(before: float, after: float) -> dict[str, float | None]:
    change = after / before - 1 if before else math.nan
    row = {"before": before, "after": after, "change": change}
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
