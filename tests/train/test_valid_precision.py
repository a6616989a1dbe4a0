"""Validation in a precision and with noise of its own, and losses in every precision that trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.data.dataset import collate
from kit.io.errors import SettingsError
from kit.models.space import TrainingSpace
from kit.models.spec import ModelSpec
from kit.models.variants import VARIANTS, Precision
from kit.settings import Settings
from kit.train.build import build_job
from kit.train.loss import FieldLoss
from kit.train.resolve import _valid_precision
from kit.train.settings import LossSettings, RolloutSettings
from kit.train.tasks.forecast import ForecastTask
from kit.train.trainer import Trainer, Validation
from tests.adapt.models import awake_model
from tests.batches import small_spec
from tests.everyday import one_in
from tests.factories import synthetic_store
from tests.train.test_samples import pairs_of, spec_of
from tests.train.test_trainer import trainer_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("autocast", (False, True), ids=("fp32", "bf16"))
@pytest.mark.parametrize("variant", one_in(4, VARIANTS))
def test_every_loss_trains_in_every_precision(variant: str, autocast: bool) -> None:
    """Version 1.5 decodes in bf16, against targets in fp32; rounding changes a loss by little."""
    spec = spec_of(variant)
    space = TrainingSpace(awake_model(spec, autocast=autocast), spec)
    exact = space if not autocast else TrainingSpace(awake_model(spec), spec)
    for parameter in space.model.decoder.parameters():
        parameter.requires_grad_()
    (pair,) = pairs_of(spec, 1)
    fields, target = space.predict_fields(space.inputs(pair.inputs)), space.targets(pair.target)
    with torch.no_grad():
        expected = exact.predict_fields(exact.inputs(pair.inputs))
    for name in ("paper-mae", "mae", "mse", "huber"):
        loss_fn = FieldLoss(LossSettings.model_validate({"name": name}), levels=spec.levels)
        loss = loss_fn(fields, target)
        assert loss.total.dtype is torch.float32
        assert loss.total.item() == pytest.approx(loss_fn(expected, target).total.item(), rel=0.01)
        space.model.zero_grad()
        loss.total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        heads = [p for n, p in space.model.decoder.named_parameters() if "_heads." in n]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in heads)


def validated(trainer: Trainer, batches: list[Any], precision: Precision | None = None) -> Validation:
    trainer.valid_precision = precision
    return trainer.validate(batches)


def test_validation_is_in_its_own_precision_and_training_goes_on_in_its_own() -> None:
    trainer, exact = trainer_of("v1p5", autocast=True), trainer_of("v1p5")
    pairs = pairs_of(trainer.space.spec, 2)
    as_trained = validated(trainer, pairs)
    assert validated(trainer, pairs, "fp32") == validated(exact, pairs)
    half = validated(trainer, pairs, "fp16")
    brain = validated(trainer, pairs, "bf16")
    assert brain == as_trained
    assert len({half.loss, brain.loss, validated(exact, pairs).loss}) == 3
    # And a step after it is the step that would have been without it.
    plain = trainer_of("v1p5", autocast=True)
    assert trainer.step(1, pairs[:1]).loss == plain.step(1, pairs[:1]).loss


def stochastic() -> ModelSpec:
    spec = small_spec("small")
    return replace(spec, arguments={**spec.arguments, "stochastic": True})


def stochastic_trainer(seed: int) -> Trainer:
    spec = stochastic()
    plain = trainer_of()
    task = ForecastTask(TrainingSpace(awake_model(spec), spec), FieldLoss(LossSettings()), RolloutSettings(steps=2))
    return Trainer(task, plain.trained, plain.updater, valid_seed=seed)


def test_validation_of_a_stochastic_model_depends_on_its_seed_alone() -> None:
    """Not on batches, on their order, or on what was drawn before."""
    pairs = pairs_of(stochastic())
    trainer = stochastic_trainer(seed=1)
    alone = trainer.validate(pairs)
    for batches in ([collate(pairs)], pairs[::-1], [collate(pairs[:2]), pairs[2]]):
        torch.rand(5)
        assert trainer.validate(batches).loss == pytest.approx(alone.loss, rel=1e-6)
    assert stochastic_trainer(seed=2).validate(pairs).loss != pytest.approx(alone.loss, rel=3e-6)
    # Training draws from PyTorch's generator, as it always did.
    assert trainer.space.noise is None


def settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize(
    ("variant", "given", "on_cpu", "on_gpu"),
    (
        # Variant, settings, and the precision of validation where training runs in bf16.
        ("small", {}, "fp32", "fp32"),
        ("v1p5", {}, "fp32", "fp16"),
        ("v1p5", {"train": {"valid_precision": "fp32"}}, "fp32", "fp32"),
        ("small", {"train": {"valid_precision": "bf16"}}, "bf16", "bf16"),
        ("small", {"train": {"valid_precision": "fp16"}}, "fp16", "fp16"),
        ("v1p5", {"memory": {"frozen_weights": "bf16"}}, "bf16", "bf16"),
        ("small", {"adapt": {"method": "head", "decoder": "mlp"}}, "bf16", "bf16"),
    ),
)
def test_the_precision_of_validation(variant: str, given: dict[str, Any], on_cpu: str, on_gpu: str) -> None:
    chosen, row = settings(**given), VARIANTS[variant]
    assert _valid_precision(chosen, row, CPU, autocast=True) == on_cpu
    assert _valid_precision(chosen, row, GPU, autocast=True) == on_gpu
    if not given:
        # Training in fp32 is no worse than any variant's own.
        assert _valid_precision(chosen, row, GPU, autocast=False) == "fp32"


@pytest.mark.parametrize(
    ("given", "reason"),
    (
        ({"memory": {"frozen_weights": "bf16"}}, "memory.frozen_weights bf16 keeps weights in bf16"),
        ({"adapt": {"method": "head", "decoder": "mlp"}}, "adapt.decoder mlp keeps latents of training and validation"),
    ),
)
def test_what_is_kept_in_bf16_is_validated_in_it(given: dict[str, Any], reason: str) -> None:
    chosen = settings(train={"valid_precision": "fp32"}, **given)
    with pytest.raises(SettingsError, match=f"train.valid_precision is fp32, but {reason}.*leave it out, or give bf16"):
        _valid_precision(chosen, VARIANTS["v1p5"], CPU, autocast=True)


def test_a_run_keeps_its_precision_of_validation(tmp_path: Path) -> None:
    store = synthetic_store(tmp_path / "store", levels=(300, 500, 850), times=16)
    sections: dict[str, Any] = {
        "data": {"store": str(store.path)},
        "model": {"weights": "random", "statistics": "store", "variant": "tiny"},
        "train": {"steps": 1, "precision": "bf16", "device": "cpu", "seed": 4},
    }
    job = build_job(Settings.model_validate(sections))
    assert job.settings.train.precision == "bf16"
    assert job.settings.train.valid_precision == "fp32"
    assert job.trainer.valid_precision == "fp32"
    # What config.toml says gives the same run again.
    assert build_job(job.settings).settings == job.settings
