"""Scores of precipitation while a run is validated, from predictions that are made for the loss anyway."""

from __future__ import annotations

from kit.metrics.precipitation import RainBoard, flattened
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

    def see(self, fields: Fields, target: Fields) -> None:
        """Take in a graded step: prediction and target in training space."""
        self._board.update(self._space.rain(fields), self._space.rain(target, observed=True))

    def scores(self) -> dict[str, float]:
        """Metrics by name, such as ``tp_csi_1mm``; empty where the model predicts no precipitation."""
        return flattened(self._board.results())
