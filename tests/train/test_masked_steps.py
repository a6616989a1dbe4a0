"""Losses that leave points out are of all points of an optimiser step, however these are shared among batches."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from kit.adapt import trainable
from kit.adapt.settings import AdaptSettings
from kit.data.dataset import Pair, collate
from kit.data.loader import Upcoming
from kit.memory.settings import MemorySettings
from kit.models.heads import parse_heads
from kit.models.space import Fields
from kit.models.spec import ModelSpec
from kit.train.loss import FieldLoss, Scored, point_weights
from kit.train.settings import LossSettings, OptimSettings, RolloutSettings
from kit.train.tasks.forecast import ForecastTask
from kit.train.trainer import Trainer
from kit.train.updaters import build_updater
from tests.batches import synthetic_batch
from tests.models.test_space_rain import rainy_spec
from tests.train.test_samples import gradients_of_step, lively, pairs_of, spec_of

NAMES = ("paper-mae", "mae", "mse", "huber")


def loss_of(values: list[int], rains: list[bool], calm: list[int]) -> Any:
    """A loss over ``tp``, scored where it rains, and ``2t``, scored everywhere; predictions against zeros."""
    shape = (-1, 1, 2)
    prediction = Fields(
        {"tp": torch.tensor(values).float().reshape(shape), "2t": torch.tensor(calm).float().reshape(shape)}, {}
    )
    masks = {"tp": torch.tensor(rains).reshape(shape)}
    target = Fields({name: torch.zeros_like(value) for name, value in prediction.surface.items()}, {}, masks)
    return FieldLoss(LossSettings(name="mae"))(prediction, target)


def test_parts_of_a_step_worked_by_hand() -> None:
    """Three samples of two points, in a batch of two and one of one.

    It rains at three points of the first batch, with errors 1, 2 and 3, and at one of the second, with 6: all
    together (1 + 2 + 3 + 6) / 4 = 3, where the mean of means is (2 + 6) / 2 = 4. Of 2t the errors are 1 in the first
    two samples and 4 in the third: (1 + 1 + 4) / 3 = 2. Both weigh 1: (3 + 2) / 2.
    """
    first = loss_of([1, 2, 3, 9], [True, True, True, False], [1, 1, 1, 1])
    second = loss_of([6, 9], [True, False], [4, 4])
    whole = first.scored + second.scored
    assert whole.samples == 3
    assert {name: weight.item() for name, weight in whole.points.items()} == {"tp": 4}
    assert first.within(whole) + second.within(whole) == pytest.approx((3 + 2) / 2)
    # Of itself alone, a loss is what it was.
    assert first.within(first.scored) == pytest.approx(first.total.item()) == pytest.approx((2 + 1) / 2)


def test_a_batch_in_which_it_does_not_rain_takes_nothing_from_the_others() -> None:
    """Errors 2 and 4 where it rains, and a dry batch beside them: 3, and 2t's 1."""
    wet, dry = loss_of([2, 4], [True, True], [1, 1]), loss_of([7, 7], [False, False], [1, 1])
    whole = wet.scored + dry.scored
    assert wet.within(whole) + dry.within(whole) == pytest.approx((3 + 1) / 2)
    nowhere = dry.scored + dry.scored
    assert dry.within(nowhere) + dry.within(nowhere) == pytest.approx((0 + 1) / 2)


def test_points_that_are_scored_count_by_their_weights() -> None:
    """Rows at 60 and 0 degrees weigh 2 / 3 and 4 / 3, as ``test_area_weights_have_mean_1`` has them."""
    settings = LossSettings(name="mae", area_weights=True)
    points = point_weights(settings, torch.tensor([60.0, 0.0]))
    target = Fields({"tp": torch.zeros(1, 2, 1)}, {}, {"tp": torch.tensor([[[True], [True]]])})
    scored = FieldLoss(settings, points=points).scored(target)
    assert scored.points["tp"].item() == pytest.approx(2)
    target.masks["tp"][0, 0, 0] = False
    scored += FieldLoss(settings, points=points).scored(target)
    assert scored.points["tp"].item() == pytest.approx(2 + 4 / 3)


def test_a_loss_that_is_taken_everywhere_has_no_shares() -> None:
    everywhere = Fields({"2t": torch.ones(1, 1, 2)}, {})
    loss = FieldLoss(LossSettings())(everywhere, everywhere)
    assert loss.shares == {}
    assert loss.scored == Scored(1, {})


def rainy_pairs(spec: ModelSpec) -> list[Pair]:
    """Three samples: rain at a point of three, everywhere, and nowhere."""
    pairs = pairs_of(spec)
    for index, share in enumerate((1 / 3, 1.0, 0.0)):
        rain = pairs[index].target.surf_vars["tp"]
        drawn = torch.rand(rain.shape, generator=torch.Generator().manual_seed(index))
        pairs[index].target.surf_vars["tp"] = torch.where(drawn < share, 1e-3 + rain, torch.zeros_like(rain))
    return pairs


