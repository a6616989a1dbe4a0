"""Intervals cover, and differences are found significant, as often as they say."""

import math

import numpy as np
import pytest

from kit.verification.significance import (
    DRAWS,
    FEWEST_BLOCKS,
    confidence,
    confidences,
    correlation_lengths,
    difference,
    differences,
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
    white = correlation_lengths(random.standard_normal((20, 200)))
    red = correlation_lengths(np.stack([correlated(random, 200, 1) for _ in range(20)]))
    assert white.mean() < 4
    assert red.mean() > 10
    assert correlation_lengths(np.ones((1, 30))).tolist() == [1.0]


def test_many_series_are_each_judged_as_one_alone() -> None:
    random = np.random.default_rng(11)
    ours = np.stack([100 + correlated(random, 60, 4) for _ in range(6)], axis=1)[:, :, None]
    theirs = ours + np.stack([correlated(random, 60, 1) + number for number in range(6)], axis=1)[:, :, None]
    # One series has no score at all, and one does not differ.
    ours[:, 4], theirs[:, 5] = math.nan, ours[:, 5]
    intervals, apart = confidences(rmse, ours, 4), differences(rmse, ours, theirs, 4)
    assert intervals is not None
    assert apart is not None
    assert len({found.block for found in apart}) > 2
    for number in range(6):
        alone = (ours[:, number], theirs[:, number])
        assert repr(intervals[number]) == repr(confidence(rmse, alone[0], 4))
        one = difference(rmse, *alone, 4)
        assert one is not None
        assert vars(apart[number]) == pytest.approx(vars(one), nan_ok=True, rel=1e-9)
    assert confidences(rmse, ours[:19], 1) is differences(rmse, ours[:19], theirs[:19], 1) is None


def test_equal_accuracy_by_hand() -> None:
    """Harvey, Leybourne and Newbold's statistic of four differences, at a horizon of one."""
    series = np.array([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 0.0], [1.0, math.nan, 2.0, 3.0]])
    # Mean 3, variance of the mean (4 + 1 + 0 + 9) / 16; the correction for one step is (4 + 1 - 2) / 4.
    statistic = 3 / math.sqrt(14 / 16) * math.sqrt(3 / 4)
    from scipy import stats

    found = equal_accuracy(series, np.ones(3, dtype=np.int64))
    assert found == pytest.approx([2 * stats.t.sf(statistic, 3), math.nan, math.nan], nan_ok=True)
