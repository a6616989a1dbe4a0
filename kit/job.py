"""The composition root: from settings to data, model, what trains, and the step.

Everything that runs the model, be it training, planning, evaluating or measuring, builds it here, so that all of
them run the same step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import build, prompt, rollout_lora
from kit.adapt.check import TrainingCheck
from kit.adapt.latent import LatentSpace, refuse_rollout
from kit.checkpoint.folder import Checkpoint
from kit.data.build import open_store
from kit.data.pairs import Pair, Pairs, Selection, ShuffledPairs, load_pairs, read_ahead
from kit.data.settings import DataSettings, Period
from kit.data.store import Store
from kit.data.window import refuse_other_windows
from kit.errors import SettingsError, StoreError
from kit.memory import engine
from kit.memory.advice import Situation
from kit.memory.checks import refuse_in_forecast, refuse_without_effect
from kit.memory.settings import MemorySettings
from kit.memory.shortage import Shortage, explain_forecast
from kit.models import weights as weights_room
from kit.models.base import base_spec, known_to
from kit.models.heads import parse_heads
from kit.models.resolve import resolve_spec, select
from kit.models.seen import leaks
from kit.models.space import TrainingSpace, Window
from kit.models.spec import ModelSpec
from kit.models.variants import variant_named
from kit.models.weights import Weights
from kit.settings import Settings
from kit.train.groups import settled
from kit.train.loop import Schedule
from kit.train.loss import FieldLoss, point_weights
from kit.train.replay import ReplayBuffer
from kit.train.settings import RolloutSettings
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater
from kit.train.what_trains import Seen

__all__ = [
    "Conditions",
    "Forecaster",
    "Job",
    "build_base_forecaster",
    "build_forecaster",
    "build_job",
    "build_predictor",
    "build_starter",
    "build_trainer",
    "choose_device",
    "make_deterministic",
    "uses_autocast",
]

_logger = logging.getLogger(__name__)

_DEFAULT_EPOCHS = 5


@dataclass(frozen=True)
class Job:
    """A run, ready to start.

    Attributes:
        settings: with every default filled in.
        store: where the data come from.
        spec: the model.
        selection: what is read from the store.
        weights: what the model starts from; None for random weights.
        trainer: takes the steps.
        schedule: when things happen.
        train: training pairs.
        valid: validation pairs.
        leaks: what of validation and test the base weights saw in training, a sentence each.
        replay: the replay buffer that training draws from, if it does.
    """

    settings: Settings
    store: Store
    spec: ModelSpec
    selection: Selection
    weights: Weights | None
    trainer: Trainer
    schedule: Schedule
    train: Pairs
    valid: Pairs
    leaks: tuple[str, ...] = ()
    replay: ReplayBuffer | None = None

    @property
    def model(self) -> Aurora:
        """The model, on its device."""
        return self.trainer.space.model

    @property
    def adapter(self) -> dict[str, Any] | None:
        """What ``kit.json`` says of a delta: its settings, and the weights that it belongs to."""
        adapt = self.settings.adapt
        if self.weights is None or not adapt.is_delta:
            return None
        return {"settings": adapt.defining().model_dump(mode="json"), "base": build.base_of(self.weights, adapt)}

    @property
    def feature_cache(self) -> str | None:
        """What there was to say of the feature cache when it was opened, where there is one."""
        return self.trainer.space.told if isinstance(self.trainer.space, LatentSpace) else None

    def training_batches(self, start: int) -> Iterable[Pair]:
        """Batches from a position on, counted from the beginning of training."""
        if self.replay is not None:
            return self.replay.batches(start, self.schedule.steps * self.schedule.accumulate)
        sampler = ShuffledPairs(
            len(self.train),
            batch_size=self.settings.data.batch_size,
            seed=self.settings.train.seed,
            batches=self.schedule.steps * self.schedule.accumulate,
            start=start,
        )
        workers = self.settings.data.workers
        batches = load_pairs(self.train, workers=workers, batch_sampler=sampler, pin=_pins(self.trainer.device))
        # Workers read ahead by themselves.
        return batches if workers else read_ahead(batches)

    def validation_batches(self) -> Iterable[Pair]:
        """All validation pairs in order of time."""
        data = self.settings.data
        pin = _pins(self.trainer.device)
        return load_pairs(self.valid, workers=data.workers, batch_size=data.batch_size, pin=pin)


def _pins(device: torch.device) -> bool:
    """Whether states are read into pinned memory."""
    return bool(device.type == "cuda")


def choose_device(name: str) -> torch.device:
    """The device that a setting names.

    Raises:
        SettingsError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        msg = "train.device is cuda, but PyTorch finds no GPU; check the driver (nvidia-smi), or use --train.device cpu"
        raise SettingsError(msg)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def uses_autocast(precision: str, device: torch.device) -> bool:
    """Whether the forward pass runs in bfloat16: ``auto`` means on a GPU."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def make_deterministic(seed: int) -> None:
    """Seed PyTorch, and have it use deterministic kernels alone."""
    # cuBLAS is deterministic only with a fixed workspace (CUDA documentation, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)


def build_job(settings: Settings) -> Job:
    """Compose a run.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    refuse_rollout(settings.adapt, settings.rollout.steps)
    make_deterministic(settings.train.seed)
    device = choose_device(settings.train.device)
    autocast = uses_autocast(settings.train.precision, device)
    refuse_without_effect(settings.memory, settings.adapt.method, device, autocast=autocast)
    store = open_store(settings.data.store)
    weights = weights_room.load(settings.model.weights, variant_named(settings.model.variant))
    if weights is None:
        _refuse_delta_without_base(settings)
    spec = resolve_spec(settings.model, settings.data, store, weights)
    spec = rollout_lora.spec_for(
        spec, weights, settings.adapt, settings.rollout.graded_steps, merge=settings.model.rollout_lora == "merge"
    )
    spec = build.rebased(spec, weights, settings.adapt)
    selection = select(spec, settings.data, store, spec.patch_size)
    stored = {*selection.inputs, *selection.targets}
    refuse_other_windows(store, sorted(stored), spec.lead_hours, hourly=spec.upstream.is_v1p5)
    axes = selection.grid.latitude(store), selection.grid.longitude(store)
    prompt.refuse_finer_than_patches(settings.adapt, *axes, spec.patch_size)
    periods = _periods(settings.data, store)
    leaked = leaks(spec.variant, weights, periods, synthetic=bool(store.attributes.get("synthetic")))
    train, valid = _pairs(settings.rollout, store, selection, periods)
    replay = _replay(settings, train, device)
    schedule = _schedule(settings, len(train))
    window = selection.grid.window
    points = point_weights(settings.loss, train.latitude if window is None else train.latitude[window[0]])
    trainer = build_trainer(
        settings,
        spec,
        weights,
        schedule.steps,
        device,
        autocast=autocast,
        window=window,
        points=points,
        check=True,
    )
    if isinstance(trainer.space, LatentSpace):
        trainer.space.open_cache(settings.adapt, (train, valid))
    resolved = _resolved(settings, spec, selection, periods, schedule, trainer, autocast)
    return Job(resolved, store, spec, selection, weights, trainer, schedule, train, valid, tuple(leaked), replay)


