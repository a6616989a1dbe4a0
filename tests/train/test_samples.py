"""Each sample of a batch as if it were alone: a batch of three against three batches of one, for every variant."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta
from functools import partial
from typing import Any

import aurora
import pytest
import torch
from aurora import Batch

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pair, collate
from kit.memory.settings import MemorySettings
from kit.models.noise import NamedNoise
from kit.models.space import Fields, TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.statistics import level_key
from kit.models.variants import VARIANTS
from kit.train.loss import PaperMAE
from kit.train.settings import OptimSettings, RolloutSettings
from kit.train.tasks.forecast import ForecastTask
from kit.train.trainer import StepReport, Trainer
from kit.train.updaters import build_updater
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

AIR_POLLUTION_LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
TOLERANCE = 1e-6  # of a field's deviation: products of a batch of three are summed in another order


def spec_of(variant: str) -> ModelSpec:
    return small_spec(variant, levels=AIR_POLLUTION_LEVELS if variant == "air-pollution" else (300, 500, 850))


def lively(spec: ModelSpec) -> TrainingSpace:
    """A model whose layers all do something, and whose noise, if it reads any, goes by name."""
    torch.manual_seed(0)
    space = TrainingSpace(spec.build(), spec)
    for parameter in space.model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    space.noise = NamedNoise(seed=3)
    return space


def pairs_of(spec: ModelSpec, samples: int = 3) -> list[Pair]:
    """Samples of one place at different times, each with waves and rain of its own."""
    pairs: list[Pair] = []
    for index in range(samples):
        inputs = synthetic_batch(spec, seed=index)
        target = synthetic_batch(spec, seed=10 + index, states=1, inputs=False)
        for batch in (inputs, target):
            now = batch.metadata.time[0] + index * timedelta(hours=6)
            batch.metadata = dataclasses.replace(batch.metadata, time=(now,))
            batch.static_vars = pairs[0].inputs.static_vars if pairs else batch.static_vars
            if spec.upstream.is_wave:
                # Calm rows, more of them in each sample, so that samples differ in what is scored.
                batch.surf_vars["swh"][..., : 2 + 3 * index, :] = 0.0
        target.static_vars = inputs.static_vars
        pairs.append(Pair(inputs, target))
    return pairs


def two_steps(space: TrainingSpace, state: Batch) -> list[tuple[Fields, Batch]]:
    steps = []
    for _ in range(2):
        fields, prediction = space.step(space.inputs(state))
        state = space.advance(state, prediction)
        steps.append((fields, prediction))
    return steps


@pytest.mark.parametrize("variant", one_in(4, VARIANTS))
@torch.no_grad()
def test_predictions_and_two_steps_of_a_roll_out(variant: str) -> None:
    space = lively(spec_of(variant))
    pairs = pairs_of(space.spec)
    alone = [two_steps(space, pair.inputs) for pair in pairs]
    for step, (fields, prediction) in enumerate(two_steps(space, collate(pairs).inputs)):
        for kind in ("surface", "atmospheric"):
            for name, value in getattr(fields, kind).items():
                one = torch.cat([getattr(steps[step][0], kind)[name] for steps in alone])
                # In training space a field's deviation is 1.
                assert float((value - one).abs().max()) < TOLERANCE, f"step {step + 1}: {name}"
        for kind in ("surf_vars", "atmos_vars"):
            for name, value in getattr(prediction, kind).items():
                one = torch.cat([getattr(steps[step][1], kind)[name] for steps in alone])
                assert value.shape == one.shape
                assert torch.equal(value.isnan(), one.isnan())
                difference = (value - one).nan_to_num(0).abs()
                if space.spec.upstream.is_wave and name in space.model.angle_surf_vars:
                    # Directions of next to no waves amplify what rounding does to sines and cosines.
                    assert float(torch.minimum(difference, 360 - difference).max()) < 1, name
                    continue
                keys = [name] if kind == "surf_vars" else [level_key(name, level) for level in space.spec.levels]
                scale = torch.tensor([space.spec.statistics.values[key][1] for key in keys])[:, None, None]
                size = one.nan_to_num(0).abs()
                if name.startswith("scaled_"):
                    # Statistics are of the logarithm of x + 1e-3.
                    size = size + 1e-3
                    scale = scale * size
                # Physical values are rounded to fp32 themselves.
                rounding = 4 * torch.finfo(torch.float32).eps * size
                assert bool((difference <= TOLERANCE * scale + rounding).all()), f"step {step + 1}: {name}"


def gradients_of_step(trainer: Trainer, batches: list[Pair]) -> tuple[StepReport, dict[str, torch.Tensor]]:
    """Take a step, and note the gradients that it applies."""
    gradients: dict[str, torch.Tensor] = {}

    def note(parameter: torch.Tensor, name: str) -> None:
        assert parameter.grad is not None
        gradients[name] = parameter.grad.clone()

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(note, name=name))  # type: ignore[no-untyped-call]
        for name, parameter in trainer.trained.parameters.items()
    ]
    report = trainer.step(1, batches)
    for handle in handles:
        handle.remove()
    return report, gradients


def step_of(spec: ModelSpec, batches: list[Pair]) -> tuple[StepReport, dict[str, torch.Tensor]]:
    space = lively(spec)
    trained = trainable.select(space.model, AdaptSettings())
    updater = build_updater(trained.parameters, OptimSettings(warmup=0, lr=1e-9), MemorySettings(), steps=9)
    task = ForecastTask(space, PaperMAE(), RolloutSettings())
    return gradients_of_step(Trainer(task, trained, updater), batches)


@pytest.mark.parametrize("variant", one_in(4, VARIANTS))
def test_losses_and_gradients(variant: str) -> None:
    """Of three batches of one, of one of two and an incomplete one, and of one of three."""
    spec = spec_of(variant)
    pairs = pairs_of(spec)
    whole, expected = step_of(spec, [collate(pairs)])
    groupings = [pairs]
    if spec.leaves_points_out:
        groupings.append([collate(pairs[:2]), pairs[2]])
    for batches in groupings:
        report, gradients = step_of(spec, batches)
        assert report.loss == pytest.approx(whole.loss, rel=TOLERANCE)
        for name, error in report.parts.items():
            assert error == pytest.approx(whole.parts[name], rel=1e-5), name
        norm = math.sqrt(sum(float(value.double().square().sum()) for value in expected.values()))
        for name, value in expected.items():
            # Against the parameter's own gradient, or a millionth of all where it has next to none.
            own = max(float(value.double().norm()), 1e-3 * norm)
            assert float((gradients[name] - value).double().norm()) < 1e-5 * own, name


@torch.no_grad()
def test_one_sample_is_upstreams_bit_for_bit_where_upstream_mixes_samples() -> None:
    """Upstream's own class gives one sample as ours does, and of three makes a field of nine."""
    spec = spec_of("air-pollution")
    space = lively(spec)
    upstream: Any = object.__new__(aurora.AuroraAirPollution)
    upstream.__dict__ = space.model.__dict__
    pairs = pairs_of(spec)
    with spec.statistics.installed():
        for pair in pairs:
            ours, theirs = space.model.forward(pair.inputs), upstream.forward(pair.inputs)
            for kind in ("surf_vars", "atmos_vars"):
                assert list(getattr(ours, kind)) == list(getattr(theirs, kind))
                for name, value in getattr(theirs, kind).items():
                    assert torch.equal(value, getattr(ours, kind)[name]), name
        together = upstream.forward(collate(pairs).inputs)
    # The fault that our class mends: where it has gone, the class is of no more use.
    assert together.surf_vars["tcco"].shape[:2] == (3, 3)
