"""What trains, as a run records it: the report from before the first step, and the checks that it came true."""

from __future__ import annotations

import json
from typing import Any

from kit.adapt.trainable_report import Pace, report
from kit.adapt.training_check import TrainingCheck, Verdict
from kit.checkpoint.run_folder import RunFolder
from kit.models.space import Fields
from kit.train.loss import Criterion, Loss
from kit.train.trainer import Trainer

__all__ = ["Seen", "WhatTrains"]


class Seen:
    """A loss, of which a check sees what it is taken against."""

    def __init__(self, loss: Criterion, check: TrainingCheck) -> None:
        self._loss = loss
        self._check = check

    def __call__(self, prediction: Fields, target: Fields) -> Loss:
        """Compare them."""
        self._check.see(target)
        return self._loss(prediction, target)


class WhatTrains:
    """The report and the check of a run.

    Args:
        trainer: with what trains, and the check if there is to be one.
        steps: of the whole run.
        after: steps after which to check.

    Attributes:
        report: what trains.
    """

    def __init__(self, trainer: Trainer, steps: int, after: int | None) -> None:
        groups = trainer.updater.groups
        paces = {
            name: Pace(group.settings.peak, group.settings.weight_decay)
            for group in groups
            for name in group.parameters
        }
        self.report = report(trainer.space.model, paces, trainer.trained.new)
        self._check: TrainingCheck | None = trainer.check
        self._warmup = max(group.settings.warmup for group in groups)
        self._steps = steps
        self._after = after
        self._verdict: Verdict | None = None

    def params(self) -> dict[str, Any]:
        """What a tracking store is told of it."""
        return {"parameters": self.report.trains, "of": self.report.parameters, "share": self.report.share}

    def begin(self, folder: RunFolder, step: int, state: dict[str, Any] | None) -> None:
        """Write the report, and note what the weights are.

        Args:
            folder: of the run.
            step: after which the run goes on.
            state: of the check, if the run goes on with one.
        """
        earlier = json.loads(folder.trains.read_text(encoding="utf-8")) if state is not None else {}
        folder.write_trains({**self.report.as_dict(), **{key: earlier[key] for key in ("check",) if key in earlier}})
        if self._check is not None and state is not None:
            self._check.load_state_dict(state)
        elif self._check is not None:
            self._check.begin(step)

    def after_step(self, folder: RunFolder, step: int) -> Verdict | None:
        """Check where it is time to.

        Raises:
            UntrainedError: something that was to train does not, or something else has changed.
        """
        check, final = self._check, step == self._steps
        if check is None or self._after is None:
            return None
        if not final and not (check.watching and step >= check.due(self._after)):
            return None
        verdict = check.judge(step, warmup=self._warmup, final=final)
        folder.write_trains({**self.report.as_dict(), "check": verdict.as_dict()})
        return verdict

    def state_dict(self) -> dict[str, Any] | None:
        """What a resumed run needs to go on checking."""
        return None if self._check is None else self._check.state_dict()
