"""The composition root: from settings to data, model, what trains, and the step.

Everything that runs the model, be it training, planning, evaluating or measuring, builds it here, so that all of
them run the same step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import factory as build
from kit.adapt import prompt, rollout_lora
from kit.adapt.latent import LatentSpace, refuse_rollout
from kit.adapt.training_check import TrainingCheck
from kit.data.dataset import Pair, Pairs, Selection
from kit.data.loader import ProcessShare, ShuffledPairs, load_pairs
from kit.data.readers import Reader, reader_for
from kit.data.settings import DataSettings, Period
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.data.windows import check_windows
from kit.io.errors import SettingsError
from kit.memory import engine
from kit.memory.checks import refuse_without_effect
from kit.models.heads import parse_heads
from kit.models.pretraining_periods import leaks
from kit.models.resolve import resolve_spec, select
from kit.models.space import TrainingSpace, Window
from kit.models.spec import ModelSpec
from kit.models.variants import variant_named
from kit.models.weights import load as weights_room
from kit.models.weights.load import Weights
from kit.settings import Settings
from kit.train.loop import Schedule
from kit.train.loss import FieldLoss, point_weights
from kit.train.optim import settled
from kit.train.replay import ReplayBuffer
from kit.train.settings import RolloutSettings
from kit.train.trainable_record import Seen
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater

__all__ = [
    "Job",
    "build_job",
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
        reader: reads both.
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
    reader: Reader
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
            share=ProcessShare.of_process(),
        )
        return load_pairs(self.train, self.reader, order=sampler, beside=self._beside)

    def validation_batches(self) -> Iterable[Pair]:
        """All validation pairs in order of time."""
        batch_size = self.settings.data.batch_size
        return load_pairs(self.valid, self.reader, batch_size=batch_size, beside=self._beside)

    @property
    def _beside(self) -> Callable[[datetime], None] | None:
        """Reads the latents of an input time ahead, where they are kept."""
        space = self.trainer.space
        return space.cache.read_ahead if isinstance(space, LatentSpace) and space.cache is not None else None


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
    check_windows(store, sorted(stored), spec.lead_hours, hourly=spec.upstream.is_v1p5)
    axes = selection.grid.latitude(store), selection.grid.longitude(store)
    prompt.refuse_finer_than_patches(settings.adapt, *axes, spec.patch_size)
    periods = _periods(settings.data, store)
    leaked = leaks(spec.variant, weights, periods, synthetic=bool(store.attributes.get("synthetic")))
    train, valid = _pairs(settings.rollout, store, selection, periods)
    reader = reader_for(settings.data.workers, pin=device.type == "cuda")
    if device.type == "cuda":
        for pairs in (train, valid):
            pairs.pin_memory()
    replay = _replay(settings, train, reader)
    schedule = _schedule(settings, len(train))
    window = selection.grid.window
    points = point_weights(settings.loss, *selection.grid.scored_coordinates(store))
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
    return Job(
        resolved, store, spec, selection, weights, trainer, schedule, train, valid, reader, tuple(leaked), replay
    )


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
    loss.refuse_unknown(model.decoder.surf_heads.keys(), model.decoder.atmos_heads.keys())
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


def _replay(settings: Settings, pairs: Pairs, reader: Reader) -> ReplayBuffer | None:
    if settings.rollout.buffer is None:
        return None
    return ReplayBuffer(
        pairs,
        settings.rollout,
        batch_size=settings.data.batch_size,
        accumulate=settings.train.accumulate,
        seed=settings.train.seed,
        reader=reader,
    )


def _periods(data: DataSettings, store: Store) -> dict[str, Period]:
    """Periods as set, else the store's.

    Neither validation nor test may share a state with training, nor may the statistics have seen them.
    """
    periods = {name: getattr(data, name) or _split(store, name) for name in ("train", "valid", "test")}
    for name in ("valid", "test"):
        _refuse_overlap("data.train", periods["train"], f"data.{name}", periods[name])
        _refuse_overlap("the store's statistics", store.statistics.train, f"data.{name}", periods[name])
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


def _refuse_overlap(what: str, seen: Period, name: str, unseen: Period) -> None:
    if seen.start <= unseen.end and unseen.start <= seen.end:
        msg = (
            f"{what} ({seen}) and {name} ({unseen}) overlap: scores would be of states that were seen in training; "
            "choose periods apart, or build the store with these periods"
        )
        raise SettingsError(msg)


def _schedule(settings: Settings, pairs: int) -> Schedule:
    batches = -(-ProcessShare.of_process().even(pairs) // settings.data.batch_size)
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
