"""Intervals cover, and differences are found significant, as often as they say."""

import math

import numpy as np
import pytest

from kit.verification.significance import (
    DRAWS,
    FEWEST_BLOCKS,
    confidence,
    correlation_length,
    difference,
    draws,
    equal_accuracy,
    influence,
    overlap,
)

CASES = 500


def rmse(sums: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(sums[..., 0]))


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0]


def correlated(random: np.random.Generator, dates: int, overlapping: int, coefficient: float = 0.8) -> np.ndarray:
    """Make AR(1) errors, averaged over the dates whose leads overlap."""
    noise = random.standard_normal(dates + overlapping + 100)
    values = np.empty_like(noise)
    values[0] = noise[0]
    for step in range(1, len(noise)):
        values[step] = coefficient * values[step - 1] + noise[step]
    return np.convolve(values, np.ones(overlapping) / overlapping, "valid")[-dates:]


@pytest.mark.slow
@pytest.mark.parametrize("overlapping", (1, 4, 10))
@pytest.mark.parametrize("dates", (60, 200))
def test_intervals_cover_as_often_as_they_say(dates: int, overlapping: int) -> None:
    random = np.random.default_rng(dates + overlapping)
    covered, significant, naive = 0, 0, 0
    for _ in range(CASES):
        shared = correlated(random, dates, overlapping)
        # Two models that are equally good: their squared errors differ by a series of mean zero.
        apart = correlated(random, dates, overlapping)
        ours, theirs = 100 + shared + apart / 2, 100 + shared - apart / 2
        found = difference(rmse, ours[:, None], theirs[:, None], overlapping)
        assert found is not None
        covered += found.low <= 0 <= found.high
        significant += found.significant
        single = draws(dates, 1, 0) @ apart / dates
        low, high = np.quantile(single, [0.025, 0.975])
        naive += low <= 0 <= high
    assert 0.90 <= covered / CASES <= 0.98
    assert significant / CASES <= 0.07
    # Single dates, without blocks, fail the same test.
    assert naive / CASES < 0.75


def test_a_difference_that_is_there_is_found() -> None:
    random = np.random.default_rng(5)
    apart = 1.0 + 0.5 * random.standard_normal(60)
    found = difference(mean, (10 + apart)[:, None], np.full((60, 1), 10.0), 1)
    assert found is not None
    assert found.significant
    assert found.low < 1.0 < found.high
    assert found.dates == 60


def test_equal_forecasts_do_not_differ() -> None:
    same = np.random.default_rng(6).standard_normal((40, 1)) ** 2
    found = difference(rmse, same, same, 1)
    assert found is not None
    assert (found.low, found.high) == (0.0, 0.0)
    assert not found.significant


@pytest.mark.parametrize(("dates", "least"), ((19, 1), (2, 1), (1, 1), (30, 11), (59, 20)))
def test_too_few_dates_have_no_interval(dates: int, least: int) -> None:
    values = np.random.default_rng(7).standard_normal((dates, 1)) ** 2
    assert confidence(rmse, values, least) is None
    assert difference(rmse, values, values + 1, least) is None


def test_blocks_cover_the_overlap() -> None:
    values = np.random.default_rng(8).standard_normal((90, 1)) ** 2
    for least in (1, 7, 30):
        found = confidence(rmse, values, least)
        assert found is not None
        assert least <= found.block <= 90 // FEWEST_BLOCKS


def test_draws_hold_as_many_dates_as_there_are() -> None:
    counts = draws(10, 4, 3)
    assert counts.shape == (DRAWS, 10)
    assert (counts.sum(axis=1) == 10).all()
    # Of one block that fills the circle, every date is drawn once.
    assert (draws(10, 10, 3) == 1).all()


@pytest.mark.parametrize(
    ("lead", "spacing", "expected"), ((6, 6, 1), (24, 6, 4), (24, 24, 1), (25, 24, 2), (6, 168, 1), (240, 12, 20))
)
def test_overlap(lead: float, spacing: float, expected: int) -> None:
    assert overlap(lead, spacing) == expected


def test_influence_of_a_mean_is_the_distance_from_it() -> None:
    values = np.array([1.0, 2.0, 6.0])
    np.testing.assert_allclose(influence(mean, values[:, None]), values - 3.0)


def test_correlation_lengthens_blocks() -> None:
    random = np.random.default_rng(9)
    white = np.mean([correlation_length(random.standard_normal(200)) for _ in range(20)])
    red = np.mean([correlation_length(correlated(random, 200, 1)) for _ in range(20)])
    assert white < 4
    assert red > 10
    assert correlation_length(np.ones(30)) == 1.0


def test_equal_accuracy_by_hand() -> None:
    """Harvey, Leybourne and Newbold's statistic of four differences, at a horizon of one."""
    differences = np.array([1.0, 2.0, 3.0, 6.0])
    # Mean 3, variance of the mean (4 + 1 + 0 + 9) / 16; the correction for one step is (4 + 1 - 2) / 4.
    statistic = 3 / math.sqrt(14 / 16) * math.sqrt(3 / 4)
    from scipy import stats

    assert equal_accuracy(differences, 1) == pytest.approx(2 * stats.t.sf(statistic, 3))
    assert math.isnan(equal_accuracy(np.zeros(5), 1))
