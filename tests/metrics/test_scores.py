from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kit.metrics.scores import area_weights, skill

THREE_BANDS = [60.0, 0.0, -60.0]
"""Edges 90, 30, -30, -90: areas 1/2, 1, 1/2, so weights 3/4, 3/2, 3/4."""


def test_weights_are_cell_areas() -> None:
    np.testing.assert_allclose(area_weights(THREE_BANDS).numpy(), [0.75, 1.5, 0.75], rtol=1e-15)


def test_rows_on_the_poles_weigh_half_a_cell() -> None:
    # Edges 90, 45, -45, -90: areas 1 - sin 45, 2 sin 45, 1 - sin 45, together 2.
    cap = 1 - math.sqrt(0.5)
    expected = np.array([cap, 2 - 2 * cap, cap]) * 3 / 2
    np.testing.assert_allclose(area_weights([90, 0, -90]).numpy(), expected, rtol=1e-14)


def test_a_regional_box_keeps_the_proportions_of_the_globe() -> None:
    globe = torch.linspace(90, -90, 181)
    box = area_weights(globe[20:60])
    whole = area_weights(globe)[20:60]
    torch.testing.assert_close(box, whole / whole.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rows", (1, 2, 7, 720, 721))
def test_weights_have_mean_one_and_are_positive(rows: int) -> None:
    weights = area_weights(np.linspace(90, -90, rows) if rows > 1 else [47.5])
    assert weights.dtype == torch.float64
    assert weights.shape == (rows,)
    assert weights.mean().item() == pytest.approx(1, abs=1e-14)
    assert bool((weights > 0).all())


@pytest.mark.parametrize(
    ("latitudes", "message"),
    (
        ([10.0, 20.0], r"row 1 is 20 after 10 degrees"),
        ([20.0, 10.0, 10.0], r"row 2 is 10 after 10 degrees"),
        ([91.0, 0.0], r"\[-90, 90\].*0 to 91"),
        ([math.nan, 0.0], r"\[-90, 90\]"),
        ([], r"shape \[0\]"),
        ([[1.0, 0.0]], r"shape \[1, 2\]"),
    ),
)
def test_latitudes_that_are_no_rows_are_refused(latitudes: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        area_weights(latitudes)


def test_skill() -> None:
    assert skill(1.0, 4.0) == 0.75
    assert skill(4.0, 4.0) == 0
    assert skill(6.0, 4.0) == -0.5
    assert math.isnan(skill(1.0, 0.0))
