"""Heads of rain: channels, targets and physical predictions, worked by hand."""

from __future__ import annotations

import pytest
import torch

from kit.io.errors import SettingsError
from kit.models.heads import Quantiles, TwoPart, parse_heads


def test_two_part_adds_one_channel() -> None:
    head = TwoPart()
    assert head.channels("tp") == ("tp_occurrence",)
    assert head.statistics((3.0, 4.0)) == (0, 1)


def test_two_part_scores_the_amount_where_it_rains() -> None:
    """0, 0.05 and 0.1 mm: rain begins with the last."""
    physical = torch.tensor([[[0.0, 5e-5, 1e-4]]])
    surface, masks = TwoPart().targets("tp", physical * 7, physical)
    assert surface["tp"].tolist() == (physical * 7).tolist()
    assert surface["tp_occurrence"].tolist() == [[[0, 0, 1]]]
    assert masks["tp"].tolist() == [[[False, False, True]]]
    assert masks.keys() == {"tp"}


def test_a_missing_amount_stays_loud() -> None:
    missing = torch.tensor([[[torch.nan]]])
    assert TwoPart().targets("tp", missing, missing)[0]["tp_occurrence"].isnan().all()


def test_two_part_predicts_rain_where_it_is_likely() -> None:
    decoded = {
        "tp": torch.tensor([0.002, 0.002, 0.003, torch.nan]),
        "tp_occurrence": torch.tensor([-0.1, 0.0, 2.0, 1.0]),
    }
    physical = TwoPart().physical("tp", decoded)
    torch.testing.assert_close(physical["tp"], torch.tensor([0, 0.002, 0.003, torch.nan]), equal_nan=True)
    torch.testing.assert_close(
        physical["tp_occurrence"], torch.tensor([0.4750, 0.5, 0.8808, 0.7311]), atol=1e-4, rtol=0
    )


def test_quantiles_are_named_by_their_order() -> None:
    assert Quantiles().channels("tp") == ("tp_q5", "tp_q25", "tp_q75", "tp_q95")
    assert Quantiles((0.025, 0.5)).keys("cp") == ("cp_q2_5", "cp")
    assert Quantiles().statistics((3.0, 4.0)) == (3, 4)


def test_quantiles_never_cross() -> None:
    head = Quantiles((0.1, 0.5, 0.9))
    crossed = {"tp_q10": torch.tensor([3.0, 1.0]), "tp": torch.tensor([1.0, 2.0]), "tp_q90": torch.tensor([2.0, 3.0])}
    sorted_ = head.arranged("tp", crossed)
    assert {name: value.tolist() for name, value in sorted_.items()} == {
        "tp_q10": [1, 1],
        "tp": [2, 2],
        "tp_q90": [3, 3],
    }
    assert head.physical("tp", crossed)["tp"].tolist() == [2, 2]


def test_every_quantile_has_the_same_target() -> None:
    target = torch.ones(1, 2, 2)
    surface, masks = Quantiles((0.1, 0.5)).targets("tp", target, target)
    assert surface == {"tp_q10": target, "tp": target}
    assert not masks


@pytest.mark.parametrize("text", ("two-part", "quantile:0.05,0.25,0.5,0.75,0.95", "quantile:0.5"))
def test_the_written_form_reads_back(text: str) -> None:
    assert str(parse_heads({"tp": text})["tp"]) == text


def test_orders_on_a_command_line() -> None:
    assert parse_heads({"tp": "quantile:0.1/0.5/0.9"})["tp"] == Quantiles((0.1, 0.5, 0.9))


def test_the_default_orders() -> None:
    assert parse_heads({"tp": "quantile"}) == {"tp": Quantiles()}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    (
        ("tp", "gaussian", "expected two-part, quantile or"),
        ("tp", "two-part:1", "expected two-part, quantile or"),
        ("tp", "quantile:", "with 0.5 among them"),
        ("tp", "quantile:0.1,0.9", "with 0.5 among them"),
        ("tp", "quantile:0.9,0.5", "expected increasing orders"),
        ("tp", "quantile:0,0.5", "between 0 and 1"),
        ("tp", "quantile:0.5,0.5", "increasing"),
        ("tp", "quantile:a,0.5", "increasing"),
        ("2d", "two-part", "which is for tp, cp, lsp, sf"),
    ),
)
def test_what_cannot_be_read_is_refused_by_name(name: str, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as refused:
        parse_heads({name: text})
    assert f"model.heads.{name}" in str(refused.value)
