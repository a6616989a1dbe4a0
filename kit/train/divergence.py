"""The place where a loss stopped being finite: input states, steps on the way, target, or prediction."""

from collections.abc import Iterator, Mapping
from datetime import datetime

import torch

from kit.data.dataset import Pair
from kit.train.task import StepLoss

_Suspect = tuple[str, int, tuple[datetime, ...], Mapping[str, torch.Tensor]]


def diagnose(where: str, pair: Pair, loss: StepLoss, steps: int, may_be_missing: frozenset[str]) -> str:
    """Explain why a loss is not finite, and what to do about it.

    Args:
        where: Place in training, such as ``step 12``.
        pair: Batch that the loss is of.
        loss: Loss that is not finite.
        steps: Steps of the roll-out.
        may_be_missing: Variables whose values may be NaN by right, such as waves over land.

    Returns:
        A message without its subject, ready to be raised.
    """
    for kind, step, times, finite in _suspects(pair, loss, may_be_missing):
        bad = [name for name, whole in finite.items() if not whole]
        if not bad:
            continue
        advice = "check the data with: kit data qa"
        if kind == "prediction":
            advice = "lower optim.lr"
        found = f"{kind} of {', '.join(bad)} for {_listed(times)} hold NaN or Inf"
        return f"{_at(where, step, steps)}: the loss is not finite; {found}; {advice}"
    # All of it is finite, and its error is not: too large for the precision.
    return f"{_at(where, loss.step, steps)}: the loss is not finite for {_listed(loss.time)}; lower optim.lr"


def _suspects(pair: Pair, loss: StepLoss, may_be_missing: frozenset[str]) -> Iterator[_Suspect]:
    """Yield kind, roll-out step, times, and finiteness by variable, of everything that made a loss.

    In the order in which one is made of the other: the first that is not finite is the cause.
    """
    inputs: dict[str, torch.Tensor] = {}
    for name, value in (pair.inputs.surf_vars | pair.inputs.atmos_vars).items():
        if name not in may_be_missing:
            inputs[name] = value.isfinite().all()
    depth = pair.inputs.metadata.rollout_step
    if depth:
        # Items of a replay buffer hold the model's own predictions.
        yield "prediction", depth, pair.inputs.metadata.time, inputs
    else:
        yield "input states", 1, loss.time, inputs
    for step, intermediate in enumerate(loss.before, start=1):
        finite = dict(intermediate.finite)
        for name in may_be_missing & finite.keys():
            del finite[name]
        yield "prediction", step, intermediate.time, finite
    yield "target", loss.step, loss.time, loss.target
    yield "prediction", loss.step, loss.time, loss.prediction


def _listed(times: tuple[datetime, ...]) -> str:
    return ", ".join(f"{time:%Y-%m-%dT%H:%M}" for time in times)


def _at(where: str, step: int, steps: int) -> str:
    if steps == 1:
        return where
    return f"{where}, roll-out step {step} of {steps}"
