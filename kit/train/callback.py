"""What happens around training steps: the hooks that the loop calls, in the order in which callbacks are given.

Recording, saving, showing, checking that everything trains and stopping on a signal are callbacks (``kit.run``); the
loop knows none of them by type. A callback overrides the hooks that it needs; every other one does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.models.space import Fields
    from kit.train.loop import LoopState
    from kit.train.trainer import StepReport, Validation


class Callback:
    """Hooks around training; those that a callback does not override do nothing."""

    def on_prediction(self, prediction: Fields, target: Fields) -> None:
        """Look at a prediction and its target, both in training space, before the loss is taken.

        Called in training and in validation alike, once for each loss. Holding on to the fields keeps the graph of
        the step in memory.
        """

    def on_step(self, report: StepReport, state: LoopState) -> None:
        """Act after an optimiser step; ``state`` counts it already."""

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:
        """Act after a pass over the validation pairs.

        Args:
            validation: Mean loss, its parts, and scores.
            state: State of the loop, with this loss in it.
            improved: Whether the loss is the lowest so far; the first one of a run always is.
        """

    def on_checkpoint(self, state: LoopState) -> None:
        """Act where training may be resumed from, always after the validation of the same step."""

    def wants_to_stop(self, state: LoopState) -> bool:  # noqa: ARG002
        """Whether training should end after this step."""
        return False
