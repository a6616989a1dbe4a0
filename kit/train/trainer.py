"""One optimiser step over a task's losses, and a pass over its validation batches."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import torch

from kit.adapt.adalora import Allocation
from kit.adapt.trainable import Trained
from kit.adapt.training_check import TrainingCheck
from kit.data.dataset import Pair
from kit.models.noise import NamedNoise
from kit.models.space import Fields, TrainingSpace
from kit.models.variants import Precision
from kit.train.activations import Activation, watching
from kit.train.average import WeightAverage
from kit.train.loss import Loss, Scored
from kit.train.optim import DivergenceError, GradientNorms
from kit.train.task import Batches, Observer, StepLoss, Task
from kit.train.updaters import Updater


@dataclass(frozen=True)
class StepReport:
    """Record of one optimiser step.

    Attributes:
        step: Step, counted from 1.
        loss: Mean over the accumulated batches, and over the steps of their roll-outs that have a loss.
        parts: Mean absolute error of each variable, in training space.
        gradients: Norms before clipping.
        learning_rate: Learning rate of this step.
        samples: Pairs trained on.
        compute_seconds: Time in forward pass, backward pass and optimiser, seconds.
        group_rates: Learning rate of each group of parameters that has its own.
        depth: Mean over samples of the steps that the model had made of them before, where they are drawn from a
            replay buffer.
        activations: Statistics of modules' outputs, in steps that are watched.
        wait_seconds: Time spent waiting for data, seconds.
        epoch: Passes over the training pairs so far.
    """

    step: int
    loss: float
    parts: dict[str, float]
    gradients: GradientNorms
    learning_rate: float
    samples: int
    compute_seconds: float
    group_rates: Mapping[str, float] = field(default_factory=dict)
    depth: float | None = None
    activations: Mapping[str, Activation] = field(default_factory=dict)
    wait_seconds: float = 0.0
    epoch: float = 0.0


@dataclass(frozen=True)
class Validation:
    """Outcome of a pass over the validation pairs.

    Attributes:
        loss: Mean loss.
        parts: Mean absolute error of each variable, in training space.
        scores: Scores of physical predictions, by name.
    """

    loss: float
    parts: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)


class _Mean:
    """Mean of losses and their parts, each weighted by what it scores: pairs, or points where some are left out."""

    def __init__(self) -> None:
        self.pairs = 0
        self._losses = 0
        self._total = 0.0
        self._parts: dict[str, float] = defaultdict(float)
        self._shares: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)

    def add(self, loss: Loss) -> None:
        pairs, points = loss.scored.samples, loss.scored.points
        scalars = [loss.total.detach(), *loss.parts.values(), *loss.shares.values(), *points.values()]
        # One transfer from the device for all of them; counts of points need double precision.
        total, *values = torch.stack([scalar.detach().double() for scalar in scalars]).tolist()
        found = iter(values)
        parts = {name: next(found) for name in loss.parts}
        shares = {name: next(found) for name in loss.shares}
        weights = dict.fromkeys(parts, float(pairs)) | {name: next(found) for name in points}
        self.pairs += pairs
        self._losses += 1
        self._total += pairs * total
        for name, value in parts.items():
            self._parts[name] += weights[name] * value
            self._weights[name] += weights[name]
        for name, value in shares.items():
            self._shares[name] += weights[name] * value

    def result(self) -> tuple[float, dict[str, float]]:
        # What was scored nowhere has a sum of 0 and a weight of 0.
        parts = {name: value / (self._weights[name] or 1) for name, value in self._parts.items()}
        # A single loss is what it is; its shares would add up to the same but for rounding.
        if not self._shares or self._losses == 1:
            return self._total / self.pairs, parts
        return sum(value / (self._weights[name] or 1) for name, value in self._shares.items()), parts


class Trainer:
    """Takes optimiser steps.

    Args:
        task: What is learned from a batch.
        trained: Parameters that train.
        updater: Moves them.
        check: Watches gradients and parameters, to tell whether all of them train; the run's callback judges.
        activations: Steps from one watched step to the next, whose modules' outputs are recorded; None for none.
        valid_precision: Precision of validation; None for that of training.
        valid_seed: Seed of the noise that a stochastic model reads in validation.
        average: Average of the parameters, which a callback of the run keeps; None without.

    Attributes:
        observers: Called with every prediction and target, in training space, before their loss is taken.
    """

    def __init__(
        self,
        task: Task,
        trained: Trained,
        updater: Updater,
        *,
        check: TrainingCheck | None = None,
        activations: int | None = None,
        valid_precision: Precision | None = None,
        valid_seed: int = 0,
        average: WeightAverage | None = None,
    ) -> None:
        self.task = task
        self.trained = trained
        self.updater = updater
        self.check = check
        self.activations = activations
        self.valid_precision = valid_precision
        self.average = average
        self._noise = NamedNoise(valid_seed)
        self.observers: list[Observer] = []
        self.device = next(task.space.model.parameters()).device

    @property
    def model(self) -> torch.nn.Module:
        """Model that trains."""
        return self.task.space.model

    @property
    def space(self) -> TrainingSpace:
        """Aurora, and the space that its losses are taken in; not of a denoising network."""
        space = self.task.space
        assert isinstance(space, TrainingSpace), f"a {type(space).__name__} is no Aurora's"
        return space

    @property
    def schedule(self) -> Allocation | None:
        """What the method of fine-tuning does after each step."""
        return self.trained.schedule

    def step(self, step: int, batches: Batches) -> StepReport:
        """Take one optimiser step over one or more batches.

        Args:
            step: Step, counted from 1.
            batches: Batches whose gradients are averaged. Each is asked for when the one before has been learned from.

        Raises:
            DivergenceError: the loss or the gradient is not finite; the parameters are as before, unless it is a
                gradient and the updater moves them in the backward pass.
        """
        mean = _Mean()
        # Gradients add up; each loss has an equal share in their mean, unless some score more than others.
        count = len(batches) * self.task.losses_per_batch
        whole: Scored | None = None
        samples = taken = drawn = depths = 0
        with watching(self.model, self.activations, step) as activations:
            started = time.perf_counter()
            self.model.train()
            self.updater.begin(step)
            if count > 1:
                batches, whole = self.task.look_ahead(batches)
            for pair in batches:
                taken += 1
                samples += len(pair.inputs.metadata.time)
                for step_loss in self.task.losses(pair, self._observe):
                    # Reading the loss waits for the device, so that it comes first only where it must.
                    if self.updater.moves_in_backward:
                        self._note(mean, f"step {step}", pair, step_loss)
                    self.updater.backward(self._share(step_loss.loss, count, whole))
                    if not self.updater.moves_in_backward:
                        self._note(mean, f"step {step}", pair, step_loss)
                    if step_loss.depth is not None:
                        drawn += len(step_loss.time)
                        depths += step_loss.depth * len(step_loss.time)
                    # And its graph with it, before the next step is predicted.
                    del step_loss
            assert taken == len(batches), f"{taken} of {len(batches)} batches were there"
            update = self.updater.update(step, None if self.schedule is None else self.schedule.after_update)
            total, parts = mean.result()
            seconds = time.perf_counter() - started
        depth = depths / drawn if drawn else None
        return StepReport(
            step, total, parts, update.norms, update.rate, samples, seconds, update.rates, depth, activations
        )

    def _share(self, loss: Loss, count: int, whole: Scored | None) -> torch.Tensor:
        """Take the part of a loss, and of the method's penalty, in the mean that an optimiser step minimises.

        Args:
            loss: One of the losses of the step.
            count: Number of them.
            whole: Amounts that all of them are taken over; None where they do not differ in these.
        """
        penalty = self.trained.penalty
        if whole is None:
            total = loss.total if penalty is None else loss.total + penalty()
            return total / count
        part = loss.within(whole)
        return part if penalty is None else part + penalty() / count

    def _observe(self, prediction: Fields, target: Fields) -> None:
        for observer in self.observers:
            observer(prediction, target)

    def _note(self, mean: _Mean, where: str, pair: Pair, step_loss: StepLoss) -> None:
        """Add a loss to a mean, and check that it is finite.

        Raises:
            DivergenceError: it is not finite.
        """
        mean.add(step_loss.loss)
        if not torch.isfinite(step_loss.loss.total):
            raise DivergenceError(diagnose(where, pair, step_loss, self.task.steps, self.task.space.may_be_missing))

    @torch.no_grad()
    def validate(self, batches: Iterable[Pair]) -> Validation:
        """Take the mean loss over validation batches, after the roll-out that is trained.

        Args:
            batches: Validation batches, as the task's ``valid_batches`` returns them.

        Raises:
            DivergenceError: a loss is not finite.
        """
        self.model.eval()
        # Dropped: those of a validation that was cut short.
        self.task.scores()
        mean = _Mean()
        with self.task.predicting(self.valid_precision, self._noise):
            for pair in batches:
                for step_loss in self.task.valid_losses(pair, self._observe):
                    self._note(mean, "validation", pair, step_loss)
        return Validation(*mean.result(), self.task.scores())


# The place where a loss stopped being finite: input states, steps on the way, target, or prediction.

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
        advice = "lower optim.lr" if kind == "prediction" else "check the data with: kit data qa"
        found = f"{kind} of {', '.join(bad)} for {_listed(times)} hold NaN or Inf"
        return f"{_at(where, step, steps)}: the loss is not finite; {found}; {advice}"
    # All of it is finite, and its error is not: too large for the precision.
    return f"{_at(where, loss.step, steps)}: the loss is not finite for {_listed(loss.time)}; lower optim.lr"


def _suspects(pair: Pair, loss: StepLoss, may_be_missing: frozenset[str]) -> Iterator[_Suspect]:
    """Yield kind, roll-out step, times, and finiteness by variable, of everything that made a loss.

    In the order in which one is made of the other: the first that is not finite is the cause.
    """
    states = pair.inputs.surf_vars | pair.inputs.atmos_vars
    inputs = {name: value.isfinite().all() for name, value in states.items() if name not in may_be_missing}
    depth = pair.inputs.metadata.rollout_step
    if depth:
        # Items of a replay buffer hold the model's own predictions.
        yield "prediction", depth, pair.inputs.metadata.time, inputs
    else:
        yield "input states", 1, loss.time, inputs
    for step, intermediate in enumerate(loss.before, start=1):
        finite = {name: whole for name, whole in intermediate.finite.items() if name not in may_be_missing}
        yield "prediction", step, intermediate.time, finite
    yield "target", loss.step, loss.time, loss.target
    yield "prediction", loss.step, loss.time, loss.prediction


def _listed(times: tuple[datetime, ...]) -> str:
    return ", ".join(f"{time:%Y-%m-%dT%H:%M}" for time in times)


def _at(where: str, step: int, steps: int) -> str:
    return where if steps == 1 else f"{where}, roll-out step {step} of {steps}"
