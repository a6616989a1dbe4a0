"""The training loop: steps, validation, checkpoints, and the callbacks around them."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kit.data.dataset import Pair
from kit.data.loader import Upcoming, Waiting
from kit.train.callback import Callback
from kit.train.trainer import Trainer


@dataclass
class LoopState:
    """Where training is; part of the resume state.

    Attributes:
        step: Optimiser steps taken.
        before: Validation loss of the weights that training started from.
        after: Newest validation loss.
        best: Lowest validation loss.
        first: Training loss of the first step.
        latest: Training loss of the newest step.
        seconds: Time spent in steps, seconds, waiting for data included.
        wait_seconds: Time spent waiting for data, seconds.
        samples: Pairs trained on.
        averaged: Newest validation loss of the average of the weights, if one is kept.
        averaged_best: Lowest validation loss of that average.
        lowest: Lowest validation loss that an early end has seen.
        stale: Validations since then.
    """

    step: int = 0
    before: float | None = None
    after: float | None = None
    best: float | None = None
    first: float | None = None
    latest: float | None = None
    seconds: float = 0.0
    wait_seconds: float = 0.0
    samples: int = 0
    averaged: float | None = None
    averaged_best: float | None = None
    lowest: float | None = None
    stale: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Schedule:
    """Times of validation and checkpoints, in optimiser steps.

    Attributes:
        steps: Steps of the whole run.
        per_epoch: Steps in one pass over the training pairs.
        accumulate: Batches in a step.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int
    per_epoch: int
    accumulate: int
    checkpoint_every: int

    def validates(self, step: int) -> bool:
        """Return whether a validation follows this step: at the end of each epoch and of the run."""
        return step % self.per_epoch == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        """Return whether a checkpoint follows this step."""
        return step % self.checkpoint_every == 0 or step == self.steps


def fit(trainer: Trainer, schedule: Schedule, state: LoopState, callbacks: Sequence[Callback]) -> None:
    """Train from ``state.step`` to the end of the schedule, or until a callback wants to stop; updates ``state``.

    Args:
        trainer: Takes the steps, and validates.
        schedule: When to validate, and when training may be resumed from.
        state: Where training is.
        callbacks: Called around every step, in this order.

    Raises:
        DivergenceError: a loss or a gradient is not finite.
    """
    trainer.observers = [callback.on_prediction for callback in callbacks]
    if state.step == 0:
        # Until training improves on them, the weights that it started from are the best.
        _validate(trainer, state, callbacks)
    # A position in training is a count of batches: a resumed run reads on where the other would have.
    stream = Waiting(trainer.task.batches(state.step * schedule.accumulate))
    while state.step < schedule.steps and not _wants_to_stop(state, callbacks):
        _step(trainer, stream, schedule, state, callbacks)
        # Validation first: a checkpoint holds its loss.
        if schedule.validates(state.step):
            _validate(trainer, state, callbacks)
        if schedule.saves(state.step):
            _checkpoint(state, callbacks)
    # Ended between two checkpoints: the steps since the last one are not to be lost.
    if (state.step == 0 or not schedule.saves(state.step)) and _wants_to_stop(state, callbacks):
        _checkpoint(state, callbacks)


def _step(
    trainer: Trainer, stream: Waiting[Pair], schedule: Schedule, state: LoopState, callbacks: Sequence[Callback]
) -> None:
    started, waited = time.perf_counter(), stream.seconds
    report = trainer.step(state.step + 1, Upcoming(stream, schedule.accumulate))
    waited = stream.seconds - waited
    # The trainer asks for batches while it steps, and cannot tell that wait from work.
    report = replace(
        report,
        compute_seconds=report.compute_seconds - waited,
        wait_seconds=waited,
        epoch=report.step / schedule.per_epoch,
    )
    state.step = report.step
    state.latest = report.loss
    if state.first is None:
        state.first = report.loss
    state.samples += report.samples
    state.wait_seconds += report.wait_seconds
    for callback in callbacks:
        callback.on_step(report, state)
    # Recording is part of a step's time, because a user waits for it.
    state.seconds += time.perf_counter() - started


def _validate(trainer: Trainer, state: LoopState, callbacks: Sequence[Callback]) -> None:
    validation = trainer.validate(trainer.task.valid_batches())
    if state.before is None:
        state.before = validation.loss
    state.after = validation.loss
    improved = state.best is None or validation.loss < state.best
    if improved:
        state.best = validation.loss
    for callback in callbacks:
        callback.on_validation(validation, state, improved=improved)


def _checkpoint(state: LoopState, callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        callback.on_checkpoint(state)


def _wants_to_stop(state: LoopState, callbacks: Sequence[Callback]) -> bool:
    return any(callback.wants_to_stop(state) for callback in callbacks)
