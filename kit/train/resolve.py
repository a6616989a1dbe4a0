"""From settings, a store and weights to an immutable description of the run.

Whatever depends on more than one room is decided here, and refused here if it does not fit together, before anything is
built. The builders (``kit.train.build``) take their own part of the description, never the tree of settings.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import torch

from kit.adapt import factory, prompt, rollout_lora
from kit.adapt.latent import refuse_rollout
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pairs, Selection
from kit.data.loader import ProcessShare
from kit.data.settings import DataSettings, Period
from kit.data.store.reader import Store
from kit.data.windows import check_windows
from kit.io.errors import SettingsError
from kit.memory.checks import check_training_memory
from kit.memory.device import choose_device, uses_autocast
from kit.memory.settings import MemorySettings
from kit.models.pretraining_periods import leaks
from kit.models.resolve import resolve_spec, select
from kit.models.spec import ModelSpec
from kit.models.weights.load import RANDOM, Weights
from kit.settings import Settings
from kit.train.loop import Schedule
from kit.train.settings import LossSettings, OptimSettings, RolloutSettings
from kit.train.updaters import check_updater

__all__ = ["RunSpec", "StepSpec", "resolve_run", "resolve_step"]

_logger = logging.getLogger(__name__)

_DEFAULT_EPOCHS = 5


@dataclass(frozen=True)
class StepSpec:
    """Everything that decides an optimiser step, beside weights and data.

    Attributes:
        model: The model.
        new_init: How embeddings of new variables start: ``zero`` or ``random``.
        adapt: What trains.
        memory: How it fits into memory.
        loss: The loss.
        optim: The optimiser, with a learning rate.
        rollout: Steps that are predicted, and which of them have a loss.
        steps: Optimiser steps of the whole run, which schedules are tied to.
        accumulate: Batches in an optimiser step.
        autocast: Whether the forward pass runs in bfloat16.
        activations: Steps from one look at modules' outputs to the next; None for none.
        check_after: Steps after which it is checked that all of it trains; None for never.
    """

    model: ModelSpec
    new_init: Literal["zero", "random"]
    adapt: AdaptSettings
    memory: MemorySettings
    loss: LossSettings
    optim: OptimSettings
    rollout: RolloutSettings
    steps: int
    accumulate: int
    autocast: bool
    activations: int | None
    check_after: int | None


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run.

    Attributes:
        step: What decides its steps.
        store: Store that the data come from.
        weights: Weights that the model starts from; None for random ones.
        selection: Variables, levels and grid that are read from the store.
        periods: Periods of ``train``, ``valid`` and ``test``.
        train: Training pairs.
        valid: Validation pairs.
        schedule: When to validate and to save.
        device: Device of the model.
        batch_size: Pairs in a batch.
        workers: Processes that read data.
        seed: Seed of every random number.
        leaks: What of validation and test the base weights saw in training, a sentence each.
    """

    step: StepSpec
    store: Store
    weights: Weights | None
    selection: Selection
    periods: dict[str, Period]
    train: Pairs
    valid: Pairs
    schedule: Schedule
    device: torch.device
    batch_size: int
    workers: int
    seed: int
    leaks: tuple[str, ...]


def resolve_step(settings: Settings, model: ModelSpec, steps: int, *, autocast: bool) -> StepSpec:
    """Decide what a step is made of.

    Args:
        settings: Settings of the run.
        model: The model.
        steps: Optimiser steps of the whole run.
        autocast: Whether the forward pass runs in bfloat16.

    Raises:
        SettingsError: settings of two rooms exclude each other.
    """
    _check_step(settings)
    return StepSpec(
        model=model,
        new_init=settings.model.new_init or "zero",
        adapt=settings.adapt,
        memory=settings.memory,
        loss=settings.loss,
        optim=settings.optim.resolved(settings.adapt.method),
        rollout=settings.rollout,
        steps=steps,
        accumulate=settings.train.accumulate,
        autocast=autocast,
        activations=settings.track.activations,
        check_after=settings.train.check_after,
    )


