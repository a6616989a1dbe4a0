"""Callbacks that use validation: an average of the weights that is validated and saved, and an early end."""

from collections.abc import Callable

from kit.checkpoint.run_folder import RunFolder
from kit.run.callbacks import Recorder, Saver
from kit.train.average import WeightAverage
from kit.train.callback import Callback
from kit.train.loop import LoopState
from kit.train.trainer import StepReport, Trainer, Validation


class AverageSaver(Callback):
    """Keeps the average of the weights, validates it too, and writes ``checkpoints/ema`` where it is the best so far.

    Args:
        trainer: Validates.
        average: Average of what the trainer trains.
        folder: Folder of the run.
        recorder: Records the average's validations, as of the kind ``ema``.
        saver: Writes checkpoints.
    """

    def __init__(
        self, trainer: Trainer, average: WeightAverage, folder: RunFolder, recorder: Recorder, saver: Saver
    ) -> None:
        self._trainer = trainer
        self._average = average
        self._folder = folder
        self._recorder = recorder
        self._saver = saver

    def on_step(self, report: StepReport, state: LoopState) -> None:  # noqa: ARG002
        """Move the average."""
        self._average.update(report.step)

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:  # noqa: ARG002
        """Validate the average, over the same batches."""
        if state.step == 0:
            # Both are what training starts from.
            averaged = validation
        else:
            with self._average.in_place():
                averaged = self._trainer.validate(self._trainer.task.valid_batches())
        self._recorder.record_validation("ema", averaged, state)
        state.averaged = averaged.loss
        if state.averaged_best is None or averaged.loss < state.averaged_best:
            state.averaged_best = averaged.loss
            with self._average.in_place():
                self._saver.write(self._folder.ema, state, averaged=True)


class EarlyStop(Callback):
    """Ends training once validation has not found a lower loss for a while; that of the average, where there is one.

    Args:
        patience: Validations in a row without a lower loss, after which training ends.
        say: Called with the verdict.
    """

    def __init__(self, patience: int, say: Callable[[str], None]) -> None:
        self._patience = patience
        self._say = say

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:  # noqa: ARG002
        """Count validations without a lower loss."""
        loss = validation.loss if state.averaged is None else state.averaged
        state.stale += 1
        if state.lowest is None or loss < state.lowest:
            state.lowest = loss
            state.stale = 0
        if state.stale == self._patience:
            self._say(f"step {state.step}: no lower validation loss in {self._patience} validations; training ends")

    def wants_to_stop(self, state: LoopState) -> bool:
        """Whether patience has come to its end."""
        return state.stale >= self._patience
