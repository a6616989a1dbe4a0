"""Scores of precipitation while a run is validated, from predictions that are made for the loss anyway."""

from __future__ import annotations

from aurora import Batch

from kit.metrics.contingency import RainBoard, flattened
from kit.models.space import Fields, TrainingSpace

__all__ = ["RainWatch"]


class RainWatch:
    """Looks at graded steps, and scores what they predict of precipitation."""

    def __init__(self, space: TrainingSpace) -> None:
        self._space = space
        self._board = RainBoard()

    def begin(self) -> None:
        """Forget what was seen."""
        self._board = RainBoard()

    def see(self, fields: Fields, target: Batch) -> None:
        """Take in a graded step.

        Args:
            fields: predicted, in training space.
            target: physical variables of the same time.
        """
        predicted = self._space.rain(fields)
        if predicted:
            shape = next(iter(predicted.values())).shape
            self._board.update(predicted, {name: target.surf_vars[name][:, 0, : shape[-2]] for name in predicted})

    def scores(self) -> dict[str, float]:
        """Metrics by name, such as ``tp_csi_1mm``; empty where the model predicts no precipitation."""
        return flattened(self._board.results())
