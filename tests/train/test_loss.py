"""Losses, worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kit.io.errors import SettingsError
from kit.models.heads import Quantiles, TwoPart
from kit.models.space import Fields
from kit.train.loss import FieldLoss, PaperMAE, point_weights
from kit.train.point_errors import pinball
from kit.train.settings import LossSettings


def fields(offset: float = 0.0, masks: dict[str, torch.Tensor] | None = None) -> Fields:
    """Two surface variables and one atmospheric one on a grid of 2 x 2 with two levels."""
    return Fields(
        surface={"2t": torch.full((1, 2, 2), offset), "tp": torch.full((1, 2, 2), 2 * offset)},
        atmospheric={"q": torch.tensor([[[[1.0, 1.0]], [[3.0, 3.0]]]]) * offset},
        masks=masks or {},
    )


def test_a_case_worked_by_hand() -> None:
    """Errors: 2t 1, tp 2, q 1 and 3 on two levels, mean 2.

    gamma / (V_S + V_A) = 2 / 3; alpha (3.0 x 1 + 1 x 2) = 1.25; beta x 0.78 x 2 = 1.56; in all 2 / 3 x 2.81.
    """
    loss = PaperMAE()(fields(1.0), fields(0.0))
    assert loss.total.item() == pytest.approx(2 / 3 * 2.81)
    assert {name: value.item() for name, value in loss.parts.items()} == {"2t": 1.0, "tp": 2.0, "q": 2.0}


def test_a_given_weight_replaces_the_papers() -> None:
    """As above with tp weighing 5: 2 / 3 x (0.25 x (3 + 10) + 1.56)."""
    assert PaperMAE({"tp": 5.0})(fields(1.0), fields(0.0)).total.item() == pytest.approx(2 / 3 * 4.81)


def test_only_points_of_the_mask_count() -> None:
    """One of four points is scored; its error is 2, so that the mean over scored points stays 2."""
    mask = torch.tensor([[[True, False], [False, False]]])
    target = fields(0.0, {"tp": mask})
    target.surface["tp"][~mask] = torch.nan
    prediction = fields(1.0)
    prediction.surface["tp"].requires_grad_()
    loss = PaperMAE()(prediction, target)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert loss.parts["tp"] == 2
    gradient = prediction.surface["tp"].grad
    assert gradient is not None
    assert gradient[~mask].eq(0).all()
    assert gradient[mask].gt(0).all()


def test_an_empty_mask_adds_nothing() -> None:
    target = fields(0.0, {"tp": torch.zeros(1, 2, 2, dtype=torch.bool)})
    assert PaperMAE()(fields(1.0), target).parts["tp"] == 0


def test_an_unexpected_nan_stays_loud() -> None:
    target = fields(0.0)
    target.surface["2t"][0, 0, 0] = torch.nan
    assert PaperMAE()(fields(1.0), target).total.isnan()


def test_a_missing_target_is_an_error() -> None:
    target = fields(0.0)
    del target.surface["tp"]
    with pytest.raises(SettingsError, match=r"predicted without a target: \['tp'\]"):
        PaperMAE()(fields(1.0), target)


def test_a_weight_for_nothing_is_an_error() -> None:
    with pytest.raises(SettingsError, match="loss.weights: swh weigh nothing"):
        PaperMAE({"swh": 1.0})(fields(1.0), fields(0.0))


def plain(**settings: Any) -> FieldLoss:
    return FieldLoss(LossSettings.model_validate(settings), levels=(500, 850))


def test_plain_losses_weigh_every_channel_alike() -> None:
    """Errors 1, 2, and 1 and 3 on two levels: four channels."""
    assert plain(name="mae")(fields(1.0), fields(0.0)).total.item() == pytest.approx((1 + 2 + 1 + 3) / 4)
    assert plain(name="mse")(fields(1.0), fields(0.0)).total.item() == pytest.approx((1 + 4 + 1 + 9) / 4)


def test_huber_is_half_the_square_up_to_delta_and_a_line_from_there() -> None:
    """Delta 2: 1 -> 0.5, 2 -> 2, 3 -> 2 x (3 - 1) = 4. By default delta 1: 0.5, 1.5, 0.5, 2.5."""
    loss = plain(name="huber", delta=2)(fields(1.0), fields(0.0))
    assert loss.total.item() == pytest.approx((0.5 + 2 + 0.5 + 4) / 4)
    assert {name: value.item() for name, value in loss.parts.items()} == {"2t": 0.5, "tp": 2.0, "q": 2.25}
    assert plain(name="huber")(fields(1.0), fields(0.0)).total.item() == pytest.approx((0.5 + 1.5 + 0.5 + 2.5) / 4)


def test_weights_of_a_plain_loss_make_a_weighted_mean() -> None:
    """(3 x 1 + 1 x 2 + 0 x 1 + 0.5 x 3) / (3 + 1 + 0 + 0.5)."""
    weights = {"2t": 3, "q_500": 0, "q_850": 0.5}
    assert plain(name="mae", weights=weights)(fields(1.0), fields(0.0)).total.item() == pytest.approx(6.5 / 4.5)


def test_a_weight_of_a_level_replaces_its_variables() -> None:
    """The paper's, with q 2 at 850 hPa: 2 / 3 x (0.25 x (3 + 2) + (0.78 x 1 + 2 x 3) / 2)."""
    loss = plain(weights={"q_850": 2})(fields(1.0), fields(0.0))
    assert loss.total.item() == pytest.approx(2 / 3 * (1.25 + 3.39))
    assert loss.parts["q"] == 2


