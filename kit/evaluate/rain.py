"""Precipitation in a scorecard: by thresholds and in millimetres, beside persistence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kit.data.pairs import Pairs
from kit.metrics.contingency import RainBoard, flattened
from kit.models.transforms import PRECIPITATION

__all__ = ["RainCard"]


class RainCard:
    """Scores of a model's precipitation, and of persistence: what fell in the step before falls again."""

    def __init__(self) -> None:
        self._model = RainBoard()
        self._persistence = RainBoard()
        self._samples = 0

    def update(
        self,
        predicted: Mapping[str, torch.Tensor],
        target: Mapping[str, torch.Tensor],
        last: Mapping[str, torch.Tensor],
        pairs: Pairs,
    ) -> None:
        """Add one batch; they come in order of time.

        Args:
            predicted: physical values by variable where they are scored, [B, H, W] at the surface.
            target: what came.
            last: the newest input state; what is never read is not in it.
            pairs: where they come from.
        """
        names = [name for name in PRECIPITATION if name in target]
        observed = {name: target[name] for name in names}
        self._model.update({name: predicted[name] for name in names}, observed)
        first, self._samples = self._samples, self._samples + len(next(iter(target.values())))
        batch = range(first, self._samples)
        rows, columns = pairs.selection.grid.window or (slice(None), slice(None))
        before = {
            name: last[name] if name in last else pairs.newest(name, batch)[..., rows, columns].to(target[name])
            for name in names
        }
        self._persistence.update(before, observed)

    def results(self) -> dict[str, Any]:
        """``rain`` of a scorecard; nothing where there is no precipitation."""
        model = flattened(self._model.results())
        return {"rain": {"model": model, "persistence": flattened(self._persistence.results())}} if model else {}