def build_trainer(
    settings: Settings,
    spec: ModelSpec,
    weights: Weights | None,
    steps: int,
    device: torch.device,
    *,
    autocast: bool,
    window: Window | None = None,
    points: torch.Tensor | None = None,
    check: bool = False,
) -> Trainer:
    """Compose the step: model, what trains, how it fits into memory, loss and optimiser.

    The planner traces the very trainer that this builds.

    Args:
        settings: of the run.
        spec: the model.
        weights: what it starts from; None for random weights.
        steps: of the whole run.
        device: where it runs.
        autocast: run the forward pass in bfloat16.
        window: the part of what the model sees that the loss is over; all of it without one.
        points: how much each point of the window counts in the loss, as ``point_weights`` makes it.
        check: watch whether all that is to train does, as ``train.check_after`` says.
    """
    refuse_rollout(settings.adapt, settings.rollout.steps)
    start = settings.model.new_init or "zero"
    model, trained = build.for_training(spec, weights, settings.adapt, autocast=autocast, steps=steps, start=start)
    engine.install(model, settings.memory)
    model.to(device)
    loss = FieldLoss(settings.loss, levels=spec.levels, heads=parse_heads(spec.heads), points=points)
    watch = None
    if check and settings.train.check_after is not None:
        # Before the updater, which may take gradients away as soon as they are complete.
        heads = (*model.surf_vars, *model.decoder.surf_heads, *model.decoder.atmos_heads)
        unscored = loss.unscored(dict.fromkeys(heads))
        watch = TrainingCheck(model, trained.parameters, unscored=unscored)
    updater = build_updater(
        trained.parameters,
        settings.optim.resolved(settings.adapt.method),
        settings.memory,
        steps=steps,
        accumulate=settings.train.accumulate,
        graded=len(settings.rollout.graded_steps),
        new=trained.new,
    )
    return Trainer(
        (LatentSpace if settings.adapt.decoder == "mlp" else TrainingSpace)(model, spec, window),
        loss if watch is None else Seen(loss, watch),
        trained,
        updater,
        rollout=settings.rollout,
        check=watch,
        activations=settings.track.activations,
    )


