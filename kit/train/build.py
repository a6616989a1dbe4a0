"""Builders: from the description of a run to data, model, trained parameters, task and trainer.

Everything that takes steps, be it training, planning or measuring, builds its trainer here, so that all of them take
the same step.
"""

from dataclasses import dataclass
from typing import Any

import torch

from kit.adapt import factory, rollout_lora
from kit.adapt.latent import LatentSpace
from kit.adapt.trainable import Trained
from kit.adapt.training_check import TrainingCheck
from kit.data.dataset import Pairs, Selection
from kit.data.readers import reader_for
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.diffusion.coarse import averaged
from kit.diffusion.forecasts import BlankForecasts
from kit.diffusion.loading import build_operator
from kit.diffusion.network import build_network
from kit.diffusion.space import DiffusionSpace, Operator
from kit.memory import engine
from kit.memory.device import make_deterministic, prediction_precision
from kit.memory.prediction import build_prediction_space
from kit.memory.settings import MemorySettings
from kit.models.heads import parse_heads
from kit.models.noise import NamedNoise
from kit.models.space import TrainingSpace, Window
from kit.models.spec import ModelSpec
from kit.models.variants import Precision, variant_named
from kit.models.weights.load import Weights, load
from kit.settings import Settings
from kit.train.average import WeightAverage
from kit.train.ensemble_loss import EnsembleLoss
from kit.train.loop import Schedule
from kit.train.loss import FieldLoss, point_weights
from kit.train.optim import group_parameters, resolved_groups
from kit.train.resolve import RunSpec, StepSpec, resolve_run
from kit.train.task import Task
from kit.train.tasks.crps import CrpsTask
from kit.train.tasks.denoise import DenoiseTask
from kit.train.tasks.forecast import ForecastTask, LatentTask
from kit.train.tasks.pairs import TaskData
from kit.train.tasks.replay import ReplayBuffer, ReplayTask
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater


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
    def model(self) -> torch.nn.Module:
        """Model that trains, on its device."""
        return self.trainer.model

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
    def operator(self) -> Weights | None:
        """Weights of the operator that a denoising network reads forecasts of; None without."""
        return self.run.operator

    @property
    def schedule(self) -> Schedule:
        """Times of validation and checkpoints."""
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
    """Open store and weights, resolve the run, and build it.

    Raises:
        KitError: settings, store and weights do not fit together.
    """
    # First: initial weights and dropout are drawn from here on.
    make_deterministic(settings.train.seed)
    store = open_store(settings.data.store)
    weights = None
    if settings.task.name != "denoise" or settings.diffusion.has_operator:
        is_operator = settings.task.name == "denoise"
        weights = load(settings.model.weights, variant_named(settings.model.variant), network=is_operator)
    run = resolve_run(settings, store, weights)
    reader = reader_for(run.workers, pin=run.device.type == "cuda")
    if run.device.type == "cuda":
        # Copies from pinned memory run beside the step; elsewhere pinning would cost and gain nothing.
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
        valid_precision=run.valid_precision,
    )
    return Job(resolved_settings(settings, run, trainer.trained), run, trainer)


