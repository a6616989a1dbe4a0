"""Precipitation in a scorecard: by thresholds and in millimetres, beside persistence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kit.metrics.contingency import RainBoard, flattened
from kit.models.transforms import PRECIPITATION

__all__ = ["RainCard"]


class RainCard:
    """Scores of a model's precipitation, and of persistence: what fell in the step before falls again."""

    def __init__(self) -> None:
        self._model = RainBoard()
        self._persistence = RainBoard()

    def update(
        self,
        predicted: Mapping[str, torch.Tensor],
        target: Mapping[str, torch.Tensor],
        last: Mapping[str, torch.Tensor],
    ) -> None:
        """Add one batch.

        Args:
            predicted: physical values by variable where they are scored, [B, H, W] at the surface.
            target: what came.
            last: what was last observed.
        """
        names = [name for name in PRECIPITATION if name in target]
        observed = {name: target[name] for name in names}
        self._model.update({name: predicted[name] for name in names}, observed)
        self._persistence.update({name: last[name] for name in names}, observed)

    def results(self) -> dict[str, Any]:
        """``rain`` of a scorecard; nothing where there is no precipitation."""
        model = flattened(self._model.results())
        return {"rain": {"model": model, "persistence": flattened(self._persistence.results())}} if model else {}
