"""Means of the first and the last epoch, against sums by hand and over generated runs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.metrics.epochs import EpochLosses, epoch_losses


def log(losses: list[float], per_epoch: int) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl`` as a run writes them, validations among them."""
    lines: list[dict[str, Any]] = [{"kind": "valid", "step": 0, "loss": 99.0}]
    for step, loss in enumerate(losses, start=1):
        lines.append({"kind": "train", "step": step, "loss": loss, "epoch": step / per_epoch})
        if step % per_epoch == 0:
            lines.append({"kind": "valid", "step": step, "loss": 99.0})
    return lines


@pytest.mark.parametrize(
    ("losses", "per_epoch", "expected", "said"),
    [
        ([4, 2, 3, 1, 2, 0], 2, EpochLosses(3, 1, 3), "3 -> 1 (means of epochs 1 and 3)"),
        # The fourth epoch has one step so far, which would be a single batch again.
        ([4, 2, 3, 1, 2, 0, 90], 2, EpochLosses(3, 1, 3), "3 -> 1 (means of epochs 1 and 3)"),
        ([4, 2, 90], 2, EpochLosses(3, 3, 1), "3 (mean of epoch 1)"),
        ([4, 2, 3], 4, EpochLosses(3, 3, 0), "3 (mean of less than an epoch)"),
        ([5], 1, EpochLosses(5, 5, 1), "5 (mean of epoch 1)"),
        ([5, 4], 1, EpochLosses(5, 4, 2), "5 -> 4 (means of epochs 1 and 2)"),
    ],
)
def test_means_by_hand(losses: list[float], per_epoch: int, expected: EpochLosses, said: str) -> None:
    found = epoch_losses(log(losses, per_epoch))
    assert found == expected
    assert str(found) == said


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 13))
def test_means_are_those_of_the_same_number_of_steps(losses: list[float], per_epoch: int) -> None:
    found = epoch_losses(log(losses, per_epoch))
    assert found is not None
    assert found.epochs == len(losses) // per_epoch
    begin = max(found.epochs - 1, 0) * per_epoch
    for mean, part in ((found.first, losses[:per_epoch]), (found.last, losses[begin : begin + per_epoch])):
        assert mean == pytest.approx(math.fsum(part) / len(part), rel=1e-12, abs=1e-9)


def test_what_is_no_loss_of_a_step_is_left_out() -> None:
    lines = [
        {"kind": "train", "step": 1, "loss": math.nan, "epoch": 0.5},
        {"kind": "train", "step": 2, "loss": 4.0, "epoch": 1.0},
        {"kind": "train", "step": 3, "loss": None, "epoch": 1.5},
        {"kind": "train", "step": 4, "loss": 2.0},
    ]
    assert epoch_losses(lines) == EpochLosses(4.0, 4.0, 1)
    assert epoch_losses([{"kind": "start"}, lines[-1]]) is None
    assert epoch_losses([]) is None
