"""Forecasts that cost nothing: what a model has to beat.

Dimensions: B batch, T history, C level, H latitude, W longitude.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["persistence"]


def persistence(history: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Forecast that nothing changes: the last input state, at every lead time.

    Args:
        history: Input states by variable, the last being the initial time: [B, T, H, W] or [B, T, C, H, W].

    Returns:
        Views of the last state, [B, H, W] or [B, C, H, W].

    Raises:
        ValueError: a variable has no history dimension; names it and its shape.
    """
    for name, states in history.items():
        if states.ndim not in (4, 5) or states.shape[1] == 0:
            msg = f"{name}: expected a history [B, T, H, W] or [B, T, C, H, W] with T > 0, got {list(states.shape)}"
            raise ValueError(msg)
    return {name: states[:, -1] for name, states in history.items()}
