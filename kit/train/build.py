"""Builders: from the description of a run to data, model, what trains, task and trainer.

Everything that takes steps, be it training, planning or measuring, builds its trainer here, so that all of them take
the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from aurora import Aurora

from kit.adapt import factory, rollout_lora
from kit.adapt.latent import LatentSpace
from kit.adapt.training_check import TrainingCheck
from kit.data.dataset import Pairs, Selection
from kit.data.readers import reader_for
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.memory import engine
from kit.memory.device import make_deterministic
from kit.models.heads import parse_heads
from kit.models.space import TrainingSpace, Window
from kit.models.spec import ModelSpec
from kit.models.variants import variant_named
from kit.models.weights.load import Weights, load
from kit.settings import Settings
from kit.train.loop import Schedule
from kit.train.loss import FieldLoss, LossFunction, point_weights
from kit.train.optim import resolved_groups
from kit.train.resolve import RunSpec, StepSpec, resolve_run
from kit.train.task import Task
from kit.train.tasks.forecast import ForecastTask, TaskData
from kit.train.tasks.latents import LatentTask
from kit.train.tasks.replay import ReplayBuffer, ReplayTask
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater

__all__ = ["Job", "build_job", "build_trainer"]


@dataclass(frozen=True)
class Job:
    """A run, ready to start.

    Attributes:
        settings: Settings with every default filled in.
        run: Description of the run.
        trainer: Takes the steps.
    """

    settings: Settings
    run: RunSpec
    trainer: Trainer

    @property
    def model(self) -> Aurora:
        """The model, on its device."""
        return self.trainer.space.model

    @property
    def spec(self) -> ModelSpec:
        """Description of the model."""
        return self.run.step.model

    @property
    def store(self) -> Store:
        """Store that the data come from."""
        return self.run.store

    @property
    def selection(self) -> Selection:
        """Variables, levels and grid that are read from the store."""
        return self.run.selection

    @property
    def weights(self) -> Weights | None:
        """Weights that the model starts from; None for random ones."""
        return self.run.weights

    @property
    def schedule(self) -> Schedule:
        """When to validate and to save."""
        return self.run.schedule

    @property
    def train(self) -> Pairs:
        """Training pairs."""
        return self.run.train

    @property
    def adapter(self) -> dict[str, Any] | None:
        """Part of ``kit.json`` about a delta: its settings, and the weights that it belongs to."""
        adapt = self.settings.adapt
        if self.weights is None or not adapt.is_delta:
            return None
        return {"settings": adapt.defining().model_dump(mode="json"), "base": factory.base_of(self.weights, adapt)}


def build_job(settings: Settings) -> Job:
    """Open store and weights, decide what the run is made of, and build it.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    make_deterministic(settings.train.seed)
    store = open_store(settings.data.store)
    weights = load(settings.model.weights, variant_named(settings.model.variant))
    run = resolve_run(settings, store, weights)
    reader = reader_for(run.workers, pin=run.device.type == "cuda")
    if run.device.type == "cuda":
        run.train.pin_memory()
        run.valid.pin_memory()
    batches = run.schedule.steps * run.schedule.accumulate
    data = TaskData(run.train, run.valid, reader, run.batch_size, batches, run.seed)
    trainer = build_trainer(
        run.step,
        weights,
        run.device,
        window=run.selection.grid.window,
        points=point_weights(run.step.loss, *run.selection.grid.scored_coordinates(store)),
        data=data,
    )
    return Job(_resolved_settings(settings, run, trainer), run, trainer)


def build_trainer(
    step: StepSpec,
    weights: Weights | None,
    device: torch.device,
    *,
    window: Window | None = None,
    points: torch.Tensor | None = None,
    data: TaskData | None = None,
) -> Trainer:
    """Build the step: model, what trains, how it fits into memory, loss, task and optimiser.

    Args:
        step: What decides the step.
        weights: Weights that the model starts from; None for random ones.
        device: Device of the model.
        window: Part of what the model sees that the loss is over; by default all of it.
        points: Weight of each point of the window in the loss, as ``point_weights`` makes it.
        data: Pairs of the run; None where steps are taken on batches from elsewhere, which are not checked.

    Raises:
        KitError: the model cannot be built, or what is to train is not there.
    """
    buffer = None
    if data is not None and step.rollout.buffer is not None:
        # Before the model: the data may end before any item of the buffer reaches its last step.
        buffer = ReplayBuffer(data, step.rollout, step.accumulate)
    model, trained = factory.for_training(
        step.model, weights, step.adapt, autocast=step.autocast, steps=step.steps, start=step.new_init
    )
    engine.install(model, step.memory)
    model.to(device)
    if points is not None:
        points = points.to(device)
    loss = FieldLoss(step.loss, levels=step.model.levels, heads=parse_heads(step.model.heads), points=points)
    loss.check_weights(model.decoder.surf_heads.keys(), model.decoder.atmos_heads.keys())
    check = None
    if data is not None and step.check_after is not None:
        # Before the updater, which may take gradients away as soon as they are complete.
        heads = (*model.surf_vars, *model.decoder.surf_heads, *model.decoder.atmos_heads)
        check = TrainingCheck(model, trained.parameters, unscored=loss.unscored(dict.fromkeys(heads)))
    updater = build_updater(
        trained.parameters,
        step.optim,
        step.memory,
        steps=step.steps,
        new=trained.new,
    )
    task = _build_task(step, model, loss, window, data, buffer)
    return Trainer(task, trained, updater, check=check, activations=step.activations)


def _build_task(
    step: StepSpec,
    model: Aurora,
    loss_fn: LossFunction,
    window: Window | None,
    data: TaskData | None,
    buffer: ReplayBuffer | None,
) -> Task:
    """Choose the task: by ``adapt.decoder``, then by ``rollout.buffer``."""
    if step.adapt.decoder == "mlp":
        return LatentTask(LatentSpace(model, step.model, window), loss_fn, step.rollout, data, step.adapt)
    space = TrainingSpace(model, step.model, window)
    if step.rollout.buffer is not None:
        return ReplayTask(space, loss_fn, step.rollout, data, buffer)
    return ForecastTask(space, loss_fn, step.rollout, data)


def _resolved_settings(settings: Settings, run: RunSpec, trainer: Trainer) -> Settings:
    """Replace every default by what it meant in this run, as ``config.toml`` keeps it."""
    step, selection = run.step, run.selection
    model, raw = step.model, settings.model_dump()
    raw["data"] |= {
        "variables": tuple(dict.fromkeys((*selection.inputs, *selection.targets, *selection.atmospheric))),
        "levels": selection.levels,
        "statics": selection.static,
        **{name: str(period) for name, period in run.periods.items()},
    }
    raw["model"] |= {"transforms": {**settings.model.transforms, **model.transforms}, "heads": dict(model.heads)}
    raw["loss"]["delta"] = step.loss.huber_delta if step.loss.name == "huber" else None
    raw["adapt"] = step.adapt.resolved().model_dump()
    if step.adapt.method == "rollout-lora":
        raw["adapt"]["mode"] = rollout_lora.mode_of(model)
    raw["optim"] = resolved_groups(trainer.updater.groups, step.optim).model_dump()
    raw["rollout"] = step.rollout.resolved().model_dump()
    raw["model"] |= {"weights": settings.model.weights or model.upstream.weights, "timestep": model.timestep}
    raw["train"] |= {
        "steps": run.schedule.steps,
        "epochs": None,
        "device": run.device.type,
        "precision": "bf16" if step.autocast else "fp32",
        "checkpoint_every": run.schedule.checkpoint_every,
    }
    return Settings.model_validate(raw)
