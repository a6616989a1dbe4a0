"""Settings of loss, optimiser and loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

# Supplement D.4 of the Aurora paper replaces items at a fixed interval; without it, a large buffer would see no new
# data for as many steps as it has items times their length.
_REFRESH = 10
# Four members a device, and alpha 0.95: Lang et al. 2024, "AIFS-CRPS", arXiv 2412.15832, section 2.
_MEMBERS = 4
_ALMOST_FAIR = 0.95


class LossSettings(BaseModel):
    """What is minimised, in training space."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Literal["paper-mae", "mae", "mse", "huber"] = "paper-mae"
    """``paper-mae`` is the mean absolute error with the Aurora paper's variable weights; ``mae``, ``mse`` and
    ``huber`` weigh every variable and level alike."""
    delta: PositiveFloat | None = None
    """With ``huber``: the error, in standard deviations, from which on it counts in proportion and no longer
    squared; 1 by default."""
    area_weights: bool = False
    """Let every point count by the area of its cell, so that the many small cells near a pole do not dominate."""
    weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Weight per variable, replacing the paper's, such as ``2t=3``; per variable and level, such as ``t_500=2``;
    and of all variables that are not named, ``*=0``. What weighs 0 is predicted and not trained on."""

    @model_validator(mode="after")
    def _delta_of_huber(self) -> Self:
        if self.delta is not None and self.name != "huber":
            msg = f"loss.delta {self.delta:g} has no effect with loss.name {self.name}; use huber, or leave it out"
            raise ValueError(msg)
        return self

    @property
    def huber_delta(self) -> float:
        """Error from which on the Huber loss is no longer squared."""
        return self.delta or 1.0


class TaskSettings(BaseModel):
    """What a step learns from a batch."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Literal["forecast", "crps", "denoise"] = "forecast"
    """``forecast`` compares single predictions with what came; ``crps`` predicts several members and scores them
    together by the continuous ranked probability score, of a model that reads noise (``model.stochastic``, or variant
    ``v1p5-ensemble``); ``denoise`` trains a network to draw states or residuals (``diffusion.*``)."""
    members: Annotated[int, Field(ge=2)] | None = None
    """With ``crps``: members of each sample; 4 by default. Each takes a forward pass more; memory is that of one."""
    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """With ``crps``: share of the fair score in the one that is trained, 0.95 by default; validation is fair."""
    together: bool = False
    """With ``crps``: hold the graphs of all members at once, which saves the second forward pass of each."""

    @model_validator(mode="after")
    def _of_members(self) -> Self:
        given = [name for name in ("members", "alpha", "together") if getattr(self, name) not in (None, False)]
        if given and self.name != "crps":
            msg = f"task.{given[0]} has no effect with task.name {self.name}; use crps, or leave it out"
            raise ValueError(msg)
        return self

    @property
    def member_count(self) -> int:
        """Members of each sample."""
        if self.name != "crps":
            return 1
        return self.members or _MEMBERS

    @property
    def share_fair(self) -> float:
        """Share of the fair score in the one that is trained."""
        return _ALMOST_FAIR if self.alpha is None else self.alpha

    def losses(self, rollout: RolloutSettings) -> int:
        """Count the losses of a batch, each with a backward pass of its own."""
        steps = len(rollout.loss_steps)
        return steps if self.together else steps * self.member_count


NEW = "new"
"""In ``optim.groups``: the parameters that the base weights lack."""
MAIN = "main"
"""The parameters that no entry of ``optim.groups`` names."""

# Tried on the embedded sample with the tiny weights (docs/methods.md): `full` wants a tenth of what LoRA wants. The
# other methods have the rate of the one that they resemble; prefixes and prompts begin far from any weight.
_PEAKS: Mapping[str, float] = {
    "full": 3e-4,
    "freeze": 3e-4,
    "head": 3e-4,
    "lora": 3e-3,
    "dora": 3e-3,
    "adalora": 3e-3,
    "qlora": 3e-3,
    "rollout-lora": 3e-3,
    "prefix": 0.1,
    "prompt": 0.1,
    # No method, but a network that begins at random (docs/diffusion.md).
    "denoise": 1e-3,
}
_PEAK_OF_NEW = 1e-3
"""Upstream's advice for new embeddings and heads, beside 3e-4 for the rest (``docs/finetuning.md`` of
``microsoft/aurora``)."""


