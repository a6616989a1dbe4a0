"""Protocol of tasks: what one optimiser step learns from one batch.

The trainer and the loop know no task by type. Forecasting is the default; a replay buffer (``rollout.buffer``) and the
latents of a frozen trunk (``adapt.decoder mlp``) are tasks of their own. A task also says what it needs of the data,
what it is validated by, and what it keeps for resuming.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import torch

from kit.data.dataset import Pair
from kit.data.loader import Upcoming
from kit.models.noise import NamedNoise
from kit.models.space import Fields
from kit.models.variants import Precision
from kit.train.loss import Loss, Scored

Batches = Sequence[Pair] | Upcoming[Pair]
"""Batches of one optimiser step."""

Observer = Callable[[Fields, Fields], None]
"""Function that looks at a prediction and its target, in training space."""


def unobserved(prediction: Fields, target: Fields) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class IntermediateStep:
    """Step that was predicted before one that has a loss.

    Attributes:
        time: Times predicted, one for each sample.
        finite: For each variable that is read again, whether it is finite throughout; scalars on the device, unread
            as long as nothing goes wrong, so that nothing waits for them.
    """

    time: tuple[datetime, ...]
    finite: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class StepLoss:
    """Loss of a step, and the facts for a message if it is not finite.

    It holds no fields: those that the backward pass does not need are gone when it begins.

    Attributes:
        step: Step of the roll-out, counted from 1.
        time: Times predicted, one for each sample.
        prediction: For each output, whether it is finite throughout; scalars on the device, unread.
        target: The same of the target, where it is scored.
        loss: Loss of this step alone.
        before: Intermediate steps before it.
        depth: Steps that the model had made of the samples before they were drawn from a replay buffer; None where
            they come from the data.
    """

    step: int
    time: tuple[datetime, ...]
    prediction: Mapping[str, torch.Tensor]
    target: Mapping[str, torch.Tensor]
    loss: Loss
    before: tuple[IntermediateStep, ...] = ()
    depth: int | None = None


@torch.no_grad()
def finite_fields(variables: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return for each variable whether it is finite throughout, unread: reading would wait for the device."""
    return {name: value.isfinite().all() for name, value in variables.items()}


class Space(Protocol):
    """A model, and the space that its losses are taken in."""

    @property
    def model(self) -> torch.nn.Module:
        """The model that trains, on its device."""

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Surface variables that may be NaN by right; any other NaN is a fault."""


class Task(Protocol):
    """Losses of training and validation, their batches, and state for resuming."""

    @property
    def space(self) -> Space:
        """The model, and the space that losses are taken in."""

    steps: int
    """Steps of the roll-out, as messages count them."""
    losses_per_batch: int
    """Losses that a batch yields, each with a backward pass of its own."""
    notes: tuple[str, ...]
    """Notes to show before training begins, a sentence each."""
    beside: tuple[torch.nn.Module, ...]
    """Models that are held beside the one that trains, for a plan to count."""

    def losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the losses of a training batch, each before the next one is computed.

        Whoever takes the gradient of a loss and lets go of it holds one graph at a time.
        """

    def look_ahead(self, batches: Batches) -> tuple[Batches, Scored | None]:
        """Measure what the losses of an optimiser step will be taken over, if batches may differ in it.

        Returns:
            The batches, read if they had to be, and what all their losses score; None where every point is scored.
        """

    def valid_losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        """Yield the losses of a validation batch."""

    def scores(self) -> dict[str, float]:
        """Return scores of physical predictions since the last call, by name, and reset them."""

    def predicting(self, precision: Precision | None, noise: NamedNoise) -> AbstractContextManager[None]:
        """Have the model predict while the block runs; afterwards it trains on as before.

        Args:
            precision: Precision to run in; None for that of training.
            noise: Noise that a stochastic model reads.
        """

    def batches(self, start: int) -> Iterable[Pair]:
        """Return the training batches from a position on, counted in batches from the beginning of training."""

    def valid_batches(self) -> Iterable[Pair]:
        """Return all validation batches, in order of time."""

    def open(self, folder: Path) -> None:
        """Prepare for training; temporary files go into ``folder``."""

    def close(self) -> None:
        """Release what ``open`` prepared."""

    def save(self, checkpoint: Path) -> None:
        """Write the task's state for resuming into a checkpoint that is being written."""

    def load(self, checkpoint: Path) -> None:
        """Load the task's state from a checkpoint.

        Raises:
            CheckpointError: the state is missing or cannot be read.
        """
