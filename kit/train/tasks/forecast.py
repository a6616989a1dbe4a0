"""Forecasting: the loss of predictions that the model makes from the data and from its own predictions.

Push-forward (Brandstetter et al. 2022, "Message Passing Neural PDE Solvers"): no gradient flows from a step into the
one before it, so that memory is that of one step, and the model learns to go on from states as it makes them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime

import torch
from aurora import Batch

from kit.adapt.latent import LatentSpace
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pair, moved
from kit.metrics.precipitation import RainBoard, flattened
from kit.models.noise import NamedNoise
from kit.models.prediction import predicting
from kit.models.space import Fields, TrainingSpace
from kit.models.variants import Precision
from kit.train.loss import FieldLoss, Loss, Scored
from kit.train.settings import RolloutSettings
from kit.train.task import Batches, IntermediateStep, Observer, StepLoss, finite_fields, unobserved
from kit.train.tasks.pairs import PairsTask, TaskData


class ForecastTask(PairsTask):
    """Predict one or several steps ahead, and compare with the data.

    Args:
        space: The model, and the space that losses are taken in.
        loss_fn: Compares a prediction with its target.
        rollout: Steps that are predicted, and which of them have a loss.
        data: Pairs of the run; None where steps are taken on batches from elsewhere, as in plans.
    """

    def __init__(
        self, space: TrainingSpace, loss_fn: FieldLoss, rollout: RolloutSettings, data: TaskData | None = None
    ) -> None:
        super().__init__(data)
        self.space = space
        self.loss_fn = loss_fn
        self.steps = rollout.steps
        self.losses_per_batch = len(rollout.loss_steps)
        self.rollout = rollout
        self._device = next(space.model.parameters()).device
        self._rain = RainBoard()
        if space.spec.stochastic:
            note = (
                "warning: the model reads noise, and a loss of single predictions teaches it to say the same whatever "
                "the noise; --task.name crps trains members together"
            )
            self.notes = (note,)

    def losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the losses of a training batch, one for each step of the roll-out that has one."""
        return roll_out(self.space, self.loss_fn, batch, self.rollout, self._device, observe)

    @torch.no_grad()
    def look_ahead(self, batches: Batches) -> tuple[Batches, Scored | None]:
        """Count the points that all batches of a step score, where the model leaves points out."""
        if not self.space.spec.leaves_points_out:
            return batches, None
        # Targets alone say where losses are taken. All batches wait on the host until their turn comes.
        read, whole = list(batches), Scored(0, {})
        for pair in read:
            for target in pair.targets:
                surface = moved(dataclasses.replace(target, atmos_vars={}), self._device)
                whole += self.loss_fn.scored(self.space.targets(surface))
        return read, whole

    def valid_losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the losses of a validation batch, and score its precipitation if there is any."""

        def score(prediction: Fields, target: Fields) -> None:
            observe(prediction, target)
            self._rain.update(self.space.rain(prediction), self.space.rain(target, observed=True))

        return roll_out(self.space, self.loss_fn, batch, self.rollout.validated, self._device, score)

    def scores(self) -> dict[str, float]:
        """Return scores of precipitation since the last call, such as ``tp_csi_1mm``; empty where there is none."""
        # Contingency tables add up over samples; scores are taken of the sums.
        results = flattened(self._rain.results())
        self._rain = RainBoard()
        return results

    def predicting(self, precision: Precision | None, noise: NamedNoise) -> AbstractContextManager[None]:
        """Have the model predict in a precision, with noise of its own, while the block runs."""
        return predicting(self.space, precision, noise)


class LatentTask(ForecastTask):
    """Predict one step ahead by light decoders on the latents of a frozen trunk.

    Args:
        space: The model with light decoders.
        loss_fn: Compares a prediction with its target.
        rollout: A single step.
        data: Pairs of the run; None where steps are taken on batches from elsewhere, without a cache.
        adapt: Where the cache of latents is, and how large it may be.

    Raises:
        SettingsError: the cache would be too large, or the trunk draws random numbers.
    """

    space: LatentSpace

    def __init__(
        self,
        space: LatentSpace,
        loss_fn: FieldLoss,
        rollout: RolloutSettings,
        data: TaskData | None,
        adapt: AdaptSettings,
    ) -> None:
        super().__init__(space, loss_fn, rollout, data)
        if data is not None:
            # Refused here if it would grow beyond its budget, before anything is computed.
            self.notes = space.open_cache(adapt, (data.train, data.valid))

    def _prefetch(self) -> Callable[[datetime], None] | None:
        """Return the function that reads the latents of an input time ahead; None without a cache."""
        return None if self.space.cache is None else self.space.cache.read_ahead


def roll_out(
    space: TrainingSpace,
    loss_fn: FieldLoss,
    pair: Pair,
    settings: RolloutSettings,
    device: torch.device,
    observe: Observer = unobserved,
) -> Iterator[StepLoss]:
    """Predict step by step, each prediction becoming the newest input state, and compare with the targets.

    Args:
        space: The model, and the space that losses are taken in.
        loss_fn: Compares a prediction with its target.
        pair: Input states, and the target of every step that has a loss.
        settings: Steps that are predicted, and which of them have a loss.
        device: Device of the model; states are moved there as they are needed.
        observe: Looks at every step that has a loss, before the loss is taken.
    """
    targets: dict[int, Batch] = dict(zip(settings.loss_steps, pair.targets, strict=True))
    state = moved(pair.inputs, device)
    before: tuple[IntermediateStep, ...] = ()
    for step in range(1, settings.steps):
        # A step without a loss needs no graph: no gradient flows from a later step into it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and step in targets):
            fields, prediction = space.step(space.inputs(state))
        with torch.no_grad():
            state = space.advance(state, prediction)
        del prediction
        if step in targets:
            # Handed over before the next step is predicted, so that its graph can go first.
            yield step_loss(space, loss_fn, step, fields, moved(targets[step], device), before, observe)
        del fields
        before = (*before, intermediate(state))
    inputs = space.inputs(state)
    # The last step goes nowhere, so that its inputs and its state can be let go of early.
    # States are as large as what is computed from them, and a generator keeps its names while it waits.
    del state
    fields = space.predict_fields(inputs, release=True)
    last = settings.steps
    loss = step_loss(space, loss_fn, last, fields, moved(targets[last], device), before, observe)
    del fields
    yield loss


def step_loss(
    space: TrainingSpace,
    loss_fn: Callable[[Fields, Fields], Loss],
    step: int,
    fields: Fields,
    state: Batch,
    before: tuple[IntermediateStep, ...],
    observe: Observer,
) -> StepLoss:
    """Compare a prediction with the state that it predicts.

    Args:
        space: Space that losses are taken in.
        loss_fn: Compares a prediction with its target.
        step: Step of the roll-out, counted from 1.
        fields: Prediction, in training space.
        state: Physical target, on the device; of length 1 in its history.
        before: Intermediate steps before this one.
        observe: Looks at prediction and target.
    """
    target, time = space.targets(state), state.metadata.time
    del state
    # Upstream predicts its output-only variables whatever it reads; data.variables may leave them out.
    left_out = space.spec.output_only
    scored = {name: value for name, value in fields.surface.items() if name in target.surface or name not in left_out}
    fields = dataclasses.replace(fields, surface=scored)
    observe(fields, target)
    predicted = finite_fields(fields.surface | fields.atmospheric)
    # Points that a mask leaves out are not scored, and may be NaN by right: they count as zero.
    surface = dict(target.surface)
    for name, mask in target.masks.items():
        surface[name] = surface[name].where(mask, 0)
    wanted = finite_fields(surface | target.atmospheric)
    # Not held while the loss is taken, which needs the memory.
    del surface
    return StepLoss(step, time, predicted, wanted, loss_fn(fields, target), before)


def intermediate(state: Batch) -> IntermediateStep:
    """Note when a state that is read again is of, and whether it is finite."""
    newest = {name: value[:, -1] for name, value in (state.surf_vars | state.atmos_vars).items()}
    return IntermediateStep(state.metadata.time, finite_fields(newest))
