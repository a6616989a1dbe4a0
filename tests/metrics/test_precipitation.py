"""Scores of rain on a handful of points, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kit.metrics.precipitation import RainBoard, flattened


def mm(*values: float) -> torch.Tensor:
    """One row of rain in metres, [1, 1, W]."""
    return torch.tensor([[values]]) / 1000


def test_a_case_counted_by_hand() -> None:
    """At 1 mm: predicted in the 1st, 2nd and 4th point, observed in the 1st, 3rd and 4th.

    Hits 2, misses 1, false alarms 1: CSI 2 / 4, bias 3 / 3. At 5 mm: predicted in the 4th, observed in the 3rd: CSI
    0, bias 1. At 10 mm: predicted in the 4th, never observed: CSI 0, no bias. Errors 1, 2, 6, 8, 0 mm: RMSE
    sqrt(105 / 5).
    """
    board = RainBoard((1, 5, 10))
    board.update({"tp": mm(3, 2, 0, 10, 0)}, {"tp": mm(2, 0, 6, 2, 0)})
    scores = board.results()["tp"]
    assert scores.csi == {1: 0.5, 5: 0, 10: 0}
    assert scores.bias[1] == 1
    assert scores.bias[5] == 1
    assert math.isnan(scores.bias[10])
    assert scores.rmse_mm == pytest.approx(math.sqrt(105 / 5))


def test_batches_add_up() -> None:
    predicted, observed = mm(3, 2, 0, 10, 0, 0.2), mm(2, 0, 6, 2, 0, 0.1)
    whole, parts = RainBoard(), RainBoard()
    whole.update({"tp": predicted}, {"tp": observed})
    for part in (slice(0, 2), slice(2, 6)):
        parts.update({"tp": predicted[..., part]}, {"tp": observed[..., part]})
    assert flattened(whole.results()) == pytest.approx(flattened(parts.results()))


def test_a_tenth_of_a_millimetre_in_float32_is_one() -> None:
    board = RainBoard((0.1,))
    board.update({"tp": torch.full((1, 1, 1), 1e-4)}, {"tp": torch.full((1, 1, 1), 1e-4)})
    assert board.results()["tp"].csi == {0.1: 1}


def test_metrics_are_named_by_variable_and_threshold() -> None:
    board = RainBoard()
    board.update({"tp": mm(2, 0)}, {"tp": mm(2, 0.5)})
    assert flattened(board.results()) == {
        "tp_rmse_mm": pytest.approx(math.sqrt(0.25 / 2)),
        "tp_csi_0.1mm": 0.5,
        "tp_csi_1mm": 1,
        "tp_bias_0.1mm": 0.5,
        "tp_bias_1mm": 1,
    }


@pytest.mark.parametrize("missing", ("prediction", "target"))
def test_a_missing_value_is_never_skipped(missing: str) -> None:
    board = RainBoard((1,))
    fields = {"prediction": mm(2, 2), "target": mm(2, 2)}
    fields[missing][0, 0, 0] = torch.nan
    board.update({"tp": fields["prediction"]}, {"tp": fields["target"]})
    scores = board.results()["tp"]
    assert math.isnan(scores.rmse_mm)
    assert math.isnan(scores.csi[1])
    assert flattened(board.results()) == {}


def test_what_does_not_match_is_refused() -> None:
    with pytest.raises(ValueError, match=r"predictions hold \['tp'\], but targets hold \['cp'\]"):
        RainBoard().update({"tp": mm(1)}, {"cp": mm(1)})
    with pytest.raises(ValueError, match=r"tp: \[1, 1, 1\] predicted, but \[1, 1, 2\] as target"):
        RainBoard().update({"tp": mm(1)}, {"tp": mm(1, 2)})
