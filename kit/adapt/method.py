"""The interface of a method of fine-tuning, and the packages that methods need."""

import importlib
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from aurora import Aurora
from torch._subclasses.fake_tensor import unset_fake_temporarily

from kit.adapt.settings import AdaptSettings
from kit.io.errors import SettingsError


class StepHook(Protocol):
    """Acts after each optimiser step, and goes on after an interruption."""

    def after_update(self, step: int) -> None:
        """Act when the parameters have moved and their gradients are still there; steps count from 1."""

    def state_dict(self) -> dict[str, Any]:
        """Return what it needs to resume: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""


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


# The optional packages that adapters need, imported when a method asks for them.

_NEEDED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("lora", "dora", "adalora"), ("peft",)),
    "qlora": ("bitsandbytes", "peft"),
}
# What they and their dependencies say while they load is about kernels and formats that the kit does not use.
_CHATTY = ("bitsandbytes", "torch.utils._pytree", "torchao")


def import_packages(method: str) -> None:
    """Import the packages of the ``peft`` extra that a method needs; takes seconds the first time.

    Raises:
        SettingsError: one of them cannot be imported.
    """
    loggers = list(map(logging.getLogger, _CHATTY))
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # What a module makes as it loads has to be real, even if it is first asked for while a step is planned.
        with warnings.catch_warnings(), unset_fake_temporarily():
            # Bytecode is compiled at the first import, which is when Python warns of other people's escapes.
            warnings.simplefilter("ignore")
            for package in _NEEDED.get(method, ()):
                importlib.import_module(package)
    except ImportError as error:
        msg = (
            f"adapt.method {method} needs the package {package}, which cannot be imported ({error}); install it "
            'with: pip install "aurora-finetune-kit[peft]"'
        )
        raise SettingsError(msg) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