def build_trainer(
    step: StepSpec,
    weights: Weights | None,
    device: torch.device,
    *,
    window: Window | None = None,
    points: torch.Tensor | None = None,
    data: TaskData | None = None,
    valid_precision: Precision | None = None,
) -> Trainer:
    """Build the trainer: model with its trained parameters and memory settings, loss, task and updater.

    Args:
        step: Description of the step.
        weights: Weights that the model starts from; None for random ones.
        device: Device of the model.
        window: Part of the model's grid that the loss is over; by default all of it.
        points: Weight of each point of the window in the loss, as ``point_weights`` makes it.
        data: Pairs of the run; None where steps are taken on batches from elsewhere, whose training is not checked.
        valid_precision: Precision of validation; None for that of training.

    Raises:
        KitError: the model cannot be built, or lacks parameters that are to train.
    """
    if step.diffusion is not None:
        return build_denoiser(step, weights, device, window, points, data, valid_precision)
    buffer = None
    if data is not None and step.rollout.buffer is not None:
        # Before the model: the data may end before any item of the buffer reaches its last step.
        buffer = ReplayBuffer(data, step.rollout, step.accumulate)
    model, trained = factory.for_training(
        step.model, weights, step.adapt, autocast=step.autocast, steps=step.steps, start=step.new_init
    )
    # After adapters are in place and the rest is frozen: ``memory.frozen_weights`` halves what does not train.
    engine.install(model, step.memory)
    # Before the updater, whose states are made on the parameters' device.
    model.to(device)
    points = None if points is None else points.to(device)
    kind = EnsembleLoss if step.task.name == "crps" else FieldLoss
    loss = kind(step.loss, levels=step.model.levels, heads=parse_heads(step.model.heads), points=points)
    loss.check_weights(model.decoder.surf_heads.keys(), model.decoder.atmos_heads.keys())
    check = None
    if data is not None and step.check_after is not None:
        # Before the updater, which may take gradients away as soon as they are complete.
        heads = (*model.surf_vars, *model.decoder.surf_heads, *model.decoder.atmos_heads)
        check = TrainingCheck(model, trained.parameters, unscored=loss.unscored(dict.fromkeys(heads)))
    average = None if step.ema is None else WeightAverage(trained.parameters, step.ema)
    updater = build_updater(trained.parameters, step.optim, step.memory, steps=step.steps, new=trained.new)
    # Chosen by ``task.name``, ``adapt.decoder``, then by ``rollout.buffer``; nothing after this knows a task by type.
    task: Task
    if isinstance(loss, EnsembleLoss):
        task = CrpsTask(TrainingSpace(model, step.model, window), loss, step.rollout, data, step.task)
    elif step.adapt.decoder == "mlp":
        task = LatentTask(LatentSpace(model, step.model, window), loss, step.rollout, data, step.adapt)
    elif step.rollout.buffer is not None:
        task = ReplayTask(TrainingSpace(model, step.model, window), loss, step.rollout, data, buffer)
    else:
        task = ForecastTask(TrainingSpace(model, step.model, window), loss, step.rollout, data)
    return Trainer(
        task,
        trained,
        updater,
        check=check,
        activations=step.activations,
        valid_precision=valid_precision,
        valid_seed=0 if data is None else data.seed,
        average=average,
    )


def build_denoiser(
    step: StepSpec,
    operator: Weights | None,
    device: torch.device,
    window: Window | None,
    points: torch.Tensor | None,
    data: TaskData | None,
    valid_precision: Precision | None,
) -> Trainer:
    """Build the trainer of a denoising network, with the operator whose forecasts it reads, as ``build_trainer`` does.

    Raises:
        KitError: the network or the operator cannot be built.
    """
    spec = step.diffusion
    assert spec is not None
    forecaster: Operator | None = None
    # Forecasts that are kept were made before the step that a plan is of.
    if spec.settings.has_operator and (data is not None or spec.settings.forecasts == "live"):
        precision = prediction_precision("auto", step.model.upstream, device)
        if step.operator is None:
            bands = MemorySettings(latitude_bands=step.memory.latitude_bands, window_bands=step.memory.window_bands)
            forecaster = build_prediction_space(step.model, operator, bands, device, precision)
        else:
            forecaster = build_operator(operator, step.operator, step.model, device, autocast=precision == "bf16")
        forecaster.noise = NamedNoise(0)
    recomputed = 0
    if step.memory.recompute == "blocks":
        recomputed = step.memory.stages or len(spec.settings.multiples or (1,))
    # After the operator, whose building draws random numbers: the network's weights are the seed's alone.
    torch.manual_seed(0 if data is None else data.seed)
    network = build_network(spec, recomputed).to(device)
    parameters = dict(network.named_parameters())
    space = DiffusionSpace(network, spec, forecaster, autocast=step.autocast)
    if forecaster is None and spec.settings.has_operator:
        space.forecasts = BlankForecasts(spec)
    if points is not None:
        points = averaged(points[None, None], spec.settings.coarsen, circular=False)[0, 0].to(device)
    loss = FieldLoss(step.loss, levels=spec.levels, points=points)
    loss.check_weights(spec.surface, spec.atmospheric)
    check = None
    if data is not None and step.check_after is not None:
        check = TrainingCheck(network, parameters)
    average = None if step.ema is None else WeightAverage(parameters, step.ema)
    updater = build_updater(parameters, step.optim, step.memory, steps=step.steps)
    # What forecasts follow from beside their initial states.
    facts = "" if operator is None else f"operator {operator.base['sha256']}"
    if data is not None:
        facts += f", store {data.train.store.fingerprint()}, {device.type}"
    return Trainer(
        DenoiseTask(space, loss, data, window, facts),
        Trained(parameters),
        updater,
        check=check,
        valid_precision=valid_precision,
        average=average,
    )


