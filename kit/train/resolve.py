"""Resolution of settings, a store and weights to an immutable description of the run.

Whatever depends on settings of more than one room is decided and checked here, before anything is built. The builders
(``kit.train.build``) take their own part of the description, never the tree of settings.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch

from kit.adapt import factory, prompt, rollout_lora
from kit.adapt.latent import check_single_step
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pairs, Selection
from kit.data.loader import ProcessShare
from kit.data.settings import DataSettings, Period
from kit.data.store.reader import Store
from kit.data.windows import check_windows
from kit.diffusion.loading import operator_network
from kit.diffusion.spec import DiffusionSpec, describe_network
from kit.io.errors import SettingsError
from kit.memory.checks import check_training_memory
from kit.memory.device import choose_device, prediction_precision, uses_autocast
from kit.memory.settings import MemorySettings
from kit.models.pretraining_periods import leaks
from kit.models.resolve import resolve_spec, select
from kit.models.spec import ModelSpec
from kit.models.variants import Precision, Variant
from kit.models.weights.load import Weights
from kit.models.weights.locate import RANDOM
from kit.settings import Settings
from kit.train.denoising import check_denoising, denoising_precision, resolve_operator, resolve_states
from kit.train.loop import Schedule
from kit.train.settings import LossSettings, OptimSettings, RolloutSettings, TaskSettings
from kit.train.updaters import check_updater

_logger = logging.getLogger(__name__)

_DEFAULT_EPOCHS = 5
# A denoising network begins at random.
_DEFAULT_DENOISING_EPOCHS = 30


@dataclass(frozen=True)
class StepSpec:
    """Description of an optimiser step, apart from weights and data.

    Attributes:
        model: Description of the model.
        new_init: Initial values of embeddings of new variables: ``zero`` or ``random``.
        adapt: Settings of the method of fine-tuning.
        memory: Settings of memory.
        loss: Settings of the loss.
        optim: Settings of the optimiser, with a learning rate.
        rollout: Steps that are predicted, and which of them have a loss.
        steps: Optimiser steps of the whole run, which schedules are tied to.
        accumulate: Batches in an optimiser step.
        autocast: Whether the forward pass runs in bfloat16.
        activations: Steps from one watched step to the next, whose modules' outputs are recorded; None for none.
        check_after: Steps after which to check that everything trains; None for never.
        ema: Decay of an average of what trains; None for none.
        task: What a step learns from a batch.
        diffusion: Network that learns to denoise, with ``task.name denoise``; the model is then the operator, or a
            description of the states.
        operator: Network that is the operator; None where that is Aurora, or there is none.
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
    ema: float | None
    task: TaskSettings
    diffusion: DiffusionSpec | None = None
    operator: DiffusionSpec | None = None


@dataclass(frozen=True)
class RunSpec:
    """Description of a run.

    Attributes:
        step: Description of its steps.
        store: Store that the data come from.
        weights: Weights that the model starts from; None for random ones, and for a denoising network.
        operator: Weights of the operator that a denoising network reads forecasts of; None without.
        selection: Variables, levels and grid that are read from the store.
        periods: Periods of ``train``, ``valid`` and ``test``.
        train: Training pairs.
        valid: Validation pairs.
        schedule: Times of validation and checkpoints.
        device: Device of the model.
        valid_precision: Precision of validation.
        batch_size: Pairs in a batch.
        workers: Processes that read data.
        seed: Seed of every random number.
        leaks: Overlaps of validation and test with the training data of the base weights, a sentence each.
    """

    step: StepSpec
    store: Store
    weights: Weights | None
    operator: Weights | None
    selection: Selection
    periods: dict[str, Period]
    train: Pairs
    valid: Pairs
    schedule: Schedule
    device: torch.device
    valid_precision: Precision
    batch_size: int
    workers: int
    seed: int
    leaks: tuple[str, ...]


