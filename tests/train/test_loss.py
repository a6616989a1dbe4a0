"""The paper's loss, worked by hand."""

from __future__ import annotations

import pytest
import torch

from kit.errors import SettingsError
from kit.models.space import Fields
from kit.train.loss import PaperMAE


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