def trainer_of(spec: ModelSpec, settings: LossSettings, **rollout: Any) -> Trainer:
    space = lively(spec)
    trained = trainable.select(space.model, AdaptSettings())
    updater = build_updater(trained.parameters, OptimSettings(warmup=0, lr=1e-9), MemorySettings(), steps=9)
    latitude = pairs_of(spec, 1)[0].inputs.metadata.lat
    loss = FieldLoss(
        settings, levels=spec.levels, heads=parse_heads(spec.heads), points=point_weights(settings, latitude)
    )
    return Trainer(ForecastTask(space, loss, RolloutSettings(**rollout)), trained, updater)


QUICK = ("paper-mae", False, "waves and rain")
KINDS = ("rain", "rain that is never read", "waves", "waves and rain")


@pytest.mark.parametrize(
    ("name", "area", "kind"),
    [
        pytest.param(*case, marks=() if case == QUICK else pytest.mark.slow)
        for case in product(NAMES, (False, True), KINDS)
    ],
)
def test_batches_change_nothing_but_rounding(name: str, area: bool, kind: str) -> None:
    """Loss, parts, gradients and validation, of one batch of three, three of one, and two of two and one."""
    spec = (
        spec_of("wave")
        if kind == "waves"
        else rainy_spec("wave" if "waves" in kind else "small", "two-part", read="never" not in kind)
    )
    pairs = pairs_of(spec) if kind == "waves" else rainy_pairs(spec)
    settings = LossSettings.model_validate({"name": name, "area_weights": area})
    groupings = ([collate(pairs)], pairs, [collate(pairs[:2]), pairs[2]], [pairs[2], pairs[1], pairs[0]])
    found = []
    for batches in groupings:
        trainer = trainer_of(spec, settings)
        validation = trainer.validate(batches)
        found.append((validation, *gradients_of_step(trainer, list(batches))))
    valid, report, gradients = found[0]
    assert valid.loss == pytest.approx(report.loss, rel=1e-6)
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
    for other_valid, other, other_gradients in found[1:]:
        assert other.loss == pytest.approx(report.loss, rel=1e-6)
        assert other_valid.loss == pytest.approx(valid.loss, rel=1e-6)
        assert other.parts == pytest.approx(report.parts, rel=1e-5)
        assert other_valid.parts == pytest.approx(valid.parts, rel=1e-5)
        for key, value in gradients.items():
            own = max(float(value.double().norm()), 1e-3 * norm)
            assert float((other_gradients[key] - value).double().norm()) < 1e-5 * own, key


def test_steps_of_a_roll_out_are_scored_together() -> None:
    """Rain everywhere at the first step and at a third of the points at the second: pooled, not a mean of means."""
    spec = rainy_spec("small", "two-part")
    wet, dry = rainy_pairs(spec)[1], rainy_pairs(spec)[0]
    pair = Pair(wet.inputs, dry.target, (wet.target,))
    trainer = trainer_of(spec, LossSettings(), steps=2, graded="all")
    losses = [loss.loss for loss in trainer.task.losses(pair, lambda *_: None)]
    points = [loss.scored.points["tp"].item() for loss in losses]
    errors = [loss.parts["tp"].item() for loss in losses]
    report, _ = gradients_of_step(trainer, [pair])
    assert points[0] > 2 * points[1]
    assert report.parts["tp"] == pytest.approx((points[0] * errors[0] + points[1] * errors[1]) / sum(points), rel=1e-5)


def test_a_single_loss_and_losses_without_masks_are_bit_for_bit_what_they_were() -> None:
    """The mean over equal shares, as it is taken where nothing is left out."""
    rainy = rainy_spec("small", "two-part")
    plain = spec_of("small")
    for spec, batches in ((rainy, rainy_pairs(rainy)[:1]), (plain, pairs_of(plain))):
        trainer = trainer_of(spec, LossSettings())
        totals = []
        for pair in batches:
            for loss in trainer.task.losses(pair, lambda *_: None):
                (loss.loss.total / len(batches)).backward()  # type: ignore[no-untyped-call]
                totals.append(loss.loss.total.item())
        expected = {name: p.grad.clone() for name, p in trainer.trained.parameters.items() if p.grad is not None}
        trainer.space.model.zero_grad(set_to_none=True)
        report, gradients = gradients_of_step(trainer, batches)
        assert report.loss == sum(totals) / len(totals)
        assert gradients.keys() == expected.keys()
        assert [name for name, value in expected.items() if not torch.equal(value, gradients[name])] == []


def test_targets_are_looked_at_before_their_turn_without_reading_levels() -> None:
    """Only where points are left out; the batches that come back are those that were given, in their order."""
    spec = rainy_spec("small", "two-part")
    pairs = rainy_pairs(spec)
    batches, whole = trainer_of(spec, LossSettings()).task.look_ahead(pairs)
    assert list(batches) == pairs
    assert whole is not None
    rows, columns = 8 * spec.patch_size, 16 * spec.patch_size
    assert whole.samples == 3
    wet = sum(int((pair.target.surf_vars["tp"] >= 1e-4).sum()) for pair in pairs)
    assert whole.points["tp"].item() == wet < 3 * rows * columns
    plain = spec_of("small")
    unread = Upcoming(iter([Pair(synthetic_batch(plain), synthetic_batch(plain, states=1))]), 1)
    assert trainer_of(plain, LossSettings()).task.look_ahead(unread) == (unread, None)
    assert len(list(unread)) == 1
