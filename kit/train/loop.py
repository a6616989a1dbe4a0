"""The training loop: steps, validation, checkpoints, and a clean end when asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any, Protocol

from kit.data.dataset import Pair
from kit.data.loader import Upcoming, Waiting
from kit.train.trainer import StepReport, Trainer

__all__ = ["Interruption", "LoopState", "Recorder", "Schedule", "fit", "watch_signals"]


class Recorder(Protocol):
    """Takes what the loop has to tell."""

    def train(self, report: StepReport, *, epoch: float, wait_seconds: float) -> None:
        """One optimiser step."""

    def valid(self, step: int, loss: float, parts: Mapping[str, float]) -> None:
        """One pass over the validation pairs."""


class Saver(Protocol):
    """Writes checkpoints."""

    def best(self, state: LoopState) -> None:
        """The weights with the lowest validation loss so far."""

    def last(self, state: LoopState) -> None:
        """The weights, and what training needs to go on."""


@dataclass
class LoopState:
    """Where training is; part of the resume state.

    Attributes:
        step: optimiser steps taken.
        before: validation loss of the weights that training started from.
        after: newest validation loss.
        best: lowest validation loss.
        first: training loss of the first step.
        latest: training loss of the newest step.
        seconds: spent in steps, waiting for data included.
        wait_seconds: spent waiting for data.
        samples: pairs trained on.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Schedule:
    """When things happen, in optimiser steps.

    Attributes:
        steps: of the whole run.
        per_epoch: in one pass over the training pairs.
        accumulate: batches in a step.
        checkpoint_every: between checkpoints.
    """

    steps: int
    per_epoch: int
    accumulate: int
    checkpoint_every: int

    def validates(self, step: int) -> bool:
        """Whether a validation follows this step: at the end of each epoch and of the run."""
        return step % self.per_epoch == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""
        return step % self.checkpoint_every == 0 or step == self.steps


@dataclass
class Interruption:
    """The signal that asked the loop to stop, if one did."""

    caught: signal.Signals | None = None


@contextmanager
def watch_signals(tell: Callable[[str], None] | None = None) -> Iterator[Interruption]:
    """Note Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes, instead of dying of them.

    The first one asks for an end; a Ctrl-C after it acts as usual. Further ones of the others change nothing: queues
    and terminals send several, and who means it has SIGKILL. What is ignored, as under ``nohup``, stays so.

    Args:
        tell: is told, in a thread, what will happen.
    """
    interruption = Interruption()
    asks = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: handler for number in asks if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    def note(number: int, _frame: FrameType | None) -> None:
        if interruption.caught is not None:
            return
        interruption.caught = signal.Signals(number)
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if tell is not None:
            # Not here: the signal may have come in the middle of a write to the same stream.
            text = f"{interruption.caught.name}: ends after this step with a checkpoint; Ctrl-C ends it at once"
            threading.Thread(target=tell, args=(text,), daemon=True).start()

    try:
        for number in before:
            signal.signal(number, note)
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(
    trainer: Trainer,
    batches: Callable[[int], Iterable[Pair]],
    valid: Iterable[Pair],
    schedule: Schedule,
    state: LoopState,
    recorder: Recorder,
    saver: Saver,
    interruption: Interruption,
) -> None:
    """Train from ``state.step`` to the end of the schedule, or until interrupted; updates ``state``.

    Args:
        trainer: takes the steps.
        batches: gives the training batches from a position on, counted in batches from the start of training.
        valid: the validation batches.
        schedule: when to validate and save.
        state: where to begin.
        recorder: told of every step and validation.
        saver: writes checkpoints, always after the validation of the same step.
        interruption: looked at after every step.
    """
    if state.step == 0:
        state.before, parts = trainer.validate(valid)
        recorder.valid(0, state.before, parts)
        state.best = state.after = state.before
        # Until training improves on them, the weights that it started from are the best.
        saver.best(state)
    stream = Waiting(batches(state.step * schedule.accumulate))
    while state.step < schedule.steps and interruption.caught is None:
        _step(trainer, stream, schedule, state, recorder)
        if schedule.validates(state.step):
            _validate(trainer, valid, state, recorder, saver)
        if schedule.saves(state.step):
            saver.last(state)
    if interruption.caught is not None and (state.step == 0 or not schedule.saves(state.step)):
        saver.last(state)


def _step(trainer: Trainer, stream: Waiting[Pair], schedule: Schedule, state: LoopState, recorder: Recorder) -> None:
    started, waited = time.perf_counter(), stream.seconds
    report = trainer.step(state.step + 1, Upcoming(stream, schedule.accumulate))
    waited = stream.seconds - waited
    report = replace(report, compute_seconds=report.compute_seconds - waited)
    state.step = report.step
    state.latest = report.loss
    state.first = report.loss if state.first is None else state.first
    state.samples += report.samples
    state.wait_seconds += waited
    recorder.train(report, epoch=state.step / schedule.per_epoch, wait_seconds=waited)
    state.seconds += time.perf_counter() - started


def _validate(trainer: Trainer, valid: Iterable[Pair], state: LoopState, recorder: Recorder, saver: Saver) -> None:
    state.after, parts = trainer.validate(valid)
    recorder.valid(state.step, state.after, parts)
    if state.best is None or state.after < state.best:
        state.best = state.after
        saver.best(state)
