"""From a checkpoint and a store to predictions: what scores, figures and forecasts have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from kit.adapt import factory as build
from kit.checkpoint.folder import Checkpoint
from kit.data.dataset import Pairs
from kit.data.settings import DataSettings, Period
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from kit.memory import engine
from kit.memory.advice import Situation
from kit.memory.checks import refuse_in_forecast
from kit.memory.out_of_memory import Shortage, explain_forecast
from kit.memory.settings import MemorySettings
from kit.models.resolve import select
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.weights import load as weights_room
from kit.models.weights.base import base_spec, known_to
from kit.models.weights.load import Weights
from kit.train.build import choose_device, uses_autocast

__all__ = [
    "Conditions",
    "Forecaster",
    "build_base_forecaster",
    "build_forecaster",
    "build_predictor",
    "build_starter",
]


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
