"""Distance of a configuration's steps from upstream's: predictions, gradients, and the loss over some steps."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kit.adapt.trainable import Trained
from kit.bench.configurations import Configuration, plain_name, upstreams_model
from kit.bench.workload import Case
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.settings import Settings
from kit.train.build import build_trainer
from kit.train.loss import PaperMAE
from kit.train.resolve import resolve_step
from kit.train.settings import RolloutSettings
from kit.train.tasks.forecast import ForecastTask
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater

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
        predictions: Largest difference of any predicted value, normalised.
        gradients: Largest difference of any parameter's gradient, relative to max(own norm, 1e-4 x global norm).
        curve: Largest relative difference of the loss in ``CURVE_STEPS`` steps; None where the optimiser is another
            one.
        exact: Whether the first two are no more than another order of sums makes them.
    """

    predictions: float
    gradients: float
    curve: float | None
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        """Return what ``kit bench --json`` lists."""
        return {"predictions": self.predictions, "gradients": self.gradients, "loss_curve": self.curve}


class UpstreamReference:
    """Predictions and gradients of upstream's way, to compare others with."""

    def __init__(self, upstream: Configuration, case: Case) -> None:
        self._case = case
        self._predictions, self._gradients = _forward_and_backward(upstream, case)

    def compare(self, configuration: Configuration, curve: float | None) -> Exactness:
        """Run another configuration once.

        Args:
            configuration: Way of taking steps, from the same weights, with the same states.
            curve: Largest relative difference of its losses, where it is known.
        """
        ours, gradients = _forward_and_backward(configuration, self._case)
        largest = max(float((ours[name] - value).abs().max()) for name, value in self._predictions.items())
        furthest = distance(gradients, self._gradients)
        kind = "bf16" if self._case.autocast else "fp32"
        exact = largest <= _PREDICTION[self._case.device.type] and furthest <= _GRADIENT[kind]
        return Exactness(largest, furthest, curve, exact)


def _forward_and_backward(
    configuration: Configuration, case: Case
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return predictions, and gradients by upstream's names."""
    threads = torch.get_num_threads()
    # With several, how MKL divides a product depends on its size, and so do its last bits.
    torch.set_num_threads(1)
    try:
        space = configuration.begin(case).space
        space.model.train()
        pair = case.pair.to(case.device)
        fields = space.predict_fields(space.inputs(pair.inputs))
        predictions = {name: value.detach() for name, value in (fields.surface | fields.atmospheric).items()}
        PaperMAE()(fields, space.targets(pair.target)).total.backward()  # type: ignore[no-untyped-call]
        gradients = {}
        for name, parameter in space.model.named_parameters():
            if parameter.grad is not None:
                gradients[plain_name(name)] = parameter.grad
    finally:
        torch.set_num_threads(threads)
    del space, fields
    # Trainers and models hold each other; the next one needs their memory.
    gc.collect()
    return predictions, gradients


def distance(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Return the largest distance between gradients, relative to max(own norm, 1e-4 x global norm)."""
    assert ours.keys() == theirs.keys()
    # Many gradients are sums that cancel: relative to their own norm alone, noise would look like an error.
    whole = torch.stack([value.norm() for value in theirs.values()]).norm()
    distances = []
    for name, value in theirs.items():
        distances.append(float((ours[name] - value).norm() / torch.maximum(value.norm(), _FLOOR * whole)))
    return max(distances)


def loss_curve(settings: Settings, case: Case) -> list[float]:
    """Return the losses of the kit's steps under some settings."""
    trainer = build_trainer(
        resolve_step(settings, case.spec, CURVE_STEPS, autocast=case.autocast), case.weights, case.device
    )
    return _losses(trainer, case)


def upstreams_curve(settings: Settings, case: Case) -> list[float]:
    """Return the losses of upstream's model with its checkpointing, under the kit's optimiser and schedule."""
    model = upstreams_model(case).to(case.device)
    # Upstream's checkpointing renames modules; the kit's optimiser groups go by upstream's names.
    parameters = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    optim = settings.optim.resolved(settings.adapt.method)
    updater = build_updater(parameters, optim, MemorySettings(), steps=CURVE_STEPS)
    return _losses(
        Trainer(
            ForecastTask(TrainingSpace(model, case.spec), PaperMAE(), RolloutSettings()), Trained(parameters), updater
        ),
        case,
    )


def _losses(trainer: Trainer, case: Case) -> list[float]:
    return [trainer.step(step, [case.pairs[step % len(case.pairs)]]).loss for step in range(1, CURVE_STEPS + 1)]
