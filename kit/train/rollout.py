"""Roll-out in training: the model is graded on predictions that it made from its own predictions.

Push-forward (Brandstetter et al. 2022, "Message Passing Neural PDE Solvers"): no gradient flows from a step into the
one before it, so that memory is that of one step, and the model learns to go on from states as it makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import torch
from aurora import Batch

from kit.data.dataset import Pair, moved
from kit.models.space import Fields, TrainingSpace
from kit.train.loss import Criterion, Loss
from kit.train.settings import RolloutSettings

__all__ = ["Graded", "Observer", "Passed", "one_step", "roll_out"]

Observer = Callable[[Fields, Fields], None]
"""Looks at a graded step: the prediction and the target, in training space."""


@dataclass(frozen=True)
class Passed:
    """A step that was predicted on the way to a graded one.

    Attributes:
        time: predicted, of each sample.
        finite: for each variable that is read again, whether it is finite throughout; scalars on the device, unread
            as long as nothing goes wrong, so that nothing waits for them.
    """

    time: tuple[datetime, ...]
    finite: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Graded:
    """A step that has a loss. It holds no fields: those that the backward pass does not need are gone when it begins.

    Attributes:
        step: counted from 1.
        time: predicted, of each sample.
        prediction: for each output, whether it is finite throughout; scalars on the device, unread as those above.
        target: the same, where it is scored.
        loss: of this step alone.
        before: all steps before it.
    """

    step: int
    time: tuple[datetime, ...]
    prediction: Mapping[str, torch.Tensor]
    target: Mapping[str, torch.Tensor]
    loss: Loss
    before: tuple[Passed, ...]


def roll_out(
    space: TrainingSpace,
    grade: Criterion,
    pair: Pair,
    settings: RolloutSettings,
    device: torch.device,
    observe: Observer | None = None,
) -> Iterator[Graded]:
    """Predict step by step, each prediction becoming the newest input state, and grade.

    A graded step is handed over before the next one is predicted: whoever takes its gradient, and lets go of it,
    holds one graph at a time.

    Args:
        space: predicts.
        grade: compares a prediction with its target.
        pair: input states, and the target of every graded step.
        settings: how many steps, and which are graded.
        device: where it happens; states are moved there as they are needed.
        observe: looks at every graded step before it is handed over.
    """
    targets: dict[int, Batch] = dict(zip(settings.graded_steps, pair.targets, strict=True))
    state = moved(pair.inputs, device)
    before: tuple[Passed, ...] = ()
    for step in range(1, settings.steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and step in targets):
            fields, prediction = space.step(space.inputs(state))
        with torch.no_grad():
            state = space.advance(state, prediction)
        del prediction
        if step in targets:
            yield _graded(space, grade, step, fields, moved(targets[step], device), before, observe)
        del fields
        before = (*before, _passed(state))
    inputs = space.inputs(state)
    # States are as large as what is computed from them, and a generator keeps its names while it waits.
    del state
    fields = space.predict_fields(inputs, release=True)
    graded = _graded(space, grade, settings.steps, fields, moved(targets[settings.steps], device), before, observe)
    del fields
    yield graded


def one_step(
    space: TrainingSpace,
    grade: Criterion,
    pair: Pair,
    device: torch.device,
    take_back: Callable[[Batch], None] | None = None,
) -> Iterator[Graded]:
    """Grade one step of a roll-out that goes on at another time.

    Args:
        space: predicts.
        grade: compares a prediction with its target.
        pair: input states, which the model may have made itself, and the target of the next step.
        device: where it happens.
        take_back: given the next input states, on the host; None where nobody wants them.
    """
    inputs = space.inputs(moved(pair.inputs, device))
    fields, prediction = space.step(inputs, release=True)
    if take_back is not None:
        with torch.no_grad():
            # On the host, which has the older states: the device need neither keep nor return them.
            take_back(space.advance(pair.inputs.to("cpu"), prediction.to("cpu")))
    del inputs, prediction
    made = pair.inputs.metadata.rollout_step
    graded = _graded(space, grade, made + 1, fields, moved(pair.target, device), (), None)
    del fields
    yield graded


def _graded(
    space: TrainingSpace,
    grade: Criterion,
    step: int,
    fields: Fields,
    state: Batch,
    before: tuple[Passed, ...],
    observe: Observer | None,
) -> Graded:
    target, time = space.targets(state), state.metadata.time
    del state
    if observe is not None:
        observe(fields, target)
    predicted = _finite(fields.surface | fields.atmospheric)
    return Graded(step, time, predicted, _finite(_scored(target)), grade(fields, target), before)


def _passed(state: Batch) -> Passed:
    newest = {name: value[:, -1] for name, value in (state.surf_vars | state.atmos_vars).items()}
    return Passed(state.metadata.time, _finite(newest))


@torch.no_grad()
def _finite(variables: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.isfinite().all() for name, value in variables.items()}


def _scored(target: Fields) -> dict[str, torch.Tensor]:
    surface = {
        name: value.where(target.masks[name], 0) if name in target.masks else value
        for name, value in target.surface.items()
    }
    return surface | target.atmospheric