def test_what_weighs_nothing_takes_no_gradient() -> None:
    """Only tp counts: 2 / 3 x 0.25 x 2; an unusable field of another variable does no harm."""
    prediction = fields(1.0)
    for value in (*prediction.surface.values(), *prediction.atmospheric.values()):
        value.requires_grad_()
    target = fields(0.0)
    target.surface["2t"][:] = torch.nan
    loss = plain(weights={"*": 0, "tp": 1})(prediction, target)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert loss.total.item() == pytest.approx(2 / 3 * 0.5)
    assert loss.parts["q"] == 2
    assert prediction.surface["tp"].grad is not None
    assert prediction.surface["2t"].grad is None
    assert prediction.atmospheric["q"].grad is None


def test_the_rest_is_what_is_not_named() -> None:
    """2 / 3 x (0.25 x (1 x 1 + 5 x 2) + 1 x 2): a variable of the paper's is the rest like any other."""
    loss = plain(weights={"*": 1, "tp": 5})(fields(1.0), fields(0.0))
    assert loss.total.item() == pytest.approx(2 / 3 * (2.75 + 2))


def test_a_loss_of_nothing_is_an_error() -> None:
    with pytest.raises(SettingsError, match="everything weighs 0"):
        plain(weights={"*": 0})(fields(1.0), fields(0.0))


@pytest.mark.parametrize("key", ("q_700", "2t_500"))
def test_a_weight_for_no_level_is_an_error(key: str) -> None:
    with pytest.raises(SettingsError, match=f"{key} weigh nothing; .* on levels of 500, 850 hPa"):
        plain(weights={key: 1})(fields(1.0), fields(0.0))


def test_points_count_by_their_weights() -> None:
    """Errors 1 and 3 in two rows, weights 1.5 and 0.5 of mean 1: (1.5 x 1 + 0.5 x 3) / 2."""
    prediction = Fields({"2t": torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])}, {"q": torch.ones(1, 2, 2, 2)})
    target = Fields({"2t": torch.zeros(1, 2, 2)}, {"q": torch.zeros(1, 2, 2, 2)})
    points = torch.tensor([[1.5], [0.5]])
    loss = FieldLoss(LossSettings(name="mae"), points=points)(prediction, target)
    assert loss.parts["2t"] == 1.5
    assert loss.parts["q"] == 1


