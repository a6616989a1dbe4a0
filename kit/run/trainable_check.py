"""What trains, as a run records it: the report from before the first step, and the check that it came true."""

from collections.abc import Callable
from typing import Any

from kit.adapt.trainable_report import GroupSchedule, report
from kit.checkpoint.run_folder import RunFolder
from kit.io.documents import read_json
from kit.models.space import Fields
from kit.train.callback import Callback
from kit.train.loop import LoopState
from kit.train.trainer import StepReport, Trainer


class TrainableCheck(Callback):
    """Reports what trains, and checks after some steps, and at the end, that all of it does.

    Args:
        trainer: Trainer of the run, with what trains.
        folder: Folder of the run, where ``trains.json`` is written.
        steps: Optimiser steps of the whole run.
        after: Steps after which to check; None for never.

    Attributes:
        report: Table of what trains.
        say: Called with the verdict.
    """

    def __init__(self, trainer: Trainer, folder: RunFolder, steps: int, after: int | None) -> None:
        groups = trainer.updater.groups
        schedules: dict[str, GroupSchedule] = {}
        for group in groups:
            schedule = GroupSchedule(group.settings.peak, group.settings.weight_decay)
            schedules |= dict.fromkeys(group.parameters, schedule)
        self.report = report(trainer.space.model, schedules, trainer.trained.new)
        self.say: Callable[[str], None] = lambda _: None
        self._folder = folder
        self._check = trainer.check
        self._warmup = max(group.settings.warmup for group in groups)
        self._steps = steps
        self._after = after

    def params(self) -> dict[str, Any]:
        """Return what a tracking store shows of it."""
        return {"parameters": self.report.trains, "of": self.report.parameters, "share": self.report.share}

    def begin(self, step: int, state: dict[str, Any] | None) -> None:
        """Write the report, and note what the weights are.

        Args:
            step: Step that training resumes after; 0 at the start.
            state: State of the check in the checkpoint that training resumes from, if it has one.
        """
        written = self.report.as_dict()
        if state is not None:
            earlier = read_json(self._folder.trains)
            if "check" in earlier:
                written["check"] = earlier["check"]
        self._folder.write_trains(written)
        if self._check is None:
            return
        if state is None:
            self._check.begin(step)
        else:
            self._check.load_state_dict(state)

    def on_prediction(self, prediction: Fields, target: Fields) -> None:  # noqa: ARG002
        """Note which targets are there: what has none gets no gradient, and need not move."""
        if self._check is not None:
            self._check.see(target)

    def on_step(self, report: StepReport, state: LoopState) -> None:  # noqa: ARG002
        """Check where it is time to.

        Raises:
            UntrainedError: something that was to train does not, or something else has changed.
        """
        check, step = self._check, report.step
        if check is None or self._after is None:
            return
        final = step == self._steps
        if not final and not (check.watching and step >= check.due(self._after)):
            return
        verdict = check.judge(step, warmup=self._warmup, final=final)
        self._folder.write_trains({**self.report.as_dict(), "check": verdict.as_dict()})
        self.say(verdict.text())

    def state_dict(self) -> dict[str, Any] | None:
        """Return what a resumed run needs to go on checking."""
        if self._check is None:
            return None
        return self._check.state_dict()