def resolve_step(
    settings: Settings,
    model: ModelSpec,
    steps: int,
    *,
    autocast: bool,
    diffusion: DiffusionSpec | None = None,
    operator: DiffusionSpec | None = None,
) -> StepSpec:
    """Describe an optimiser step.

    Args:
        settings: Settings of the run.
        model: Description of the model.
        steps: Optimiser steps of the whole run.
        autocast: Whether the forward pass runs in bfloat16.
        diffusion: Network that learns to denoise, with ``task.name denoise``.
        operator: Network that is its operator.

    Raises:
        SettingsError: settings of two rooms exclude each other.
    """
    _check_step(settings)
    _check_members(settings, model)
    return StepSpec(
        model=model,
        new_init=settings.model.new_init or "zero",
        adapt=settings.adapt,
        memory=settings.memory,
        loss=settings.loss if diffusion is None else settings.loss.model_copy(update={"name": "mse"}),
        optim=settings.optim.resolved(settings.adapt.method if diffusion is None else "denoise"),
        rollout=settings.rollout,
        steps=steps,
        accumulate=settings.train.accumulate,
        autocast=autocast,
        activations=settings.track.activations,
        check_after=settings.train.check_after,
        ema=settings.train.ema,
        task=settings.task,
        diffusion=diffusion,
        operator=operator,
    )


def resolve_run(settings: Settings, store: Store, weights: Weights | None) -> RunSpec:
    """Describe a run, and check that settings, store and weights fit together.

    Args:
        settings: Settings as they were given.
        store: Store that ``data.store`` names.
        weights: Weights that ``model.weights`` names; None for random ones.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    # The cheap checks of settings alone come before those that read weights and store.
    _check_step(settings)
    device = choose_device(settings.train.device)
    autocast = uses_autocast(settings.train.precision, device)
    model, selection = resolve_model(settings, store, weights, device, autocast=autocast)
    diffusion = operator = None
    if settings.task.name == "denoise":
        operator = operator_network(weights)
        diffusion = describe_network(settings.diffusion, model, selection, store)
    periods = _resolve_periods(settings.data, store)
    synthetic = bool(store.attributes.get("synthetic"))
    leaked = leaks(model.variant, weights, periods, store.fingerprint(), synthetic=synthetic)
    # A replay buffer looks for further targets itself: an item is trained on one step at a time.
    trained = settings.rollout if settings.rollout.buffer is None else RolloutSettings()
    # The best checkpoint should be the best at the roll-out that is trained, not at its first step.
    validated = settings.rollout.validated
    train = Pairs(store, selection, periods["train"], steps=trained.steps, targets=len(trained.loss_steps))
    valid = Pairs(store, selection, periods["valid"], steps=validated.steps, targets=len(validated.loss_steps))
    # Every process takes as many batches, and the last batch and the last step of an epoch may be smaller.
    batches = -(-ProcessShare.of_process().even(len(train)) // settings.data.batch_size)
    per_epoch = -(-batches // settings.train.accumulate)
    epochs = settings.train.epochs or (_DEFAULT_EPOCHS if diffusion is None else _DEFAULT_DENOISING_EPOCHS)
    steps = settings.train.steps or epochs * per_epoch
    schedule = Schedule(steps, per_epoch, settings.train.accumulate, settings.train.checkpoint_every or per_epoch)
    return RunSpec(
        step=resolve_step(settings, model, schedule.steps, autocast=autocast, diffusion=diffusion, operator=operator),
        store=store,
        weights=weights if diffusion is None else None,
        operator=None if diffusion is None else weights,
        selection=selection,
        periods=periods,
        train=train,
        valid=valid,
        schedule=schedule,
        device=device,
        valid_precision=_valid_precision(settings, model.upstream, device, autocast=autocast),
        batch_size=settings.data.batch_size,
        workers=settings.data.workers,
        seed=settings.train.seed,
        leaks=tuple(leaked),
    )


def resolve_model(
    settings: Settings, store: Store, weights: Weights | None, device: torch.device, *, autocast: bool
) -> tuple[ModelSpec, Selection]:
    """Describe the model that trains, or the operator, or the states alone, and what is read of the store.

    Args:
        settings: Settings of the run.
        store: Store that the data come from.
        weights: Weights that ``model.weights`` names; None for random ones.
        device: Device of the model.
        autocast: Whether the forward pass runs in bfloat16.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    if settings.task.name == "denoise":
        if not settings.diffusion.has_operator:
            return resolve_states(settings, store)
        return resolve_operator(settings, store, weights)
    check_training_memory(settings.memory, settings.adapt.method, device, autocast=autocast)
    if weights is None and settings.adapt.is_delta:
        # Its checkpoint would name weights that exist nowhere.
        msg = (
            f"adapt.method {settings.adapt.method} trains a part beside given weights, and model.weights is "
            f"{RANDOM}: choose weights, or train them with --adapt.method full"
        )
        raise SettingsError(msg)
    model = resolve_spec(settings.model, settings.data, store, weights)
    # Upstream's roll-out LoRA never trains: merged where it acts at every step, else kept, or trained by its method.
    merge = settings.model.rollout_lora == "merge"
    model = rollout_lora.spec_for(model, weights, settings.adapt, settings.rollout.loss_steps, merge=merge)
    model = factory.rebased(model, weights, settings.adapt)
    selection = select(model, settings.data, store, model.patch_size)
    stored = sorted({*selection.inputs, *selection.targets})
    check_windows(store, stored, model.lead_hours, hourly=model.upstream.is_v1p5)
    latitude, longitude = selection.grid.latitude(store), selection.grid.longitude(store)
    prompt.check_prompt_cells(settings.adapt, latitude, longitude, model.patch_size)
    return model, selection


