"""Flatness of histograms of ranks: by start dates, as points are not independent."""

import numpy as np
from scipy import stats

from kit.verification.ensemble_ranks import flatness, histogram

RANKS = 6


def ranks(
    seed: int, *, dates: int = 60, correlation: float = 0.0, bias: float = 0.0, spread: float = 1.0
) -> np.ndarray:
    """Weights of ranks at 40 points of each date, most of which share the date's weather; [N, K]."""
    random = np.random.default_rng(seed)
    weather = np.empty(dates)
    weather[0] = random.standard_normal()
    for date in range(1, dates):
        weather[date] = correlation * weather[date - 1] + np.sqrt(1 - correlation**2) * random.standard_normal()
    points = np.sqrt(0.7) * weather[:, None] + np.sqrt(0.3) * random.standard_normal((dates, 40))
    places = stats.norm.cdf(points / spread + bias)
    of_points = np.minimum((places * RANKS).astype(int), RANKS - 1)
    counts = np.zeros((dates, RANKS))
    np.add.at(counts, (np.arange(dates)[:, None], of_points), 1.0)
    return counts


def test_flat_histograms_are_seldom_called_otherwise() -> None:
    """Whatever dates have in common; a test that counts points rejects them."""
    for correlation in (0.0, 0.8):
        p_values = [flatness(ranks(seed, correlation=correlation), 1) for seed in range(1000, 1060)]
        assert sum(p is not None and p < 0.05 for p in p_values) <= 6
        naive = [stats.chisquare(ranks(seed, correlation=correlation).sum(axis=0)).pvalue for seed in range(1000, 1060)]
        assert sum(p < 0.05 for p in naive) > 30


def test_histograms_that_are_not_flat_are_found() -> None:
    for bias, spread in ((0.8, 1.0), (0.0, 0.4), (0.0, 3.0)):
        p_values = [flatness(ranks(seed, bias=bias, spread=spread), 1) for seed in range(10)]
        assert all(p is not None and p < 0.05 for p in p_values), (bias, spread)


def test_too_few_dates_say_nothing() -> None:
    assert flatness(ranks(0, dates=19), 1) is None
    assert flatness(ranks(0, dates=20), 7) is None
    assert flatness(ranks(0, dates=20), 1) is not None


def test_a_histogram_adds_up_to_one() -> None:
    np.testing.assert_allclose(histogram(np.array([[1.0, 3.0], [5.0, 5.0]])), [[0.25, 0.75], [0.5, 0.5]])
