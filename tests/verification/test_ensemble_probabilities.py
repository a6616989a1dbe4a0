"""Scores of probabilities: by hand, and against the library ``scores``."""

import math

import numpy as np
import pytest
import xarray as xr
from scores import probability as library

from kit.verification.ensemble_events import Exceedance
from kit.verification.ensemble_probabilities import (
    brier,
    brier_fair,
    curve,
    reliability,
    resolution,
    roc_area,
    uncertainty,
)
from kit.verification.ensemble_sums import EnsembleSums
from kit.verification.regions import Regions

MEMBERS = 5


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members and what came around a common centre, and areas."""
    random = np.random.default_rng(4)
    centre = random.standard_normal((20, 30))
    members = centre + 0.7 * random.standard_normal((MEMBERS, 20, 30))
    target = centre + random.standard_normal((20, 30))
    return members.astype(np.float32), target.astype(np.float32), random.random((20, 30))


@pytest.fixture(scope="module")
def counts(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    members, target, areas = drawn
    event = Exceedance("2t", "0.5", 0.5)
    sums = EnsembleSums(Regions(("all",), areas[None]), MEMBERS)
    return np.asarray(sums.exceeding(members, target, [event])[event.name][0])


def test_two_points_by_hand() -> None:
    """Of two members none forecast the event at 3 of 4 points, where it came once; both at the last, where it came."""
    sums = np.array([3.0, 0, 1, 1, 0, 1])
    assert float(brier(sums)) == pytest.approx(1 / 4)
    assert float(reliability(sums)) == pytest.approx(3 / 4 * (1 / 3) ** 2)
    assert float(resolution(sums)) == pytest.approx(3 / 4 * (1 / 3 - 1 / 2) ** 2 + 1 / 4 * (1 - 1 / 2) ** 2)
    assert float(uncertainty(sums)) == pytest.approx(1 / 4)
    # Half of the events are hit without any false alarm: the curve goes up to 1/2, then straight to 1.
    assert float(roc_area(sums)) == pytest.approx(3 / 4)
    assert curve(sums) == {"probability": [0, 1], "observed": [1 / 3, 1], "share": [3 / 4, 1 / 4]}
    one_of_two = np.array([0.0, 1, 0, 0, 1, 0])
    # (1/2 - 1)^2, less the 1/4 that two members' chance adds.
    assert float(brier(one_of_two)) == pytest.approx(1 / 4)
    assert float(brier_fair(one_of_two)) == pytest.approx(0)


def test_scores_are_those_of_the_library(drawn: tuple[np.ndarray, np.ndarray, np.ndarray], counts: np.ndarray) -> None:
    members, target, areas = drawn
    forecast = xr.DataArray(members.astype(np.float64), dims=("m", "y", "x"))
    came = xr.DataArray(target.astype(np.float64), dims=("y", "x"))
    weights = xr.DataArray(areas, dims=("y", "x"))
    for score, fair in ((brier, False), (brier_fair, True)):
        expected = library.brier_score_for_ensemble(forecast, came, "m", 0.5, weights=weights, fair_correction=fair)
        assert float(score(counts)) == pytest.approx(float(np.asarray(expected).ravel()[0]), rel=1e-9)
    probability = (forecast >= 0.5).mean("m")
    event = (came >= 0.5).astype(np.float64)
    levels = (np.arange(MEMBERS + 1) / MEMBERS).tolist()
    expected = library.roc_curve_data(probability, event, [level - 1e-9 for level in levels[1:]], weights=weights)
    assert float(roc_area(counts)) == pytest.approx(float(expected["AUC"]), rel=1e-9)


def test_the_parts_add_up(counts: np.ndarray) -> None:
    whole = reliability(counts) - resolution(counts) + uncertainty(counts)
    assert float(whole) == pytest.approx(float(brier(counts)), rel=1e-12)
    several = np.stack([counts, 2 * counts])
    np.testing.assert_allclose(brier(several), float(brier(counts)), rtol=1e-12)
    np.testing.assert_allclose(roc_area(several), float(roc_area(counts)), rtol=1e-12)


def test_nothing_is_said_where_nothing_can_be() -> None:
    never = np.array([3.0, 1, 0, 0, 0, 0])
    assert math.isnan(roc_area(never))
    assert float(uncertainty(never)) == 0
    assert math.isnan(brier(np.zeros(6)))
    assert np.isnan(reliability(np.full(6, np.nan)))
