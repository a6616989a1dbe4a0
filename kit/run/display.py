"""Progress of training, as people see it: on a terminal, in a notebook, in a log of a queue."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kit.io.terminal import duration, error_console
from kit.memory.device import peak_memory_gib
from kit.train.callback import Callback
from kit.train.loop import LoopState
from kit.train.trainer import StepReport, Validation

_logger = logging.getLogger(__name__)

_LOG_EVERY = 10.0
"""Seconds between progress lines where there is no terminal."""


class ProgressView(Protocol):
    """Shows a person how training goes."""

    def update(self, *, step: int, loss: float, step_seconds: float, memory_gib: float | None = None) -> None:
        """Show one optimiser step."""

    def say(self, text: str) -> None:
        """Show a line of text."""


class OpenProgress(Protocol):
    """Opens a view of a run of so many steps, some of them taken before."""

    def __call__(self, total_steps: int, completed: int = 0) -> AbstractContextManager[ProgressView]:
        """Show progress while the block runs."""


class TrainingProgress:
    """Shows where training is: a bar on a terminal, a line now and then elsewhere, notebooks among them."""

    def __init__(self, total_steps: int, out: Console, bar: Progress | None) -> None:
        self._total = total_steps
        self._out = out
        self._bar = bar
        self._task = None if bar is None else bar.add_task("training", total=total_steps, facts="")
        self._printed = -math.inf
        self._seconds: float | None = None

    def update(self, *, step: int, loss: float, step_seconds: float, memory_gib: float | None = None) -> None:
        """Show one optimiser step.

        Args:
            step: Steps taken so far.
            loss: Training loss of this step.
            step_seconds: Duration of the step, seconds; shown, and used for the time left, as a running mean.
            memory_gib: Peak memory, GiB, if known.
        """
        self._seconds = step_seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * step_seconds
        facts = f"loss {loss:.4f}  {self._seconds:.3g} s/step"
        if memory_gib is not None:
            facts += f"  {memory_gib:.2f} GiB"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, facts=facts)
            return
        now = time.monotonic()
        if step == self._total or now - self._printed >= _LOG_EVERY:
            self._printed = now
            left = duration((self._total - step) * self._seconds)
            self._out.print(f"step {step}/{self._total}  {facts}  {left} left", soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        out = self._out if self._bar is None else self._bar.console
        out.print(escape(text), soft_wrap=True)


@contextmanager
def training_progress(total_steps: int, completed: int = 0) -> Iterator[TrainingProgress]:
    """Show the progress of training while the block runs.

    Args:
        total_steps: Optimiser steps of the whole run.
        completed: Steps taken before, by the run that this one resumes.
    """
    out = error_console()
    if not out.is_terminal:
        yield TrainingProgress(total_steps, out, None)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=out) as bar:
        progress = TrainingProgress(total_steps, out, bar)
        bar.update(bar.task_ids[0], completed=completed)
        yield progress


class Display(Callback):
    """Shows steps and validations, and says what else a person should know.

    Args:
        view: Shows progress.
        device: Device of the model, whose peak memory is shown.
    """

    def __init__(self, view: ProgressView, device: torch.device) -> None:
        self._view = view
        self._device = device

    def on_step(self, report: StepReport, state: LoopState) -> None:  # noqa: ARG002
        """Show the step."""
        seconds = report.compute_seconds + report.wait_seconds
        memory = peak_memory_gib(self._device)
        self._view.update(step=report.step, loss=report.loss, step_seconds=seconds, memory_gib=memory)

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:  # noqa: ARG002
        """Say what validation came to."""
        self.say(f"validation after step {state.step}: loss {validation.loss:.4f}")

    def say(self, text: str) -> None:
        """Show a line, and log it."""
        _logger.info(text)
        self._view.say(text)