def _refuse_delta_without_base(settings: Settings) -> None:
    """Refuse to train a part on random weights: its checkpoint names weights, and would have none to name.

    Raises:
        SettingsError: the weights are random.
    """
    if settings.adapt.is_delta:
        msg = (
            f"adapt.method {settings.adapt.method} trains a part beside given weights, and model.weights is "
            f"{weights_room.RANDOM}: choose weights, or train them with --adapt.method full"
        )
        raise SettingsError(msg)


def _pairs(
    rollout: RolloutSettings, store: Store, selection: Selection, periods: dict[str, Period]
) -> tuple[Pairs, Pairs]:
    """Pairs for the roll-out that is trained, and those that it is validated by; a buffer looks for further targets."""
    trained = RolloutSettings() if rollout.buffer is not None else rollout
    train, valid = (
        Pairs(store, selection, periods[name], steps=part.steps, targets=len(part.graded_steps))
        for name, part in (("train", trained), ("valid", rollout.validated))
    )
    return train, valid


def _replay(settings: Settings, pairs: Pairs, device: torch.device) -> ReplayBuffer | None:
    if settings.rollout.buffer is None:
        return None
    return ReplayBuffer(
        pairs,
        settings.rollout,
        batch_size=settings.data.batch_size,
        accumulate=settings.train.accumulate,
        seed=settings.train.seed,
        pin=_pins(device),
    )


def _periods(data: DataSettings, store: Store) -> dict[str, Period]:
    """Periods as set, else the store's.

    Neither validation nor test may share a state with training, nor may the statistics have seen them.
    """
    periods = {name: getattr(data, name) or store.splits[name] for name in ("train", "valid", "test")}
    for name in ("valid", "test"):
        _refuse_overlap("data.train", periods["train"], f"data.{name}", periods[name])
        _refuse_overlap("the store's statistics", store.statistics.train, f"data.{name}", periods[name])
    if periods["valid"] == periods["test"]:
        _logger.warning("data.test is data.valid: the checkpoint is chosen on the states that it is scored on")
    return periods


def _refuse_overlap(what: str, seen: Period, name: str, unseen: Period) -> None:
    if seen.start <= unseen.end and unseen.start <= seen.end:
        msg = (
            f"{what} ({seen}) and {name} ({unseen}) overlap: scores would be of states that were seen in training; "
            "choose periods apart, or build the store with these periods"
        )
        raise SettingsError(msg)


