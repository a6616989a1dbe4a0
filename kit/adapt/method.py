"""What every way of fine-tuning has to offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from aurora import Aurora

from kit.adapt.settings import AdaptSettings

__all__ = ["Attach", "Attached", "StepHook"]


class StepHook(Protocol):
    """Acts after each optimiser step, and goes on after an interruption."""

    def after_update(self, step: int) -> None:
        """The parameters have moved, and their gradients are still there; steps count from 1."""

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


@dataclass(frozen=True)
class Attached:
    """What a method asks of training.

    Attributes:
        penalty: added to the loss of every batch, a scalar.
        schedule: acts after each optimiser step.
    """

    penalty: Callable[[], torch.Tensor] | None = None
    schedule: StepHook | None = None


class Attach(Protocol):
    """Adds what a method adds to a model, and marks what it trains; everything else is frozen.

    What is added is an ordinary submodule of upstream's modules, or takes the place of one as PEFT's layers do, so
    that every parameter has its name in ``model.named_parameters()``.
    """

    def __call__(self, model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:
        """Act on a model that already holds the weights that training starts from.

        Args:
            model: changed in place.
            settings: with or without defaults filled in.
            steps: of the whole run; None where nothing will train.

        Raises:
            SettingsError: the method cannot be had for this model.
        """
