"""Members of an ensemble, trained together by the CRPS, at the memory of one of them.

The score of an ensemble is a function of all members, but its gradient reaches the weights through one at a time: all
members are predicted without gradients, and then each again, with the same random numbers, as a function of its own
prediction while the others stand. The gradients add up to those of all members predicted together.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from aurora import Batch

from kit.data.dataset import Pair, moved
from kit.io.hashes import sha256_of_text
from kit.models.noise import NamedNoise
from kit.models.space import Fields, TrainingSpace
from kit.train.ensemble_loss import EnsembleLoss
from kit.train.loss import Loss, Scored
from kit.train.settings import RolloutSettings, TaskSettings
from kit.train.task import Batches, IntermediateStep, Observer, StepLoss
from kit.train.tasks.forecast import ForecastTask, intermediate, step_loss
from kit.train.tasks.pairs import TaskData


class CrpsTask(ForecastTask):
    """Predict several members step by step, and score them together.

    Args:
        space: A model that reads noise, and the space that losses are taken in.
        loss_fn: Scores members.
        rollout: Steps that are predicted, and which of them have a loss; each member goes on from its own predictions.
        data: Pairs of the run; None where steps are taken on batches from elsewhere.
        settings: Number of members, and how they are scored.
    """

    loss_fn: EnsembleLoss

    def __init__(
        self,
        space: TrainingSpace,
        loss_fn: EnsembleLoss,
        rollout: RolloutSettings,
        data: TaskData | None,
        settings: TaskSettings,
    ) -> None:
        super().__init__(space, loss_fn, rollout, data)
        self.notes = ()
        self._settings = settings
        self.losses_per_batch = settings.losses(rollout)
        self._position = 0

    def batches(self, start: int) -> Iterator[Pair]:
        """Return shuffled training batches from a position on, which their noise goes by too."""
        self._position = start
        return iter(super().batches(start))

    def look_ahead(self, batches: Batches) -> tuple[Batches, Scored | None]:
        """Count the points that all batches of a step score, once for each loss that is taken over them."""
        batches, once = super().look_ahead(batches)
        if once is None or self._settings.together:
            return batches, once
        members = self._settings.member_count
        points = {name: members * weight for name, weight in once.points.items()}
        return batches, Scored(members * once.samples, points)

    def losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield a loss of each step of the roll-out that has one: for each member by itself, or of all together."""
        seed = 0 if self._data is None else self._data.seed
        name = f"members of seed {seed}, batch {self._position}"
        self._position += 1
        return self._roll_out(batch, self.rollout, observe, name, self._settings.share_fair)

    def valid_losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the fair score of each step of the roll-out that has one."""
        return self._roll_out(batch, self.rollout.validated, observe, "validation", 1.0)

    def _roll_out(
        self, pair: Pair, settings: RolloutSettings, observe: Observer, name: str, alpha: float
    ) -> Iterator[StepLoss]:
        targets = dict(zip(settings.loss_steps, pair.targets, strict=True))
        members = range(self._settings.member_count)
        # One state that all begin with.
        states = [moved(pair.inputs, self._device)] * len(members)
        before: tuple[IntermediateStep, ...] = ()
        for step in range(1, settings.steps + 1):
            fields: list[Fields] = []
            following: list[Batch] = []
            for member, state in enumerate(states):
                live = torch.is_grad_enabled() and step in targets and self._settings.together
                with torch.set_grad_enabled(live), self._drawing(name, member, step):
                    found, prediction = self.space.step(self.space.inputs(state))
                if step in targets:
                    fields.append(found)
                if step < settings.steps:
                    with torch.no_grad():
                        following.append(self.space.advance(state, prediction))
                del found, prediction
            if step in targets:
                target = moved(targets[step], self._device)
                scoring = _Scoring(self.space, self.loss_fn, step, target, before, observe, alpha)
                if not torch.is_grad_enabled():
                    yield scoring.of_member(fields, 0)
                elif self._settings.together:
                    yield _sharing([scoring.of_member(fields, member) for member in members], 1)
                else:
                    for member in members:
                        with self._drawing(name, member, step):
                            fields[member] = self.space.predict_fields(self.space.inputs(states[member]))
                        yield _sharing([scoring.of_member(fields, member)], len(members))
                        # Its graph can go before the next member's is made.
                        fields[member] = detached(fields[member])
            if following:
                states = following
                before = (*before, _of_all(states))

    @contextmanager
    def _drawing(self, name: str, member: int, step: int) -> Iterator[None]:
        """Draw the random numbers of a member, noise and dropout, the same whenever it is predicted."""
        noise = self.space.noise
        if noise is not None:
            # Predictions take it by member and initial time.
            self.space.noise = NamedNoise(noise.seed, member)
            try:
                yield
            finally:
                self.space.noise = noise
            return
        seed = int(sha256_of_text(f"{name}, member {member}, step {step}")[:15], 16)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield


@dataclasses.dataclass(frozen=True)
class _Scoring:
    """Everything that a score of one step is taken with but the members."""

    space: TrainingSpace
    loss_fn: EnsembleLoss
    step: int
    target: Batch
    before: tuple[IntermediateStep, ...]
    observe: Observer
    alpha: float

    def of_member(self, fields: Sequence[Fields], member: int) -> StepLoss:
        """Score all members as a function of one."""
        others = [*fields[:member], *fields[member + 1 :]]

        def score(prediction: Fields, target: Fields) -> Loss:
            return self.loss_fn.of_member(prediction, others, target, self.alpha)

        return step_loss(self.space, score, self.step, fields[member], self.target, self.before, self.observe)


def _sharing(losses: Sequence[StepLoss], factor: int) -> StepLoss:
    """Make one loss of several of the same value: with that value, and the sum of their gradients times a factor.

    The trainer takes the mean over losses, where the gradients of members add up: the factor is their number where
    each has a loss of its own.
    """

    def shared(values: Sequence[torch.Tensor]) -> torch.Tensor:
        changes = torch.stack([value - value.detach() for value in values]).sum()
        return values[0].detach() + factor * changes

    first = losses[0]
    shares = {name: shared([each.loss.shares[name] for each in losses]) for name in first.loss.shares}
    loss = dataclasses.replace(first.loss, total=shared([each.loss.total for each in losses]), shares=shares)
    finite = {name: torch.stack([each.prediction[name] for each in losses]).all() for name in first.prediction}
    return dataclasses.replace(first, loss=loss, prediction=finite)


def _of_all(states: Sequence[Batch]) -> IntermediateStep:
    """Note whether the states of all members are finite."""
    each = [intermediate(state) for state in states]
    finite = {name: torch.stack([one.finite[name] for one in each]).all() for name in each[0].finite}
    return IntermediateStep(each[0].time, finite)


def detached(fields: Fields) -> Fields:
    """Let go of the graph of fields."""
    surface = {name: value.detach() for name, value in fields.surface.items()}
    atmospheric = {name: value.detach() for name, value in fields.atmospheric.items()}
    return dataclasses.replace(fields, surface=surface, atmospheric=atmospheric)
