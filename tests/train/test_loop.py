"""When things happen in a run, in which order, and how it ends early."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch

from kit.run.callbacks import StopOnSignal
from kit.train.callback import Callback
from kit.train.loop import LoopState, Schedule, fit
from kit.train.optim import GradientNorms
from kit.train.trainer import StepReport, Validation


class Script(Callback):
    """Trainer, task and callback in one, that notes what is asked of it."""

    def __init__(self, losses: tuple[float, ...] = (), stop: StopOnSignal | None = None, stop_at: int = 0) -> None:
        self.events: list[str] = []
        self.task = self
        self.observers: list[Any] = []
        self._losses = iter((9.0, *losses))
        self._stop = stop
        self._stop_at = stop_at

    def batches(self, start: int) -> Iterator[Any]:
        return iter(range(start, 100))

    def valid_batches(self) -> list[Any]:
        return []

    def step(self, step: int, upcoming: Iterable[Any]) -> StepReport:
        batches = list(upcoming)
        self.events.append(f"step {step} on {batches}")
        if self._stop is not None and step == self._stop_at:
            self._stop.caught = signal.SIGTERM
        return StepReport(step, 1.0 / step, {}, GradientNorms(torch.tensor(0.0), {}), 0.1, len(batches), 0.0)

    def validate(self, _pairs: object) -> Validation:
        return Validation(next(self._losses), {})

    def on_step(self, report: StepReport, state: LoopState) -> None:
        assert report.step == state.step >= report.epoch >= report.wait_seconds >= 0

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:
        assert validation.parts == {}
        self.events.append(f"valid {state.step} {validation.loss:g}")
        if improved:
            self.events.append(f"best {state.step}")

    def on_checkpoint(self, state: LoopState) -> None:
        self.events.append(f"last {state.step}")


def run(
    script: Script, schedule: Schedule, state: LoopState | None = None, stop: StopOnSignal | None = None
) -> LoopState:
    state = state or LoopState()
    fit(script, schedule, state, [script, stop or StopOnSignal()])  # type: ignore[arg-type]
    return state


def test_validation_comes_before_the_checkpoint_of_its_step() -> None:
    script = Script(losses=(5.0, 6.0))
    state = run(script, Schedule(steps=4, per_epoch=2, accumulate=1, checkpoint_every=2))
    assert script.events == [
        "valid 0 9", "best 0", "step 1 on [0]", "step 2 on [1]", "valid 2 5", "best 2", "last 2",
        "step 3 on [2]", "step 4 on [3]", "valid 4 6", "last 4",
    ]  # fmt: skip
    assert (state.before, state.best, state.after) == (9.0, 5.0, 6.0)
    assert (state.first, state.latest, state.samples) == (1.0, 0.25, 4)


def test_the_end_is_validated_and_saved_wherever_it_falls() -> None:
    script = Script(losses=(5.0,))
    run(script, Schedule(steps=3, per_epoch=10, accumulate=1, checkpoint_every=10))
    assert script.events[-3:] == ["valid 3 5", "best 3", "last 3"]


def test_a_run_goes_on_with_the_batches_after_its_checkpoint() -> None:
    script = Script()
    next(script._losses)
    script._losses = iter((1.0,))
    state = LoopState(step=2, before=9.0, best=5.0, after=5.0)
    run(script, Schedule(steps=3, per_epoch=3, accumulate=2, checkpoint_every=3), state)
    assert script.events[0] == "step 3 on [4, 5]"
    assert state.before == 9.0


@pytest.mark.parametrize(("stop_at", "last"), ((1, "last 1"), (2, "last 2")))
def test_an_interruption_ends_after_the_step_with_one_checkpoint(stop_at: int, last: str) -> None:
    stop = StopOnSignal()
    script = Script(losses=(5.0,), stop=stop, stop_at=stop_at)
    run(script, Schedule(steps=9, per_epoch=9, accumulate=1, checkpoint_every=2), stop=stop)
    assert [event for event in script.events if event.startswith("last")] == [last]


def test_an_interruption_before_the_first_step_leaves_a_checkpoint_too() -> None:
    script, stopped = Script(), StopOnSignal()
    stopped.caught = signal.SIGINT
    run(script, Schedule(9, 9, 1, 2), stop=stopped)
    assert script.events == ["valid 0 9", "best 0", "last 0"]