def _schedule(settings: Settings, pairs: int) -> Schedule:
    batches = -(-pairs // settings.data.batch_size)
    per_epoch = -(-batches // settings.train.accumulate)
    steps = settings.train.steps or (settings.train.epochs or _DEFAULT_EPOCHS) * per_epoch
    return Schedule(steps, per_epoch, settings.train.accumulate, settings.train.checkpoint_every or per_epoch)


def _resolved(
    settings: Settings,
    spec: ModelSpec,
    selection: Selection,
    periods: dict[str, Period],
    schedule: Schedule,
    trainer: Trainer,
    autocast: bool,
) -> Settings:
    """The settings with every default replaced by what it meant in this run."""
    raw = settings.model_dump()
    raw["data"] |= {
        "variables": tuple(dict.fromkeys((*selection.inputs, *selection.targets, *selection.atmospheric))),
        "levels": selection.levels,
        "statics": selection.static,
        **{name: str(period) for name, period in periods.items()},
    }
    raw["model"] |= {"transforms": {**settings.model.transforms, **spec.transforms}, "heads": dict(spec.heads)}
    raw["loss"]["delta"] = settings.loss.huber_delta if settings.loss.name == "huber" else None
    raw["adapt"] = settings.adapt.resolved().model_dump()
    if settings.adapt.method == "rollout-lora":
        raw["adapt"]["mode"] = rollout_lora.mode_of(spec)
    raw["optim"] = settled(trainer.updater.groups, settings.optim.resolved(settings.adapt.method)).model_dump()
    raw["rollout"] = settings.rollout.resolved().model_dump()
    raw["model"] |= {"weights": settings.model.weights or spec.upstream.weights, "timestep": spec.timestep}
    raw["train"] |= {
        "steps": schedule.steps,
        "epochs": None,
        "device": trainer.device.type,
        "precision": "bf16" if autocast else "fp32",
        "checkpoint_every": schedule.checkpoint_every,
    }
    return Settings.model_validate(raw)


@dataclass(frozen=True)
class Conditions:
    """What a checkpoint is tried on, and how.

    Attributes:
        store: another store than the one that it was trained on.
        period: times to predict; by default the test split that the checkpoint recorded.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        memory: how a forecast fits the device.
        steps: from the input states to the state that is predicted.
    """

    store: str | None = None
    period: Period | None = None
    device: str = "auto"
    precision: str = "auto"
    memory: MemorySettings = field(default_factory=MemorySettings)
    steps: int = 1

    def out_of_memory(self, shortage: Shortage, batch_size: int = 1) -> str:
        """Say what a lack of memory means here."""
        device = choose_device(self.device)
        autocast = uses_autocast(self.precision, device)
        return explain_forecast(shortage, Situation(self.memory, device.type, autocast, batch_size=batch_size))


@dataclass(frozen=True)
class Forecaster:
    """A model with the data that it is tried on.

    Attributes:
        space: predicts physical variables.
        pairs: what it is tried on.
        store: where they come from.
    """

    space: TrainingSpace
    pairs: Pairs
    store: Store


def build_predictor(
    spec: ModelSpec, weights: Weights | None, memory: MemorySettings, device: torch.device, *, autocast: bool
) -> TrainingSpace:
    """Compose what predicts: model, and how it fits into memory. The planner traces the very one."""
    model = build.for_prediction(spec, weights, autocast=autocast).requires_grad_(False)
    engine.install(model, memory)
    return TrainingSpace(model.to(device).eval(), spec)


def build_forecaster(checkpoint: Checkpoint, conditions: Conditions) -> Forecaster:
    """Load a checkpoint for prediction.

    Raises:
        KitError: the checkpoint and the data do not fit together.
    """
    return _forecaster(checkpoint, weights_room.load(str(checkpoint.path), checkpoint.spec.upstream), conditions)


def build_base_forecaster(checkpoint: Checkpoint, conditions: Conditions) -> Forecaster | None:
    """Load the weights that a checkpoint's training started from; None where they were random.

    Raises:
        CheckpointError: they are nowhere to be found, or have changed.
    """
    base: dict[str, Any] | None = checkpoint.description["base"]
    if base is None:
        return None
    weights = weights_room.load_base(base, checkpoint.path, checkpoint.spec.upstream)
    return _forecaster(checkpoint, weights, conditions, base_spec(checkpoint.spec, weights))


def build_starter(checkpoint: Checkpoint, conditions: Conditions) -> Forecaster:
    """Load a checkpoint for forecasts from the states of a store; its pairs are input states, without targets.

    What the model never reads need not be there.

    Raises:
        KitError: the checkpoint and the data do not fit together.
    """
    weights = weights_room.load(str(checkpoint.path), checkpoint.spec.upstream)
    return _forecaster(checkpoint, weights, conditions, targets=False)


def _forecaster(
    checkpoint: Checkpoint,
    weights: Weights | None,
    conditions: Conditions,
    spec: ModelSpec | None = None,
    *,
    targets: bool = True,
) -> Forecaster:
    """Load a model, by default the checkpoint's own, and what it can predict of what the checkpoint predicts."""
    spec, data = spec or checkpoint.spec, checkpoint.description["data"]
    device = choose_device(conditions.device)
    autocast = uses_autocast(conditions.precision, device)
    refuse_in_forecast(conditions.memory, autocast=autocast)
    name = conditions.store or data["store"]
    store = _store(name, own=conditions.store is None)
    chosen = {"region": data["region"], "levels": spec.levels, **known_to(spec, data)}
    if not targets:
        never_read = spec.upstream.physical(spec.output_only)
        chosen["variables"] = tuple(variable for variable in chosen["variables"] if variable not in never_read)
    # Checkpoints from before there were halos do not speak of one.
    settings = DataSettings(store=name, history=spec.history, halo=data.get("halo", 0.0), **chosen)
    selection = select(spec, settings, store, spec.patch_size)
    period = conditions.period or (Period.parse(data["test"]) if targets else store.period)
    pairs = Pairs(store, selection, period, steps=conditions.steps if targets else 0)
    space = build_predictor(spec, weights, conditions.memory, device, autocast=autocast)
    return Forecaster(space, pairs, store)


def _store(name: str, *, own: bool) -> Store:
    """Open a store; of the one that a checkpoint was trained on say what it was."""
    try:
        return open_store(name)
    except StoreError as error:
        if not own:
            raise
        msg = f"the store that the checkpoint was trained on cannot be had; name another with --data.store: {error}"
        raise StoreError(msg) from error
