"""A task and a callback of one's own, added from outside: neither trainer nor loop is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pair
from kit.memory.settings import MemorySettings
from kit.models.noise import NamedNoise
from kit.models.space import TrainingSpace
from kit.models.variants import Precision
from kit.train.callback import Callback
from kit.train.loop import LoopState, Schedule, fit
from kit.train.loss import PaperMAE, Scored
from kit.train.settings import OptimSettings
from kit.train.task import Batches, Observer, StepLoss
from kit.train.tasks.forecast import step_loss
from kit.train.trainer import StepReport, Trainer, Validation
from kit.train.updaters import build_updater
from tests.batches import small_spec, synthetic_batch


class Persistence:
    """Learn that nothing changes: the target of a batch is its own newest input state."""

    steps = 1
    losses_per_batch = 1
    notes: tuple[str, ...] = ("the future is the present",)
    beside: tuple[torch.nn.Module, ...] = ()

    def __init__(self, space: TrainingSpace) -> None:
        self.space = space

    def losses(self, batch: Pair, observe: Observer) -> Iterator[StepLoss]:
        fields = self.space.predict_fields(self.space.inputs(batch.inputs))
        yield step_loss(self.space, PaperMAE(), 1, fields, batch.target, (), observe)

    def look_ahead(self, batches: Batches) -> tuple[Batches, Scored | None]:
        return batches, None

    valid_losses = losses

    def scores(self) -> dict[str, float]:
        return {"days_alike": 1.0}

    def predicting(self, precision: Precision | None, noise: NamedNoise) -> AbstractContextManager[None]:
        return nullcontext()

    def batches(self, start: int) -> Iterator[Pair]:
        return (self._pair(seed) for seed in range(start, 100))

    def valid_batches(self) -> list[Pair]:
        return [self._pair(0)]

    def _pair(self, seed: int) -> Pair:
        spec = self.space.spec
        return Pair(synthetic_batch(spec, seed=seed), synthetic_batch(spec, seed=seed, states=1, inputs=False))

    def open(self, folder: Path) -> None: ...

    def close(self) -> None: ...

    def save(self, checkpoint: Path) -> None: ...

    def load(self, checkpoint: Path) -> None: ...


class StopWhenGood(Callback):
    """Stop early: once validation improved on the start."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_step(self, report: StepReport, state: LoopState) -> None:
        self.events.append(f"step {report.step}")

    def on_validation(self, validation: Validation, state: LoopState, *, improved: bool) -> None:
        assert validation.scores == {"days_alike": 1.0}
        self.events.append("better" if improved else "worse")

    def wants_to_stop(self, state: LoopState) -> bool:
        return self.events.count("better") == 2


def test_a_task_and_a_callback_of_ones_own() -> None:
    torch.manual_seed(0)
    spec = small_spec("small")
    model = spec.build()
    trained = trainable.select(model, AdaptSettings())
    optim = OptimSettings(warmup=0, lr=1e-3)
    updater = build_updater(trained.parameters, optim, MemorySettings(), steps=9)
    stop = StopWhenGood()
    trainer = Trainer(Persistence(TrainingSpace(model, spec)), trained, updater)
    fit(trainer, Schedule(steps=9, per_epoch=2, accumulate=1, checkpoint_every=9), LoopState(), [stop])
    assert stop.events == ["better", "step 1", "step 2", "better"]
