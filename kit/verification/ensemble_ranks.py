"""Histograms of the rank of what came among the members: flat where it could be one of them.

Hamill 2001, "Interpretation of rank histograms for verifying ensemble forecasts": too few middle ranks of members that
are too alike, too many low ranks of members that are too high.

Dimensions: N start date, K rank, B draw.
"""

from functools import partial

import numpy as np

from kit.verification.significance import DRAWS, Float64, are_enough, block_lengths, draws, influence, stretch


def histogram(sums: Float64) -> Float64:
    """Divide the weights of ranks, [..., K], by their sum."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums / sums.sum(axis=-1, keepdims=True))


def flatness(sums: Float64, overlapping: int, seed: int = 0) -> float | None:
    """Test whether a histogram of ranks is flat but for chance.

    Neighbouring points have much the same rank, so that a test of as many independent ranks as there are points, such
    as that of chi-squared, would reject whatever is flat. Only start dates are drawn here, in blocks as for intervals:
    how far the histograms of draws lie from that of all dates says how far that may lie from a flat one by chance.
    The distance is the statistic of chi-squared for one point.

    Args:
        sums: Weights of the ranks on each start date, in order, [N, K].
        overlapping: Start dates, one after the other, whose forecasts overlap.
        seed: Seed of the draws.

    Returns:
        Share of draws whose histogram lies as far from that of all dates as that does from a flat one: below 0.05 it is
        not flat. None of too few start dates.
    """
    dates, ranks = sums.shape
    if not are_enough(dates, overlapping):
        return None
    # Blocks are as long as errors of the mean rank, or of how often what came lies outside, are correlated.
    places = np.linspace(-1, 1, ranks)
    blocks = []
    for contrast in (places, places**2):
        of_dates = influence(partial(_weighted, contrast), sums)
        blocks.append(int(block_lengths(of_dates[:, None], overlapping)[0]))
    block = max(blocks)
    found = histogram(sums.mean(axis=0))
    drawn = histogram(draws(dates, block, seed) @ sums)
    by_chance = ((drawn - found) ** 2).sum(axis=-1) * stretch(dates / block) ** 2
    as_far = (by_chance >= ((found - 1 / ranks) ** 2).sum()).sum()
    return float((1 + as_far) / (1 + DRAWS))


def _weighted(places: Float64, sums: Float64) -> Float64:
    return np.asarray(histogram(sums) @ places)
