"""Models built for prediction and fitted into memory: forecasts, the planner, and operators beside what trains."""

import torch

from kit.adapt.factory import for_prediction
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.prediction import set_precision
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.variants import Precision
from kit.models.weights.load import Weights


def build_prediction_space(
    spec: ModelSpec, weights: Weights | None, memory: MemorySettings, device: torch.device, precision: Precision
) -> TrainingSpace:
    """Build a model for prediction and fit it into memory; the planner traces the very same."""
    # Adapters stay beside their layers, as they were trained: merged they would predict otherwise by last bits, and
    # on NF4 by more.
    model = for_prediction(spec, weights, autocast=precision == "bf16").requires_grad_(False)
    engine.install(model, memory)
    set_precision(model, spec.upstream, precision)
    return TrainingSpace(model.to(device).eval(), spec)
