"""Denoising: what a network predicts of noisy states, or of what a forecast lacks, against what it should.

Noise and levels are drawn by name: of training by seed and position, of validation by initial time, so that a resumed
run draws what it would have, and the loss of a validation state depends on the network alone.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch

from kit.data.dataset import Pair, moved
from kit.diffusion.forecasts import CachedForecasts
from kit.diffusion.residuals import measure
from kit.diffusion.schedules import Levels
from kit.diffusion.space import DiffusionSpace, Example
from kit.io.hashes import sha256_of_text
from kit.models.noise import NamedNoise
from kit.models.space import Window
from kit.models.variants import Precision
from kit.train.loss import FieldLoss, Scored
from kit.train.task import Batches, Observer, StepLoss, finite_fields
from kit.train.tasks.pairs import PairsTask, TaskData

_VALID_LEVELS = 4
"""Levels of noise at which each validation state is looked at, one in each part of those that training draws."""


class DenoiseTask(PairsTask):
    """Take the noise away.

    Args:
        space: Network, and what it draws.
        loss_fn: Compares what is predicted with what should be.
        data: Pairs of the run; None where steps are taken on batches from elsewhere, as in plans.
        window: Part of the grid that losses are over; None for all of it.
        facts: What the operator's forecasts follow from beside their initial states, in words.
    """

    steps = 1
    losses_per_batch = 1

    def __init__(
        self,
        space: DiffusionSpace,
        loss_fn: FieldLoss,
        data: TaskData | None = None,
        window: Window | None = None,
        facts: str = "",
    ) -> None:
        super().__init__(data)
        self.space = space
        self.loss_fn = loss_fn
        self._window = window
        self._position = 0
        self._facts = facts
        self._cached: CachedForecasts | None = None
        if space.operator is not None:
            self.beside = (space.operator.model,)

    def open(self, folder: Path) -> None:
        """Let the operator make its forecasts, if they are kept, and measure what is drawn."""
        space = self.space
        if space.operator is not None and space.spec.settings.forecasts == "cached":
            # Of the same model, store and precision: a run that goes on may find those of its first part.
            self._cached = CachedForecasts(folder, space, (self.data.train, self.data.valid), self._facts)
            space.forecasts, space.operator, self.beside = self._cached, None, ()
        measure(space, self.data.train)

    def close(self) -> None:
        """Remove the forecasts."""
        if self._cached is not None:
            self._cached.remove()

    def batches(self, start: int) -> Iterator[Pair]:
        """Return shuffled training batches from a position on, which their noise goes by too."""
        self._position = start
        return iter(super().batches(start))

    def look_ahead(self, batches: Batches) -> tuple[Batches, Scored | None]:
        """Leave batches unread: every point is scored."""
        return batches, None

    def losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the loss of a training batch at a level of noise for each sample."""
        seed = 0 if self._data is None else self._data.seed
        generator = named_generator(f"denoising of seed {seed}, batch {self._position}", self.space.device)
        settings, samples = self.space.spec.settings, len(batch.target.metadata.time)
        # By NumPy, and real in a plan too: whether the operator runs is a choice of the host's.
        choices = _choices(f"choices of seed {seed}, batch {self._position}")
        share = settings.operator_share or 0.0
        by_operator = choices.random(samples) < share
        if self._data is None:
            # A plan is of the step that holds most.
            by_operator[:] = share > 0
        present = torch.from_numpy(choices.random(samples) >= (settings.drop or 0.0))
        example = self.space.cut(self._example(batch, by_operator.tolist()), [choices] * samples)
        levels = self.space.schedule.draw(samples, generator)
        noise = torch.randn(example.drawn.shape, generator=generator, device=self.space.device)
        self._position += 1
        yield self._loss(batch, example, noise, levels, present.to(self.space.device), observe)

    def valid_losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield losses of a validation batch at several levels of noise, with all conditions, of states alone."""
        whole = self._example(batch, [False] * len(batch.target.metadata.time))
        moments = batch.target.metadata.time
        parts = 1 if self.space.spec.settings.of == "mean" else _VALID_LEVELS
        for part in range(parts):
            names = [f"validation at {moment.isoformat()}, part {part}" for moment in moments]
            example = self.space.cut(whole, [_choices(name) for name in names])
            drawn, shares = [], []
            for name in names:
                generator = named_generator(name, self.space.device)
                shares.append(torch.rand(1, generator=generator, device=self.space.device))
                drawn.append(torch.randn(example.drawn.shape[1:], generator=generator, device=self.space.device))
            levels = self.space.schedule.quantiles((part + torch.cat(shares)) / parts)
            yield self._loss(batch, example, torch.stack(drawn), levels, None, observe)

    def _example(self, batch: Pair, by_operator: list[bool]) -> Example:
        device = self.space.device
        with torch.no_grad():
            return self.space.examples(moved(batch.inputs, device), moved(batch.target, device), by_operator)

    def _loss(
        self,
        batch: Pair,
        example: Example,
        noise: torch.Tensor,
        levels: Levels,
        present: torch.Tensor | None,
        observe: Observer,
    ) -> StepLoss:
        space = self.space
        predicted, due = space.denoiser.compare(example.drawn, noise, levels, example.condition, present)
        prediction, target = (space.fields(values).within(self._window) for values in (predicted, due))
        observe(prediction, target)
        # The target is made of states and noise: where it is not finite, a state is not.
        finite = [finite_fields(fields.surface | fields.atmospheric) for fields in (prediction, target)]
        loss = self.loss_fn(prediction, target)
        return StepLoss(1, batch.target.metadata.time, finite[0], finite[1], loss)

    def scores(self) -> dict[str, float]:
        """Return nothing: samples are scored by an ensemble."""
        return {}

    def predicting(self, precision: Precision | None, noise: NamedNoise) -> AbstractContextManager[None]:  # noqa: ARG002
        """Have the network run in a precision while the block runs; its noise has names of its own."""
        return _in_precision(self.space, precision)


@contextmanager
def _in_precision(space: DiffusionSpace, precision: Precision | None) -> Iterator[None]:
    before = space.autocast
    if precision is not None:
        space.autocast = precision == "bf16"
    try:
        yield
    finally:
        space.autocast = before


def _choices(name: str) -> np.random.Generator:
    """Make a generator of the host's choices that follow from a name."""
    return np.random.default_rng(int(sha256_of_text(name), 16))


def named_generator(name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator of random numbers that follow from a name."""
    return torch.Generator(device).manual_seed(int(sha256_of_text(name)[:15], 16))