def resolve_run(settings: Settings, store: Store, weights: Weights | None) -> RunSpec:
    """Decide everything that a run is made of.

    Args:
        settings: Settings as they were given.
        store: Store that ``data.store`` names.
        weights: Weights that ``model.weights`` names; None for random ones.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    _check_step(settings)
    device = choose_device(settings.train.device)
    autocast = uses_autocast(settings.train.precision, device)
    check_training_memory(settings.memory, settings.adapt.method, device, autocast=autocast)
    if weights is None:
        _check_base(settings.adapt)
    model = resolve_spec(settings.model, settings.data, store, weights)
    merge = settings.model.rollout_lora == "merge"
    model = rollout_lora.spec_for(model, weights, settings.adapt, settings.rollout.loss_steps, merge=merge)
    model = factory.rebased(model, weights, settings.adapt)
    selection = select(model, settings.data, store, model.patch_size)
    stored = sorted({*selection.inputs, *selection.targets})
    check_windows(store, stored, model.lead_hours, hourly=model.upstream.is_v1p5)
    latitude, longitude = selection.grid.latitude(store), selection.grid.longitude(store)
    prompt.refuse_finer_than_patches(settings.adapt, latitude, longitude, model.patch_size)
    periods = _resolve_periods(settings.data, store)
    synthetic = bool(store.attributes.get("synthetic"))
    leaked = leaks(model.variant, weights, periods, synthetic=synthetic)
    train, valid = _resolve_pairs(settings.rollout, store, selection, periods)
    schedule = _resolve_schedule(settings, len(train))
    return RunSpec(
        step=resolve_step(settings, model, schedule.steps, autocast=autocast),
        store=store,
        weights=weights,
        selection=selection,
        periods=periods,
        train=train,
        valid=valid,
        schedule=schedule,
        device=device,
        batch_size=settings.data.batch_size,
        workers=settings.data.workers,
        seed=settings.train.seed,
        leaks=tuple(leaked),
    )


def _check_step(settings: Settings) -> None:
    """Refuse sections of the settings that exclude each other, whatever store and weights are."""
    refuse_rollout(settings.adapt, settings.rollout.steps)
    optim = settings.optim.resolved(settings.adapt.method)
    check_updater(optim, settings.memory, settings.train.accumulate, len(settings.rollout.loss_steps))


def _check_base(adapt: AdaptSettings) -> None:
    """Refuse to train a part of random weights: its checkpoint names weights, and would have none to name.

    Raises:
        SettingsError: the method trains a part.
    """
    if adapt.is_delta:
        msg = (
            f"adapt.method {adapt.method} trains a part beside given weights, and model.weights is "
            f"{RANDOM}: choose weights, or train them with --adapt.method full"
        )
        raise SettingsError(msg)


def _resolve_pairs(
    rollout: RolloutSettings, store: Store, selection: Selection, periods: dict[str, Period]
) -> tuple[Pairs, Pairs]:
    """Find the pairs for the roll-out that is trained, and those that it is validated by."""
    # A replay buffer looks for further targets itself: an item is trained on one step at a time.
    trained = rollout if rollout.buffer is None else RolloutSettings()
    validated = rollout.validated
    train = Pairs(store, selection, periods["train"], steps=trained.steps, targets=len(trained.loss_steps))
    valid = Pairs(store, selection, periods["valid"], steps=validated.steps, targets=len(validated.loss_steps))
    return train, valid


def _resolve_periods(data: DataSettings, store: Store) -> dict[str, Period]:
    """Take periods as set, else the store's.

    Neither validation nor test may share a state with training, nor may the statistics have seen them.
    """
    periods = {name: getattr(data, name) or _split(store, name) for name in ("train", "valid", "test")}
    for name in ("valid", "test"):
        _check_apart("data.train", periods["train"], f"data.{name}", periods[name])
        _check_apart("the store's statistics", store.statistics.train, f"data.{name}", periods[name])
    if periods["valid"] == periods["test"]:
        _logger.warning("data.test is data.valid: the checkpoint is chosen on the states that it is scored on")
    return periods


def _split(store: Store, name: str) -> Period:
    if name not in store.splits:
        known = ", ".join(f"{split} {period}" for split, period in store.splits.items())
        msg = (
            f"{store.path}: the store was built without a period for {name}; it has {known}, and states from "
            f"{store.period}. Give --data.{name} START/END, or build it with --{name}"
        )
        raise SettingsError(msg)
    return store.splits[name]


def _check_apart(what: str, seen: Period, name: str, unseen: Period) -> None:
    if seen.start <= unseen.end and unseen.start <= seen.end:
        msg = (
            f"{what} ({seen}) and {name} ({unseen}) overlap: scores would be of states that were seen in training; "
            "choose periods apart, or build the store with these periods"
        )
        raise SettingsError(msg)


def _resolve_schedule(settings: Settings, pairs: int) -> Schedule:
    """Decide how many steps there are, and after which of them to validate and to save."""
    train = settings.train
    # Every process takes as many batches, and the last batch and the last step of an epoch may be smaller.
    batches = -(-ProcessShare.of_process().even(pairs) // settings.data.batch_size)
    per_epoch = -(-batches // train.accumulate)
    steps = train.steps or (train.epochs or _DEFAULT_EPOCHS) * per_epoch
    return Schedule(steps, per_epoch, train.accumulate, train.checkpoint_every or per_epoch)