def test_a_mask_and_weights_of_points_go_together() -> None:
    """Scored are the points with errors 1 and 3, weights 1.5 and 0.5: (1.5 + 1.5) / 2; then none at all."""
    prediction = Fields({"tp": torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])}, {})
    target = Fields({"tp": torch.zeros(1, 2, 2)}, {}, {"tp": torch.tensor([[[True, False], [True, False]]])})
    target.surface["tp"][..., 1] = torch.nan
    loss = FieldLoss(LossSettings(name="mse"), points=torch.tensor([[1.5], [0.5]]))(prediction, target)
    assert loss.parts["tp"] == (1.5 * 1 + 0.5 * 9) / 2
    target.masks["tp"][:] = False
    assert FieldLoss(LossSettings(), points=torch.tensor([[1.5], [0.5]]))(prediction, target).parts["tp"] == 0


def test_area_weights_have_mean_1() -> None:
    """Rows at 60 and 0 degrees north in cells of 60 degrees: sines 1 - 0.5 and 0.5 + 0.5, so 1 to 2."""
    latitude = torch.tensor([60.0, 0.0])
    assert point_weights(LossSettings(), latitude) is None
    area = point_weights(LossSettings(area_weights=True), latitude)
    assert area is not None
    torch.testing.assert_close(area, torch.tensor([[2 / 3], [4 / 3]]))


def test_two_parts_are_occurrence_and_amount_where_it_rains() -> None:
    """Logit 0 costs ln 2 wherever; the amount, wrong by 3 where it rains, is not scored where it is dry."""
    prediction = Fields({"tp": torch.tensor([[[9.0, 5.0]]]), "tp_occurrence": torch.zeros(1, 1, 2)}, {})
    physical = torch.tensor([[[0.0, 2e-3]]])
    surface, masks = TwoPart().targets("tp", torch.tensor([[[0.0, 2.0]]]), physical)
    loss = FieldLoss(LossSettings(name="mae", weights={"tp": 2}), heads={"tp": TwoPart()})
    found = loss(prediction, Fields(surface, {}, masks))
    assert found.parts["tp"] == 3
    assert found.parts["tp_occurrence"].item() == pytest.approx(math.log(2))
    assert found.total.item() == pytest.approx((3 + math.log(2)) / 2)


def test_quantiles_share_the_weight_of_their_variable() -> None:
    """Errors 1 above: order 0.1 costs 2 x 0.9, 0.5 costs 1, 0.9 costs 2 x 0.1; 2t, wrong by 4, counts one as well."""
    head = Quantiles((0.1, 0.5, 0.9))
    prediction = Fields({"2t": torch.full((1, 1, 1), 4.0), **dict.fromkeys(head.keys("tp"), torch.ones(1, 1, 1))}, {})
    target = Fields(dict.fromkeys(prediction.surface, torch.zeros(1, 1, 1)), {})
    found = FieldLoss(LossSettings(name="mae"), heads={"tp": head})(prediction, target)
    assert {name: value.item() for name, value in found.parts.items()} == pytest.approx(
        {"2t": 4, "tp_q10": 1.8, "tp": 1, "tp_q90": 0.2}
    )
    assert found.total.item() == pytest.approx((4 + (1.8 + 1 + 0.2) / 3) / 2)
    paper = FieldLoss(LossSettings(), heads={"tp": head})(prediction, target)
    assert paper.total.item() == pytest.approx(2 / 2 * 0.25 * (3 * 4 + 1))


def test_the_quantile_loss_is_least_at_the_quantile() -> None:
    """Of 0, 1, ..., 9 nine tenths lie below 9: order 0.9 is best predicted by 8 to 9."""
    target = torch.arange(10.0).reshape(1, 1, 10)
    costs = [pinball(torch.full_like(target, guess), target, order=0.9).mean() for guess in (7.0, 8.5, 10.0)]
    assert costs[1] < min(costs[0], costs[2])


@pytest.mark.parametrize("name", ("paper-mae", "mae", "mse"))
def test_a_delta_without_huber_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError, match="loss.delta 2 has no effect"):
        LossSettings.model_validate({"name": name, "delta": 2})


def test_what_is_not_scored_can_be_asked_for() -> None:
    loss = FieldLoss(LossSettings(weights={"*": 0, "tp": 1, "q_850": 1}), levels=(500, 850), heads={"tp": TwoPart()})
    assert loss.unscored(("2t", "tp", "tp_occurrence", "q", "u")) == ["2t", "u"]