class GroupSettings(BaseModel):
    """How a part of the parameters moves; what is left out is as for the others."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    lr: PositiveFloat | None = None
    """Peak learning rate."""
    weight_decay: NonNegativeFloat | None = None
    """Decoupled weight decay."""
    warmup: NonNegativeInt | None = None
    """Steps of linear warm-up."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.lr is None and self.weight_decay is None and self.warmup is None:
            msg = "a group that sets none of lr, weight_decay and warmup has no effect; set one, or leave it out"
            raise ValueError(msg)
        return self


class OptimSettings(BaseModel):
    """How parameters move."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Literal["adamw", "adamw-8bit", "adafactor"] = "adamw"
    """``adamw``, in one fused kernel, with 8 bytes of state for each value that trains; ``adamw-8bit``, with 2 bytes
    of state: an approximation, whose moments are rounded block by block, made for GPUs and slow on a CPU;
    ``adafactor``, with next to no state: no first moment, and a factored second one."""
    lr: PositiveFloat | None = None
    """Peak learning rate, reached after the warm-up; with ``adafactor`` a fraction of each tensor's own magnitude. By
    default 3e-4 where the method trains the weights themselves, 3e-3 with adapters, 0.1 for prefix and prompt, and 1e-3
    with ``task.name denoise``."""
    final_lr: NonNegativeFloat = 0.1
    """Learning rate of the last step, as a fraction of ``lr``; a cosine leads there."""
    weight_decay: NonNegativeFloat = 5e-6
    """Decoupled weight decay; the Aurora paper's value."""
    warmup: NonNegativeInt = 10
    """Steps of linear warm-up."""
    clip: PositiveFloat | None = 1.0
    """Largest global gradient norm; ``none`` turns clipping off, as ``memory.step_in_backward`` needs it."""
    groups: dict[str, GroupSettings] = Field(default_factory=dict)
    """Parts of the parameters with an ``lr``, a ``weight_decay`` or a ``warmup`` of their own, such as
    ``encoder.*.lr=1e-4``: by a module's path at any depth, with ``*`` for any part, or ``new`` for what the base
    weights lack, whose ``lr`` is 1e-3 by default. The first that matches counts."""

    @property
    def peak(self) -> float:
        """Peak learning rate, once it is resolved."""
        assert self.lr is not None, "optim.lr depends on the method: call resolved() first"
        return self.lr

    def resolved(self, method: str) -> OptimSettings:
        """Return the settings with a learning rate, by default that of the method, or of ``denoise``."""
        if self.lr is not None:
            return self
        return self.model_copy(update={"lr": _PEAKS[method]})

    def of_group(self, name: str) -> OptimSettings:
        """Return the settings for the parameters of a group.

        Args:
            name: Key of ``groups``, or ``NEW`` whether it is one or not.
        """
        own: dict[str, Any] = self.groups[name].model_dump(exclude_none=True) if name in self.groups else {}
        if name == NEW:
            own.setdefault("lr", _PEAK_OF_NEW)
        # A copy skips validation, which these values have passed as parts of the same settings.
        return self.model_copy(update=own)


