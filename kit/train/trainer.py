"""One optimiser step, and a pass over the validation pairs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from kit.data.pairs import Pair
from kit.errors import KitError
from kit.models.space import Fields, TrainingSpace
from kit.train.loss import Loss, PaperMAE
from kit.train.optimise import GradientNorms, clip_gradients, learning_rate
from kit.train.settings import OptimSettings

__all__ = ["DivergenceError", "StepReport", "Trainer"]


class DivergenceError(KitError):
    """The loss or a gradient is no longer a finite number."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: counted from 1.
        loss: mean over the accumulated batches.
        parts: mean absolute error of each variable in training space.
        gradients: norms before clipping.
        learning_rate: of this step.
        samples: pairs seen.
        compute_seconds: in forward, backward and optimiser.
    """

    step: int
    loss: float
    parts: dict[str, float]
    gradients: GradientNorms
    learning_rate: float
    samples: int
    compute_seconds: float


@dataclass
class _Mean:
    """Mean of losses and their parts, weighted by pairs."""

    pairs: int = 0
    total: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, loss: Loss, pairs: int) -> None:
        names = list(loss.parts)
        values = torch.stack([loss.total.detach(), *loss.parts.values()]).tolist()
        self.pairs += pairs
        self.total += pairs * values[0]
        for name, value in zip(names, values[1:], strict=True):
            self.parts[name] += pairs * value

    def result(self) -> tuple[float, dict[str, float]]:
        return self.total / self.pairs, {name: value / self.pairs for name, value in self.parts.items()}


class Trainer:
    """Holds what a step needs, and takes steps."""

    def __init__(
        self,
        space: TrainingSpace,
        loss: PaperMAE,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        settings: OptimSettings,
        steps: int,
    ) -> None:
        self.space = space
        self.loss = loss
        self.parameters = parameters
        self.optimizer = optimizer
        self.settings = settings
        self.steps = steps
        self.device = next(space.model.parameters()).device

    def step(self, step: int, batches: Sequence[Pair]) -> StepReport:
        """Take one optimiser step over one or more batches.

        Args:
            step: counted from 1.
            batches: their gradients are averaged.

        Raises:
            DivergenceError: the loss or the gradient is not finite; the parameters are as before.
        """
        started = time.perf_counter()
        self.space.model.train()
        mean = _Mean()
        for pair in batches:
            prediction, target, loss = self._compare(pair)
            (loss.total / len(batches)).backward()  # type: ignore[no-untyped-call]
            mean.add(loss, len(pair.inputs.metadata.time))
            if not torch.isfinite(loss.total):
                raise DivergenceError(_diagnosis(step, pair, prediction, target))
        rate = self._update(step)
        total, parts = mean.result()
        seconds = time.perf_counter() - started
        return StepReport(step, total, parts, rate[1], rate[0], mean.pairs, seconds)

    def _compare(self, pair: Pair) -> tuple[Fields, Fields, Loss]:
        pair = pair.to(self.device)
        prediction = self.space.predict_fields(self.space.inputs(pair.inputs))
        target = self.space.targets(pair.target)
        return prediction, target, self.loss(prediction, target)

    def _update(self, step: int) -> tuple[float, GradientNorms]:
        norms = clip_gradients(self.parameters, self.settings.clip)
        if not torch.isfinite(norms.total):
            worst = [group for group, norm in norms.groups.items() if not norm < float("inf")]
            msg = f"step {step}: the gradient is not finite in {', '.join(worst)}; lower optim.lr, or use fp32"
            raise DivergenceError(msg)
        rate = learning_rate(step, self.steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return rate, norms

    @torch.no_grad()
    def validate(self, pairs: Iterable[Pair]) -> tuple[float, dict[str, float]]:
        """Mean loss over pairs, and its parts."""
        self.space.model.eval()
        mean = _Mean()
        for pair in pairs:
            prediction, target, loss = self._compare(pair)
            mean.add(loss, len(pair.inputs.metadata.time))
            if not torch.isfinite(loss.total):
                raise DivergenceError(_diagnosis(None, pair, prediction, target))
        return mean.result()


def _diagnosis(step: int | None, pair: Pair, prediction: Fields, target: Fields) -> str:
    """Say where the first number went missing: in the input states, in the target, or in the prediction."""
    where = "validation" if step is None else f"step {step}"
    times = ", ".join(f"{time:%Y-%m-%dT%H:%M}" for time in pair.target.metadata.time)
    for kind, variables in (
        ("input states", pair.inputs.surf_vars | pair.inputs.atmos_vars),
        ("target", _unmasked(target)),
        ("prediction", prediction.surface | prediction.atmospheric),
    ):
        bad = [name for name, value in variables.items() if not value.isfinite().all()]
        if kind == "input states":
            # Absent waves are NaN by design, and become zero densities before the encoder.
            bad = [name for name in bad if name not in target.masks and f"{name}_sin" not in target.masks]
        if bad:
            advice = "lower optim.lr" if kind == "prediction" else "check the data with: kit data qa"
            return f"{where}: the loss is not finite; {kind} of {', '.join(bad)} for {times} hold NaN or Inf; {advice}"
    return f"{where}: the loss is not finite for {times}; lower optim.lr"


def _unmasked(target: Fields) -> dict[str, torch.Tensor]:
    surface = {
        name: value.where(target.masks[name], 0) if name in target.masks else value
        for name, value in target.surface.items()
    }
    return surface | target.atmospheric