def _check_step(settings: Settings) -> None:
    """Check that sections of the settings do not exclude each other, whatever store and weights are."""
    check_denoising(settings)
    check_single_step(settings.adapt, settings.rollout.steps)
    optim = settings.optim.resolved(settings.adapt.method)
    check_updater(optim, settings.memory, settings.train.accumulate, settings.task.losses(settings.rollout))


def _check_members(settings: Settings, model: ModelSpec) -> None:
    """Check that members can be scored together.

    Raises:
        SettingsError: names the setting that is in the way.
    """
    if settings.task.name != "crps":
        return
    msg = None
    if not model.stochastic:
        msg = (
            f"task.name crps needs a model that reads noise, or all members are the same, and variant "
            f"{model.variant!r} reads none; give --model.stochastic, or take variant v1p5-ensemble"
        )
    elif settings.rollout.buffer is not None:
        msg = (
            "task.name crps and rollout.buffer exclude each other: an item of the buffer is one member's; leave out "
            "the buffer, and rollout.steps are predicted by each member"
        )
    elif settings.loss.name not in ("paper-mae", "mae"):
        msg = f"task.name crps generalises the absolute error, and loss.name is {settings.loss.name}; use paper-mae"
    elif model.heads:
        heads = ", ".join(f"{name}={head}" for name, head in model.heads.items())
        msg = f"task.name crps scores values, and model.heads {heads} predict chances; leave the heads out"
    if msg is not None:
        raise SettingsError(msg)


def _valid_precision(settings: Settings, variant: Variant, device: torch.device, *, autocast: bool) -> Precision:
    """Choose the precision of validation.

    Raises:
        SettingsError: it is given, and weights or latents are in another.
    """
    wanted = settings.train.valid_precision
    trained: Precision = "bf16" if autocast else "fp32"
    bound = ""
    if settings.task.name == "denoise":
        return denoising_precision(wanted, trained)
    if settings.memory.frozen_weights == "bf16":
        bound = "memory.frozen_weights bf16 keeps weights"
    elif settings.adapt.decoder == "mlp":
        bound = "adapt.decoder mlp keeps latents of training and validation"
    if bound and wanted not in ("auto", trained):
        msg = f"train.valid_precision is {wanted}, but {bound} in {trained}; leave it out, or give {trained}"
        raise SettingsError(msg)
    # Training in fp32 is no worse than the variant's own precision.
    if wanted == "auto" and (bound or not autocast):
        wanted = "bf16" if autocast else "fp32"
    return prediction_precision(wanted, variant, device)


def _resolve_periods(data: DataSettings, store: Store) -> dict[str, Period]:
    """Take periods from the settings, else from the store, and check that they are apart.

    Neither validation nor test may share a state with training, nor with the data of the statistics.

    Raises:
        SettingsError: two periods overlap, or the store has none of a name.
    """
    periods: dict[str, Period] = {}
    for name in ("train", "valid", "test"):
        period = getattr(data, name) or store.splits.get(name)
        if period is None:
            known = ", ".join(f"{split} {period}" for split, period in store.splits.items())
            msg = (
                f"{store.path}: the store was built without a period for {name}; it has {known}, and states from "
                f"{store.period}. Give --data.{name} START/END, or build it with --{name}"
            )
            raise SettingsError(msg)
        periods[name] = period
    trained = {"data.train": periods["train"], "the store's statistics": store.statistics.train}
    for name in ("valid", "test"):
        for what, period in trained.items():
            if period.start <= periods[name].end and periods[name].start <= period.end:
                msg = (
                    f"{what} ({period}) and data.{name} ({periods[name]}) overlap: scores would be of states that were "
                    "seen in training; choose periods apart, or build the store with these periods"
                )
                raise SettingsError(msg)
    # One day of data does not split in three.
    if periods["valid"] == periods["test"]:
        _logger.warning("data.test is data.valid: the checkpoint is chosen on the states that it is scored on")
    return periods