def resolved_settings(settings: Settings, run: RunSpec, trained: Trained) -> Settings:
    """Replace every default by its value in this run, as ``config.toml`` keeps it: a run with it is the same run.

    Args:
        settings: Settings as they were given.
        run: Description that was made of them.
        trained: Parameters that train.
    """
    step, selection = run.step, run.selection
    model, raw = step.model, settings.model_dump()
    raw["data"] |= {
        "variables": tuple(dict.fromkeys((*selection.inputs, *selection.targets, *selection.atmospheric))),
        "levels": selection.levels,
        "statics": selection.static,
    }
    for name, period in run.periods.items():
        raw["data"][name] = str(period)
    raw["train"] |= _resolved_train(run)
    if step.diffusion is not None:
        return Settings.model_validate(raw | _resolved_denoising(settings, run, trained))
    raw["model"] |= {"transforms": {**settings.model.transforms, **model.transforms}, "heads": dict(model.heads)}
    if step.loss.name == "huber":
        raw["loss"]["delta"] = step.loss.huber_delta
    raw["adapt"] = step.adapt.resolved().model_dump()
    if step.adapt.method == "rollout-lora":
        # Its default depends on the variant, so that only the model knows it.
        raw["adapt"]["mode"] = rollout_lora.mode_of(model)
    groups = group_parameters(trained.parameters, trained.new, step.optim)
    raw["optim"] = resolved_groups(groups, step.optim).model_dump()
    raw["rollout"] = step.rollout.resolved().model_dump()
    raw["model"] |= {"weights": settings.model.weights or model.upstream.weights, "timestep": model.timestep}
    return Settings.model_validate(raw)


def _resolved_train(run: RunSpec) -> dict[str, Any]:
    # Steps alone: steps and epochs exclude each other, and an epoch of other data has other steps.
    return {
        "steps": run.schedule.steps,
        "epochs": None,
        "device": run.device.type,
        "precision": "bf16" if run.step.autocast else "fp32",
        "valid_precision": run.valid_precision,
        "checkpoint_every": run.schedule.checkpoint_every,
    }


def _resolved_denoising(settings: Settings, run: RunSpec, trained: Trained) -> dict[str, Any]:
    step = run.step
    assert step.diffusion is not None
    groups = group_parameters(trained.parameters, trained.new, step.optim)
    model = settings.model.model_dump() | {"timestep": step.model.timestep}
    if run.operator is None:
        # Their defaults go by the data.
        model["transforms"] = {**step.model.transforms, **settings.model.transforms}
    else:
        model["weights"] = settings.model.weights or step.model.upstream.weights
    return {
        "model": model,
        "loss": step.loss.model_dump(),
        "optim": resolved_groups(groups, step.optim).model_dump(),
        "diffusion": step.diffusion.settings.model_dump(),
    }
