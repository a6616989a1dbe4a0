"""What a plan of a prediction traces: a step of a model, or what a denoising network draws beside it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from aurora import Batch

from kit.diffusion.loading import build_operator
from kit.diffusion.network import build_network
from kit.diffusion.settings import DiffusionSettings
from kit.diffusion.space import DiffusionSpace, Operator
from kit.diffusion.spec import DiffusionSpec
from kit.memory.prediction import build_prediction_space
from kit.memory.settings import MemorySettings
from kit.models.variants import Precision
from kit.planning.workload import Workload

# Below 1, at which a network is evaluated with its condition alone.
_GUIDANCE_OF_STATES = 0.5


@dataclass(frozen=True)
class TracedPrediction:
    """What predicts a step.

    Attributes:
        model: Model that is held.
        beside: Models that are held beside it.
        predict: Predicts from a batch of input states.
    """

    model: torch.nn.Module
    beside: tuple[torch.nn.Module, ...]
    predict: Callable[[Batch], object]


def traced_prediction(
    workload: Workload, memory: MemorySettings, precision: Precision, device: torch.device
) -> TracedPrediction:
    """Build what predicts a step, with weights that are not loaded.

    Args:
        workload: Model, or network with its operator.
        memory: Settings of memory, which are the operator's where a network draws.
        precision: Precision of both.
        device: Device.
    """
    if workload.diffusion is None:
        space = build_prediction_space(workload.spec, None, memory, device, precision)
        return TracedPrediction(space.model, (), space.predict)
    drawing = _drawing_space(workload, workload.diffusion, memory, precision, device)
    beside = () if drawing.operator is None else (drawing.operator.model,)

    def predict(batch: Batch) -> None:
        _draw(drawing, batch)

    return TracedPrediction(drawing.model, beside, predict)


def _drawing_space(
    workload: Workload, spec: DiffusionSpec, memory: MemorySettings, precision: Precision, device: torch.device
) -> DiffusionSpace:
    operator: Operator | None = None
    if workload.operator is not None:
        operator = build_operator(None, workload.operator, workload.spec, device, autocast=precision == "bf16")
    elif spec.settings.has_operator:
        operator = build_prediction_space(workload.spec, None, memory, device, precision)
    network = build_network(spec, 0).requires_grad_(False).eval().to(device)
    return DiffusionSpace(network, spec, operator, autocast=precision == "bf16")


def _draw(space: DiffusionSpace, batch: Batch) -> None:
    """Do what a step of an ensemble does: DEF before the operator's forecast, residuals after it."""
    drawn = space.spec.settings.of
    if drawn == "state":
        _evaluate(space, space.values(batch), space.values(batch), _GUIDANCE_OF_STATES)
        if space.operator is not None:
            space.operator.predict(batch)
        return
    if drawn == "mean":
        space.regressed(batch)
        return
    forecast = space.values(space.forecast(batch)) if drawn == "residual" else None
    states = space.values(batch) if forecast is None else forecast
    _evaluate(space, space.coarse(states), space.condition(batch, forecast), 1.0)


def _evaluate(space: DiffusionSpace, states: torch.Tensor, condition: torch.Tensor | None, guidance: float) -> None:
    """Evaluate a network as often as its sampler does, which holds the estimate before as well as its sample."""
    label = torch.zeros(len(states), device=states.device)
    levels = space.schedule.labelled(label)
    before = estimate = noisy = torch.randn(states.shape, device=states.device)
    for _ in range(evaluations(space.spec.settings)):
        before, estimate = estimate, space.estimate(noisy, levels, condition, guidance)
    del before


def evaluations(settings: DiffusionSettings) -> int:
    """Count the evaluations of a sampler; Heun's steps take two each, but the last."""
    steps = settings.steps or 1
    return 2 * steps - 1 if settings.sampler == "heun" else steps
