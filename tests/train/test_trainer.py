"""One step: what it changes, what it reports, and when it refuses to go on."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pair, collate
from kit.memory import engine
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.train.loss import PaperMAE
from kit.train.optim import DivergenceError
from kit.train.settings import OptimSettings, RolloutSettings
from kit.train.tasks.forecast import ForecastTask
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater
from tests.batches import small_spec, synthetic_batch
from tests.everyday import one_in

_PLAIN = MemorySettings()


def trainer_of(
    variant: str = "small",
    *,
    rollout_lora: Any = None,
    autocast: bool = False,
    memory: MemorySettings = _PLAIN,
    **optim: Any,
) -> Trainer:
    torch.manual_seed(0)
    spec = small_spec(variant, rollout_lora=rollout_lora)
    model = spec.build(autocast=autocast)
    settings = OptimSettings.model_validate({"warmup": 0, "lr": 1e-3, **optim})
    trained = trainable.select(model, AdaptSettings())
    engine.install(model, memory)
    updater = build_updater(trained.parameters, settings, memory, steps=10)
    return Trainer(ForecastTask(TrainingSpace(model, spec), PaperMAE(), RolloutSettings()), trained, updater)


def pair_of(trainer: Trainer, seed: int = 0) -> Pair:
    spec = trainer.space.spec
    return Pair(synthetic_batch(spec, seed=seed), synthetic_batch(spec, states=1, seed=seed + 1, inputs=False))


def test_a_few_steps_change_every_parameter_and_lower_the_loss() -> None:
    """Zero-initialised layers hold gradients back at first, so that the check comes after several steps."""
    trainer = trainer_of()
    before = copy.deepcopy(trainer.space.model.state_dict())
    reports = [trainer.step(step, [pair_of(trainer)]) for step in range(1, 5)]
    assert reports[-1].loss < reports[0].loss
    after = trainer.space.model.state_dict()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("variant", one_in(2, ("small", "v1p5")))
def test_bf16_trains_weights_that_stay_fp32(variant: str) -> None:
    full, half = trainer_of(variant), trainer_of(variant, autocast=True)
    losses = []
    for trainer in (full, half):
        reports = [trainer.step(step, [pair_of(trainer)]) for step in range(1, 5)]
        assert reports[-1].loss < reports[0].loss
        losses.append(reports[-1].loss)
        assert all(parameter.dtype is torch.float32 for parameter in trainer.space.model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_kept_rollout_lora_does_not_train() -> None:
    trainer = trainer_of("hres-finetuned", rollout_lora="kept")
    before = copy.deepcopy(trainer.space.model.state_dict())
    trainer.step(1, [pair_of(trainer)])
    after = trainer.space.model.state_dict()
    frozen = [name for name in before if ".loras." in name]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    trains, total = trainable.count(trainer.space.model)
    assert total - trains == sum(before[name].numel() for name in frozen)


def test_accumulated_batches_are_averaged() -> None:
    """Two batches of one pair give the step that one batch of the two pairs gives."""
    one, two = trainer_of(clip=None), trainer_of(clip=None)
    pairs = [pair_of(one, seed) for seed in (0, 10)]
    for batch in (pairs[1].inputs, pairs[1].target):
        batch.static_vars = pairs[0].inputs.static_vars  # pairs of one store share them
    pairs[0].target.static_vars = pairs[0].inputs.static_vars
    a = one.step(1, pairs)
    b = two.step(1, [collate(pairs)])
    assert a.samples == b.samples == 2
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    assert float(a.gradients.total) == pytest.approx(float(b.gradients.total), rel=1e-4)


def test_parts_and_gradients_are_reported_by_variable_and_module() -> None:
    trainer = trainer_of()
    report = trainer.step(1, [pair_of(trainer)])
    assert set(report.parts) == {"2t", "10u", "10v", "msl", "z", "u", "v", "t", "q"}
    squares = sum(norm**2 for norm in report.gradients.groups.values())
    assert math.sqrt(squares) == pytest.approx(float(report.gradients.total), rel=1e-5)
    assert {"decoder.surf_heads", "encoder.level_agg"} <= report.gradients.groups.keys()


@pytest.mark.parametrize(
    ("where", "message"),
    (
        ("inputs", r"step 3: the loss is not finite; input states of msl for 2020-01-01T06:00 hold NaN"),
        ("target", r"step 3: the loss is not finite; target of t for 2020-01-01T06:00 hold NaN"),
    ),
)
def test_a_nan_is_traced_to_its_variable_and_time(where: str, message: str) -> None:
    trainer = trainer_of()
    pair = pair_of(trainer)
    if where == "inputs":
        pair.inputs.surf_vars["msl"][0, 1, 4, 4] = torch.nan
    else:
        pair.target.atmos_vars["t"][0, 0, 1, 4, 4] = torch.inf
    before = copy.deepcopy(trainer.space.model.state_dict())
    with pytest.raises(DivergenceError, match=message):
        trainer.step(3, [pair])
    assert all(torch.equal(value, before[name]) for name, value in trainer.space.model.state_dict().items())


def test_a_loss_that_is_not_finite_stops_before_anything_moves_in_the_backward_pass() -> None:
    trainer = trainer_of(memory=MemorySettings(step_in_backward=True), clip=None)
    pair = pair_of(trainer)
    pair.target.atmos_vars["t"][0, 0, 1, 4, 4] = torch.inf
    before = copy.deepcopy(trainer.space.model.state_dict())
    with pytest.raises(DivergenceError, match="target of t"):
        trainer.step(1, [pair])
    assert all(torch.equal(value, before[name]) for name, value in trainer.space.model.state_dict().items())


@pytest.mark.parametrize(
    "engine_settings", one_in(2, ({}, {"recompute": "blocks", "latitude_bands": 2, "window_bands": 2}))
)
@pytest.mark.parametrize("updater_settings", ({"offload": ("optimizer",)}, {"step_in_backward": True}))
def test_where_and_when_gradients_are_applied_changes_nothing(
    engine_settings: dict[str, Any], updater_settings: dict[str, Any]
) -> None:
    """Bit for bit on a CPU, where weights serve several bands and are recomputed too."""
    ends = []
    for extra in ({}, updater_settings):
        trainer = trainer_of(memory=MemorySettings.model_validate({**engine_settings, **extra}), clip=None)
        reports = [trainer.step(step, [pair_of(trainer, seed=step)]) for step in (1, 2, 3)]
        assert all(parameter.grad is None for parameter in trainer.trained.parameters.values())
        ends.append((trainer.space.model.state_dict(), [report.gradients.groups for report in reports]))
    (plain, plain_norms), (other, other_norms) = ends
    assert [name for name in plain if not torch.equal(plain[name], other[name])] == []
    assert plain_norms == other_norms


def test_an_absent_wave_is_no_nan_to_stop_for() -> None:
    trainer = trainer_of("wave")
    pair = pair_of(trainer)
    assert pair.inputs.surf_vars["swh"].isnan().any()
    assert math.isfinite(trainer.step(1, [pair]).loss)


def test_a_gradient_that_is_not_finite_stops_before_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()
    parameter = trainer.trained.parameters["decoder.surf_heads.2t.bias"]
    parameter.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[no-untyped-call]
    before = copy.deepcopy(trainer.space.model.state_dict())
    with pytest.raises(DivergenceError, match=r"step 1: the gradient is not finite in decoder.surf_heads"):
        trainer.step(1, [pair_of(trainer)])
    assert all(torch.equal(value, before[name]) for name, value in trainer.space.model.state_dict().items())


def test_validation_changes_nothing() -> None:
    trainer = trainer_of()
    before = copy.deepcopy(trainer.space.model.state_dict())
    validation = trainer.validate([pair_of(trainer), pair_of(trainer, 5)])
    assert validation == trainer.validate([pair_of(trainer), pair_of(trainer, 5)])
    assert all(torch.equal(value, before[name]) for name, value in trainer.space.model.state_dict().items())