def _check_graded(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    # Pydantic would report a failure of each member of the union.
    try:
        return validate(value)
    except ValidationError:
        msg = f"expected last, all, or a number of steps, got {value!r}"
        raise ValueError(msg) from None


Graded = Annotated[Literal["last", "all"] | PositiveInt, WrapValidator(_check_graded)]


class RolloutSettings(BaseModel):
    """How many steps ahead the model is trained on its own predictions.

    Without a buffer the model predicts all steps at once (push-forward): memory is
    that of one step, time a forward pass for each, and a backward pass for each that
    is graded. With a buffer each training step is one step of the roll-out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    steps: PositiveInt = 1
    """Steps that the model predicts, each prediction becoming the newest input state of the next one; with a buffer,
    the most that an item may reach."""
    graded: Graded = "last"
    """Which steps of a push-forward have a loss: the ``last`` (the steps before it run without gradient), ``all``, or
    so many at the end, averaged. No gradient flows from a step into the one before it."""
    buffer: PositiveInt | None = None
    """Items of a replay buffer, each an initial state from the data and how far the model has come from there. A
    training step draws ``data.batch_size`` of one age, grades one step of each, and puts the predictions back."""
    refresh: PositiveInt | None = None
    """Optimiser steps between two fresh items from the data, each in the place of one drawn at random; 10 by default.
    Whatever has reached ``steps``, or the end of its data, is replaced anyway."""
    keep: Literal["host", "disk"] | None = None
    """Where items that hold predictions are: in the ``host``'s memory, which is the default, or as files on the
    ``disk`` of the run folder."""

    @model_validator(mode="after")
    def _have_an_effect(self) -> Self:
        given = [f"rollout.{name}" for name in ("refresh", "keep") if getattr(self, name) is not None]
        if self.buffer is None and given:
            msg = f"{' and '.join(given)} would have no effect: there is no buffer; leave it out, or set rollout.buffer"
        elif self.buffer is not None and self.steps == 1:
            msg = (
                "rollout.buffer has no effect with rollout.steps 1, where no prediction is read again; set "
                "rollout.steps to 2 or more, or leave it"
            )
        elif self.buffer is not None and self.graded != "last":
            msg = (
                f"rollout.graded {self.graded} has no effect with rollout.buffer, where every step is graded when it "
                "is drawn; leave one of them out"
            )
        elif self.graded != "last" and self.steps == 1:
            msg = (
                f"rollout.graded {self.graded} has no effect with rollout.steps 1; set rollout.steps to 2 or more, or "
                "leave it"
            )
        elif isinstance(self.graded, int) and self.graded > self.steps:
            msg = f"rollout.graded is {self.graded}, but the roll-out has {self.steps} steps (rollout.steps)"
        else:
            return self
        raise ValueError(msg)

    @property
    def loss_steps(self) -> range:
        """Steps of a push-forward that have a loss, counted from 1."""
        count = self.graded
        if count == "last":
            count = 1
        elif count == "all":
            count = self.steps
        return range(self.steps - count + 1, self.steps + 1)

    @property
    def validated(self) -> RolloutSettings:
        """Push-forward by which training is validated."""
        if self.buffer is None:
            return self
        # Items of a buffer are of all ages, so that this is the loss that is trained; validating the last step alone
        # would take the same forward passes and say less.
        return RolloutSettings(steps=self.steps, graded="all")

    def resolved(self) -> RolloutSettings:
        """Return the settings with every default filled in."""
        if self.buffer is None:
            return self
        return RolloutSettings(
            steps=self.steps, buffer=self.buffer, refresh=self.refresh or _REFRESH, keep=self.keep or "host"
        )


class TrainSettings(BaseModel):
    """How long, where and how exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    ALTERNATIVES: ClassVar = (("steps", "epochs"),)

    steps: PositiveInt | None = None
    """Optimiser steps; give these or ``epochs``."""
    epochs: PositiveInt | None = None
    """Passes over the training pairs; 5 when neither this nor ``steps`` is given, with ``task.name denoise`` 30."""
    seed: NonNegativeInt = 0
    """Seed of every random number: initial weights, order of pairs, dropout, noise of stochastic variants; that of
    validation goes by initial time, so that batches do not matter."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forward pass; weights stay fp32. ``auto`` is bf16 on a GPU and fp32 on a CPU."""
    valid_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of validation, as of the predictions that follow: ``auto`` is that of upstream's class on a GPU (fp16
    for version 1.5, fp32 for the others), and fp32 on a CPU and where training runs in fp32; that of training where
    ``memory.frozen_weights`` or latents of ``adapt.decoder`` are in bf16."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are averaged into one optimiser step."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of what trains, such as 0.999; early on it is shorter. It is validated
    beside the weights, and its best is kept as ``checkpoints/ema``."""
    patience: PositiveInt | None = None
    """Validations in a row without a lower loss, after which training ends early; with ``train.ema`` the average's
    loss counts."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; by default one epoch."""
    check_after: PositiveInt | None = 10
    """Steps after which, and at the end again, it is checked that all that trains has moved and nothing else has;
    ``none`` turns the check off."""
    resume: str = "never"
    """``never``: an existing run folder is an error; ``auto``: go on from its last checkpoint, or start;
    or the checkpoint folder to go on from."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            msg = "train.steps and train.epochs were both given; give one"
            raise ValueError(msg)
        return self
