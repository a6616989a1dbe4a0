"""Where the first number went missing: in the input states, on the way, in the target, or in the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import torch

from kit.data.dataset import Pair
from kit.train.task import StepLoss

__all__ = ["diagnose"]

_Suspect = tuple[str, int, tuple[datetime, ...], Mapping[str, torch.Tensor]]


def diagnose(where: str, pair: Pair, loss: StepLoss, steps: int, may_be_missing: frozenset[str]) -> str:
    """Say why a loss is not finite, and what to do about it.

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
        if bad:
            found = f"{kind} of {', '.join(bad)} for {_listed(times)} hold NaN or Inf"
            advice = "lower optim.lr" if kind == "prediction" else "check the data with: kit data qa"
            return f"{_at(where, step, steps)}: the loss is not finite; {found}; {advice}"
    return f"{_at(where, loss.step, steps)}: the loss is not finite for {_listed(loss.time)}; lower optim.lr"


def _suspects(pair: Pair, loss: StepLoss, may_be_missing: frozenset[str]) -> Iterator[_Suspect]:
    """Yield kind, roll-out step, times, and what is finite, of everything that made a loss, in order."""
    variables = pair.inputs.surf_vars | pair.inputs.atmos_vars
    inputs = _without({name: value.isfinite().all() for name, value in variables.items()}, may_be_missing)
    made = pair.inputs.metadata.rollout_step
    if made:
        # Items of a replay buffer hold the model's own predictions.
        yield "prediction", made, pair.inputs.metadata.time, inputs
    else:
        yield "input states", 1, loss.time, inputs
    for step, intermediate in enumerate(loss.before, start=1):
        yield "prediction", step, intermediate.time, _without(intermediate.finite, may_be_missing)
    yield "target", loss.step, loss.time, loss.target
    yield "prediction", loss.step, loss.time, loss.prediction


def _without(finite: Mapping[str, torch.Tensor], names: frozenset[str]) -> dict[str, torch.Tensor]:
    return {name: whole for name, whole in finite.items() if name not in names}


def _listed(times: tuple[datetime, ...]) -> str:
    return ", ".join(f"{time:%Y-%m-%dT%H:%M}" for time in times)


def _at(where: str, step: int, steps: int) -> str:
    return where if steps == 1 else f"{where}, roll-out step {step} of {steps}"
