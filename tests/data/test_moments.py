"""Moments of fields: by hand, against sums without rounding, merged, weighted."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest

from kit.data.grid import area_weights
from kit.data.moments import FieldMoments, field_moments

LATITUDES = np.linspace(90, -90, 19)


def exactly(values: npt.NDArray[np.float32], weights: npt.NDArray[np.float64] | None = None) -> FieldMoments:
    """The same moments in rational numbers, rounded once."""
    x = [Fraction(float(value)) for value in values.ravel()]
    w = [Fraction(1)] * len(x)
    if weights is not None:
        w = [Fraction(float(weight)) for weight in np.broadcast_to(weights, values.shape).ravel()]
    total = sum(w)
    mean = sum(a * b for a, b in zip(w, x, strict=True)) / total
    powers = [float(sum(a * (b - mean) ** n for a, b in zip(w, x, strict=True))) for n in (2, 3)]
    return FieldMoments(float(total), float(mean), *powers)


def close(found: FieldMoments, expected: FieldMoments) -> None:
    assert found.weight == pytest.approx(expected.weight, rel=1e-15)
    assert found.mean == pytest.approx(expected.mean, rel=4e-16)
    assert found.squares == pytest.approx(expected.squares, rel=1e-12)
    assert found.cubes == pytest.approx(expected.cubes, rel=1e-9, abs=1e-12 * expected.squares**1.5)


def test_by_hand_with_weights_of_rows_and_of_points() -> None:
    field = np.array([[1, 3], [5, 9]], dtype=np.float32)
    # Mean (1 + 3 + 5 + 9) / 4 = 4.5; differences -3.5, -1.5, 0.5, 4.5.
    assert field_moments(field) == FieldMoments(4, 4.5, 12.25 + 2.25 + 0.25 + 20.25, -42.875 - 3.375 + 0.125 + 91.125)
    # Rows weigh 1.5 and 0.5: mean (1.5 * 4 + 0.5 * 14) / 4 = 3.25; differences -2.25, -0.25, 1.75, 5.75.
    cubes = 1.5 * (-11.390625 - 0.015625) + 0.5 * (5.359375 + 190.109375)
    expected = FieldMoments(4, 3.25, 1.5 * (5.0625 + 0.0625) + 0.5 * (3.0625 + 33.0625), cubes)
    for weights in (np.array([1.5, 0.5]), np.array([[1.5, 1.5], [0.5, 0.5]])):
        assert field_moments(field, None, weights) == expected
    # Without the 9: weights 1.5, 1.5, 0.5, mean (1.5 + 4.5 + 2.5) / 3.5 = 17 / 7.
    field[1, 1] = np.nan
    for weights in (np.array([1.5, 0.5]), np.array([[1.5, 1.5], [0.5, 0.5]])):
        found = field_moments(field, np.isfinite(field), weights)
        assert [found.weight, found.mean] == pytest.approx([3.5, 17 / 7], rel=1e-15)


@pytest.mark.parametrize(("mean", "scale"), ((0.0, 10.0), (101325.0, 1000.0), (2e5, 5.0), (1e-5, 1e-3)))
@pytest.mark.parametrize("weights", (None, area_weights(LATITUDES)))
def test_neither_a_large_mean_nor_weights_cost_digits(
    mean: float, scale: float, weights: npt.NDArray[np.float64] | None
) -> None:
    random = np.random.default_rng(0)
    field = (mean + scale * random.standard_exponential((19, 101))).astype(np.float32)
    close(field_moments(field, None, weights), exactly(field, None if weights is None else weights[:, None]))
    some = random.random(field.shape) > 0.3
    zeroed = None if weights is None else (weights[:, None] * some)[some]
    close(field_moments(field, some, weights), exactly(field[some], zeroed))


@pytest.mark.parametrize("length", (0, 1, 4095, 4096, 70001))
def test_values_without_rows_are_cut_into_some(length: int) -> None:
    values = (1000 + np.random.default_rng(1).standard_normal(length)).astype(np.float32)
    found = field_moments(values)
    assert found.weight == length
    if length:
        assert found.mean == pytest.approx(values.astype(np.longdouble).mean(), rel=1e-15)
        assert found.squares == pytest.approx(np.square(values - values.astype(np.longdouble).mean()).sum(), rel=1e-12)


def test_a_thousand_states_merged_are_those_of_all_values_at_once() -> None:
    random = np.random.default_rng(2)
    states = (101325 + 1000 * random.standard_normal((1000, 1)) + 300 * random.standard_normal((1000, 12))).astype("f4")
    merged = reduce(FieldMoments.merged, map(field_moments, states), FieldMoments())
    expected = exactly(states)
    assert merged.mean == pytest.approx(expected.mean, rel=1e-15)
    assert merged.squares == pytest.approx(expected.squares, rel=1e-14)
    assert merged.skewness == pytest.approx(expected.skewness, abs=1e-13)


def test_nothing_adds_nothing() -> None:
    empty, some = FieldMoments(), FieldMoments(2, 3.0, 4.0, 5.0)
    assert empty.merged(some) == some.merged(empty) == some
    assert np.isnan(empty.scale)
    assert np.isnan(field_moments(np.ones((2, 2))).skewness)
