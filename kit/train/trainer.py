"""One optimiser step, and a pass over the validation pairs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import torch
from aurora import Metadata

from kit.adapt.method import StepHook
from kit.adapt.trainable import Trained
from kit.adapt.training_check import TrainingCheck
from kit.data.dataset import Pair
from kit.data.loader import Upcoming
from kit.models.space import TrainingSpace
from kit.train.activations import Activation, watching
from kit.train.loss import Criterion, Loss
from kit.train.optim import DivergenceError, GradientNorms
from kit.train.rain import RainWatch
from kit.train.replay import Drawn
from kit.train.rollout import Graded, Observer, one_step, roll_out
from kit.train.settings import RolloutSettings
from kit.train.updaters import Updater

__all__ = ["DivergenceError", "StepReport", "Trainer"]

_ONE_STEP = RolloutSettings()
Batches = Sequence[Pair] | Upcoming[Pair]


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: counted from 1.
        loss: mean over the accumulated batches, and over the graded steps of their roll-outs.
        parts: mean absolute error of each variable in training space.
        gradients: norms before clipping.
        learning_rate: of this step.
        samples: pairs seen.
        compute_seconds: in forward, backward and optimiser.
        group_rates: learning rate of each group of parameters that has its own.
        depth: mean over samples of the steps that the model had made of them before, where they are drawn from a
            replay buffer.
        activations: what modules put out, in steps that were looked at.
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


@dataclass
class _Mean:
    """Mean of losses and their parts, weighted by pairs."""

    pairs: int = 0
    total: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, loss: Loss, pairs: int) -> None:
        names = list(loss.parts)
        values = torch.stack([loss.total.detach(), *loss.parts.values()]).tolist()
        self.pairs += pairs
        self.total += pairs * values[0]
        for name, value in zip(names, values[1:], strict=True):
            self.parts[name] += pairs * value

    def result(self) -> tuple[float, dict[str, float]]:
        return self.total / self.pairs, {name: value / self.pairs for name, value in self.parts.items()}


class Trainer:
    """Holds what a step needs, and takes steps.

    Args:
        space: the model.
        loss: what is minimised.
        trained: what trains.
        updater: moves it.
        rollout: how many steps ahead.
        check: watches the gradients, for whoever wants to know whether all of it trains.
        activations: steps from one look at what modules put out to the next; None for none.
    """

    def __init__(
        self,
        space: TrainingSpace,
        loss: Criterion,
        trained: Trained,
        updater: Updater,
        rollout: RolloutSettings = _ONE_STEP,
        *,
        check: TrainingCheck | None = None,
        activations: int | None = None,
    ) -> None:
        self.space = space
        self.loss = loss
        self.trained = trained
        self.updater = updater
        self.rollout = rollout
        self.check = check
        self.activations = activations
        self.device = next(space.model.parameters()).device
        self._rain = RainWatch(space)

    def step(self, step: int, batches: Batches) -> StepReport:
        """Take one optimiser step over one or more batches.

        Args:
            step: counted from 1.
            batches: their gradients are averaged. Each is asked for when the one before has been learned from. Those
                that were drawn from a replay buffer are one step of their roll-outs each, and are given back.

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
        share = len(batches) * len(self.rollout.graded_steps)
        seen: list[tuple[Metadata, bool]] = []
        for pair in batches:
            seen.append((pair.inputs.metadata, isinstance(pair, Drawn)))
            for graded in self._compare(pair, self.rollout):
                # Reading the loss waits for the device, so that it comes first only where it must.
                if self.updater.moves_in_backward:
                    self._note(mean, f"step {step}", pair, graded)
                self.updater.backward(self._penalised(graded.loss.total) / share)
                if not self.updater.moves_in_backward:
                    self._note(mean, f"step {step}", pair, graded)
                del graded  # and its graph with it, before the next step is predicted
        assert len(seen) == len(batches), f"{len(seen)} of {len(batches)} batches were there"
        after = None if self.schedule is None else self.schedule.after_update
        update = self.updater.update(step, after)
        total, parts = mean.result()
        seconds = time.perf_counter() - started
        samples = sum(len(metadata.time) for metadata, _ in seen)
        depth = _depth([metadata for metadata, drawn in seen if drawn])
        return StepReport(step, total, parts, update.norms, update.rate, samples, seconds, update.rates, depth)

    @property
    def schedule(self) -> StepHook | None:
        """What the method does after each step."""
        return self.trained.schedule

    def _penalised(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.trained.penalty is None else loss + self.trained.penalty()

    def _compare(self, pair: Pair, rollout: RolloutSettings, observe: Observer | None = None) -> Iterator[Graded]:
        if isinstance(pair, Drawn):
            return one_step(self.space, self.loss, pair, self.device, pair.take_back)
        return roll_out(self.space, self.loss, pair, rollout, self.device, observe)

    def _note(self, mean: _Mean, where: str, pair: Pair, graded: Graded) -> None:
        """Add a loss to a mean.

        Raises:
            DivergenceError: it is not finite.
        """
        mean.add(graded.loss, len(graded.time))
        if not torch.isfinite(graded.loss.total):
            raise DivergenceError(_diagnosis(where, pair, graded, self.rollout.steps, self.space.may_be_missing))

    @torch.no_grad()
    def validate(self, pairs: Iterable[Pair]) -> tuple[float, dict[str, float]]:
        """Mean loss over pairs, and its parts, after the roll-out that is trained."""
        self.space.model.eval()
        self._rain.begin()
        mean = _Mean()
        for pair in pairs:
            for graded in self._compare(pair, self.rollout.validated, self._rain.see):
                self._note(mean, "validation", pair, graded)
        return mean.result()

    def scores(self) -> dict[str, float]:
        """What the last validation says of physical predictions: those of precipitation, if there is any."""
        return self._rain.scores()


def _depth(drawn: Sequence[Metadata]) -> float | None:
    """Mean age of drawn items."""
    ages = [(metadata.rollout_step, len(metadata.time)) for metadata in drawn]
    return sum(age * samples for age, samples in ages) / sum(samples for _, samples in ages) if ages else None


def _diagnosis(where: str, pair: Pair, graded: Graded, steps: int, may_be_missing: frozenset[str]) -> str:
    """Say where the first number went missing: in the input states, on the way, in the target, or in the prediction."""
    for kind, step, times, finite in _suspects(pair, graded, may_be_missing):
        bad = [name for name, whole in finite.items() if not whole]
        if bad:
            told = f"{kind} of {', '.join(bad)} for {_listed(times)} hold NaN or Inf"
            advice = "lower optim.lr" if kind == "prediction" else "check the data with: kit data qa"
            return f"{_at(where, step, steps)}: the loss is not finite; {told}; {advice}"
    return f"{_at(where, graded.step, steps)}: the loss is not finite for {_listed(graded.time)}; lower optim.lr"


_Suspect = tuple[str, int, tuple[datetime, ...], Mapping[str, torch.Tensor]]


def _suspects(pair: Pair, graded: Graded, may_be_missing: frozenset[str]) -> Iterator[_Suspect]:
    """Kind, roll-out step, times, and what is finite, of everything that made a loss, in order."""
    variables = pair.inputs.surf_vars | pair.inputs.atmos_vars
    inputs = _without({name: value.isfinite().all() for name, value in variables.items()}, may_be_missing)
    if made := pair.inputs.metadata.rollout_step:
        yield "prediction", made, pair.inputs.metadata.time, inputs
    else:
        yield "input states", 1, graded.time, inputs
    for step, passed in enumerate(graded.before, start=1):
        yield "prediction", step, passed.time, _without(passed.finite, may_be_missing)
    yield "target", graded.step, graded.time, graded.target
    yield "prediction", graded.step, graded.time, graded.prediction


def _without(finite: Mapping[str, torch.Tensor], names: frozenset[str]) -> dict[str, torch.Tensor]:
    return {name: whole for name, whole in finite.items() if name not in names}


def _listed(times: tuple[datetime, ...]) -> str:
    return ", ".join(f"{time:%Y-%m-%dT%H:%M}" for time in times)


def _at(where: str, step: int, steps: int) -> str:
    return where if steps == 1 else f"{where}, roll-out step {step} of {steps}"
