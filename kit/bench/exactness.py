"""How far a way of taking steps is from upstream's: predictions, gradients, and the loss over some steps."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kit.adapt.trainable import Trained
from kit.bench.configurations import Way, plain_name, upstreams_model
from kit.bench.workload import Case
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.loss import PaperMAE
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater

__all__ = ["CURVE_STEPS", "Exactness", "Reference", "distance", "loss_curve", "upstreams_curve"]

CURVE_STEPS = 20
_FLOOR = 1e-4
"""Gradients this far below the global norm count by their distance alone: many are sums that cancel."""
_PREDICTION = {"cpu": 0.0, "cuda": 1e-6}
_GRADIENT = {"fp32": 1e-5, "bf16": 1e-2}
"""Sums over bands are added in another order; in bf16 each is rounded too."""


@dataclass(frozen=True)
class Exactness:
    """Largest differences from upstream's way.

    Attributes:
        predictions: of any value, normalised.
        gradients: of any parameter's, relative to max(own norm, 1e-4 x global norm).
        curve: of the loss in ``CURVE_STEPS`` steps, relative; None where the optimiser is another one.
        exact: whether the first two are no more than another order of sums makes them.
    """

    predictions: float
    gradients: float
    curve: float | None
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"predictions": self.predictions, "gradients": self.gradients, "loss_curve": self.curve}


@dataclass(frozen=True)
class _Pass:
    predictions: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]


class Reference:
    """Predictions and gradients of upstream's way, to compare others with."""

    def __init__(self, way: Way, case: Case) -> None:
        self._case = case
        self._own = _forward_and_backward(way, case)

    def compare(self, way: Way, curve: float | None) -> Exactness:
        """Run another way once.

        Args:
            way: with the same weights and states.
            curve: what is known of its losses.
        """
        other = _forward_and_backward(way, self._case)
        predictions = max(
            float((other.predictions[name] - value).abs().max()) for name, value in self._own.predictions.items()
        )
        gradients = distance(other.gradients, self._own.gradients)
        kind = "bf16" if self._case.autocast else "fp32"
        exact = predictions <= _PREDICTION[self._case.device.type] and gradients <= _GRADIENT[kind]
        return Exactness(predictions, gradients, curve, exact)


def _forward_and_backward(way: Way, case: Case) -> _Pass:
    threads = torch.get_num_threads()
    # With several, how MKL divides a product depends on its size, and so do its last bits.
    torch.set_num_threads(1)
    try:
        return _pass(way, case)
    finally:
        torch.set_num_threads(threads)


def _pass(way: Way, case: Case) -> _Pass:
    space = way.begin(case).space
    space.model.train()
    pair = case.pair.to(case.device)
    fields = space.predict_fields(space.inputs(pair.inputs))
    predictions = {name: value.detach() for name, value in (fields.surface | fields.atmospheric).items()}
    PaperMAE()(fields, space.targets(pair.target)).total.backward()  # type: ignore[no-untyped-call]
    found = {
        plain_name(name): parameter.grad
        for name, parameter in space.model.named_parameters()
        if parameter.grad is not None
    }
    del space, fields
    gc.collect()
    return _Pass(predictions, found)


def distance(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Largest distance between gradients, relative to max(own norm, 1e-4 x global norm)."""
    assert ours.keys() == theirs.keys()
    whole = torch.stack([value.norm() for value in theirs.values()]).norm()
    return max(
        float((ours[name] - value).norm() / torch.maximum(value.norm(), _FLOOR * whole))
        for name, value in theirs.items()
    )


def loss_curve(settings: Settings, case: Case) -> list[float]:
    """Losses of the kit's steps, with some settings."""
    trainer = build_trainer(settings, case.spec, case.weights, CURVE_STEPS, case.device, autocast=case.autocast)
    return _losses(trainer, case)


def upstreams_curve(settings: Settings, case: Case) -> list[float]:
    """Losses of upstream's model with its checkpointing, under the same optimiser and schedule as the kit's."""
    model = upstreams_model(case).to(case.device)
    parameters = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    optim = settings.optim.resolved(settings.adapt.method)
    updater = build_updater(parameters, optim, MemorySettings(), steps=CURVE_STEPS)
    return _losses(Trainer(TrainingSpace(model, case.spec), PaperMAE(), Trained(parameters), updater), case)


def _losses(trainer: Trainer, case: Case) -> list[float]:
    return [trainer.step(step, [case.pairs[step % len(case.pairs)]]).loss for step in range(1, CURVE_STEPS + 1)]
