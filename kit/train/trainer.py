"""One optimiser step over a task's losses, and a pass over its validation batches."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from kit.adapt.method import StepHook
from kit.adapt.trainable import Trained
from kit.adapt.training_check import TrainingCheck
from kit.data.dataset import Pair
from kit.data.loader import Upcoming
from kit.models.space import Fields, TrainingSpace
from kit.train.activations import Activation, watching
from kit.train.divergence import diagnose
from kit.train.loss import Loss
from kit.train.optim import DivergenceError, GradientNorms
from kit.train.task import Observer, StepLoss, Task
from kit.train.updaters import Updater

Batches = Sequence[Pair] | Upcoming[Pair]


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


@dataclass
class _Mean:
    """Mean of losses and their parts, weighted by pairs."""

    pairs: int = 0
    total: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, loss: Loss, pairs: int) -> None:
        # One transfer from the device for all of them.
        total, *parts = torch.stack([loss.total.detach(), *loss.parts.values()]).tolist()
        self.pairs += pairs
        self.total += pairs * total
        for name, value in zip(loss.parts, parts, strict=True):
            self.parts[name] += pairs * value

    def result(self) -> tuple[float, dict[str, float]]:
        return self.total / self.pairs, {name: value / self.pairs for name, value in self.parts.items()}


class Trainer:
    """Takes optimiser steps.

    Args:
        task: What is learned from a batch.
        trained: Parameters that train.
        updater: Moves them.
        check: Watches gradients and parameters, to tell whether all of them train; the run's callback judges.
        activations: Steps from one watched step to the next, whose modules' outputs are recorded; None for none.

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
    ) -> None:
        self.task = task
        self.trained = trained
        self.updater = updater
        self.check = check
        self.activations = activations
        self.observers: list[Observer] = []
        self.device = next(task.space.model.parameters()).device

    @property
    def space(self) -> TrainingSpace:
        """The model, and the space that losses are taken in."""
        return self.task.space

    @property
    def schedule(self) -> StepHook | None:
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
        with watching(self.space.model, self.activations, step) as activations:
            report = self._take(step, batches)
        return replace(report, activations=activations)

    def _take(self, step: int, batches: Batches) -> StepReport:
        started = time.perf_counter()
        self.space.model.train()
        self.updater.begin(step)
        mean = _Mean()
        # Gradients add up; each loss has an equal share in their mean.
        share = len(batches) * self.task.losses_per_batch
        samples = taken = 0
        drawn = depths = 0
        for pair in batches:
            taken += 1
            samples += len(pair.inputs.metadata.time)
            for step_loss in self.task.losses(pair, self._observe):
                # Reading the loss waits for the device, so that it comes first only where it must.
                if self.updater.moves_in_backward:
                    self._note(mean, f"step {step}", pair, step_loss)
                if self.trained.penalty is None:
                    self.updater.backward(step_loss.loss.total / share)
                else:
                    self.updater.backward((step_loss.loss.total + self.trained.penalty()) / share)
                if not self.updater.moves_in_backward:
                    self._note(mean, f"step {step}", pair, step_loss)
                if step_loss.depth is not None:
                    drawn += len(step_loss.time)
                    depths += step_loss.depth * len(step_loss.time)
                # And its graph with it, before the next step is predicted.
                del step_loss
        assert taken == len(batches), f"{taken} of {len(batches)} batches were there"
        after = None
        if self.schedule is not None:
            after = self.schedule.after_update
        update = self.updater.update(step, after)
        depth = None
        if drawn:
            depth = depths / drawn
        total, parts = mean.result()
        seconds = time.perf_counter() - started
        return StepReport(step, total, parts, update.norms, update.rate, samples, seconds, update.rates, depth)

    def _observe(self, prediction: Fields, target: Fields) -> None:
        for observer in self.observers:
            observer(prediction, target)

    def _note(self, mean: _Mean, where: str, pair: Pair, step_loss: StepLoss) -> None:
        """Add a loss to a mean, and check that it is finite.

        Raises:
            DivergenceError: it is not finite.
        """
        mean.add(step_loss.loss, len(step_loss.time))
        if not torch.isfinite(step_loss.loss.total):
            raise DivergenceError(diagnose(where, pair, step_loss, self.task.steps, self.space.may_be_missing))

    @torch.no_grad()
    def validate(self, batches: Iterable[Pair]) -> Validation:
        """Take the mean loss over validation batches, after the roll-out that is trained.

        Args:
            batches: Validation batches, as the task's ``valid_batches`` returns them.

        Raises:
            DivergenceError: a loss is not finite.
        """
        self.space.model.eval()
        # Dropped: those of a validation that was cut short.
        self.task.scores()
        mean = _Mean()
        for pair in batches:
            for step_loss in self.task.valid_losses(pair, self._observe):
                self._note(mean, "validation", pair, step_loss)
        return Validation(*mean.result(), self.task.scores())
