"""Roll-outs: predictions step by step, and the checks that each of them goes through."""

from collections.abc import Iterator
from typing import Protocol

from aurora import Batch

from kit.forecasting.predictor import ForecastSpace
from kit.io.errors import CheckpointError, KitError


class Interference(Protocol):
    """What happens to states and predictions on the way."""

    def before(self, state: Batch, step: int) -> Batch:
        """Change the states that a step, counted from 0, is made from."""

    def after(self, prediction: Batch, state: Batch, step: int) -> Batch:
        """Change what a step predicted, under upstream's names."""


def roll_out(
    space: ForecastSpace, state: Batch, steps: int, interference: Interference | None = None
) -> Iterator[Batch]:
    """Predict step by step, each prediction becoming the newest input state.

    Args:
        space: Model that predicts.
        state: Physical variables of the input states, [B, T, H, W] and [B, T, C, H, W].
        steps: Number of model steps.
        interference: Changes states and predictions; None for nothing.

    Yields:
        Physical variables under a store's names, [B, 1, H, W] and [B, 1, C, H, W], on the model's device.

    Raises:
        CheckpointError: the model does not predict all that it reads, so that there is no second step.
    """
    state = state.to(next(space.model.parameters()).device)
    for step in range(1, steps + 1):
        if interference is not None:
            state = interference.before(state, step - 1)
        _, prediction = space.step(space.inputs(state))
        if interference is not None:
            prediction = interference.after(prediction, state, step - 1)
        if step < steps:
            try:
                state = space.advance(state, prediction)
            except KitError:
                raise
            except ValueError as error:
                msg = f"the forecast cannot go on after step {step}: {error}. Ask for no more, with --steps {step}"
                raise CheckpointError(msg) from error
        # Under a store's names the wave model's wind has lost what the next step reads, so that the state above is
        # made of upstream's.
        yield space.physical(prediction)


def check_prediction(prediction: Batch, space: ForecastSpace, step: int, member: str) -> None:
    """Check that a prediction is finite.

    Args:
        prediction: Physical variables under a store's names.
        space: Model that made it.
        step: Model steps from the initial state on.
        member: Name of the member; empty where there is one.

    Raises:
        CheckpointError: names step and variables.
    """
    whose = f" of {member}" if member else ""
    lead = f"step {step} (+{step * space.spec.lead_hours:g} h, valid {valid_time(prediction)})"
    check_finite(prediction, space, f"the forecast{whose} breaks down at {lead}: the prediction")


def check_finite(batch: Batch, space: ForecastSpace, what: str) -> None:
    """Check that everything that should be a number is one.

    Raises:
        CheckpointError: names the variables.
    """
    bad = []
    for name, value in (batch.surf_vars | batch.atmos_vars).items():
        # Waves are absent over land by design.
        if name not in space.may_be_missing and not value.isfinite().all():
            bad.append(name)
    if bad:
        msg = f"{what} holds NaN or Inf in {', '.join(bad)}; nothing was written"
        raise CheckpointError(msg)


def valid_time(batch: Batch) -> str:
    """Write the time of a batch's first sample."""
    return f"{batch.metadata.time[0]:%Y-%m-%dT%H:%M}"
