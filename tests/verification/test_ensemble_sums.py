"""Sums of members: by hand, against the library ``scores``, and in the limits that theory knows."""

import math

import numpy as np
import pytest
import xarray as xr
from scores import probability as library

from kit.verification.ensemble_events import Exceedance
from kit.verification.ensemble_sums import CRPS, ENERGY, MEAN_SQUARED, MEMBER_MOMENTS, VARIANCE, EnsembleSums
from kit.verification.regions import Regions
from kit.verification.sums import WEIGHT


def everywhere(*shape: int) -> Regions:
    return Regions(("all",), np.ones((1, *shape)))


def summed(members: np.ndarray, target: np.ndarray, regions: Regions | None = None) -> dict[str, float]:
    """Means over all points of one region."""
    sums, _ = EnsembleSums(regions or everywhere(*target.shape), len(members)).of(members, target)
    return dict(zip(MEMBER_MOMENTS, (sums[0] / sums[0, 0]).tolist(), strict=True))


def ensemble(members: int, *shape: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    values = spread * random.standard_normal((members, *shape))
    return values.astype(np.float32), random.standard_normal(shape).astype(np.float32)


def test_one_point_by_hand() -> None:
    """Members 1, 2, 4 and 0 came: errors 1, 2, 4; differences between pairs 1, 3, 2."""
    members = np.array([4, 1, 2], dtype=np.float32).reshape(3, 1, 1)
    found = summed(members, np.zeros((1, 1), dtype=np.float32))
    assert found[CRPS] == pytest.approx(7 / 3 - 2 * (1 + 3 + 2) / (2 * 3 * 2), rel=1e-12)
    # The mean is 7/3; the squared departures from it add up to 14/3.
    assert found[VARIANCE] == pytest.approx(14 / 3 / 2, rel=1e-12)
    assert found[MEAN_SQUARED] == pytest.approx((7 / 3) ** 2, rel=1e-12)
    assert math.isnan(found[ENERGY])


def test_the_crps_is_that_of_the_library() -> None:
    members, target = ensemble(7, 6, 9)
    weights = np.random.default_rng(3).random((2, 6, 9))
    sums, _ = EnsembleSums(Regions(("one", "two"), weights), 7).of(members, target)
    forecast = xr.DataArray(members.astype(np.float64), dims=("m", "y", "x"))
    came = xr.DataArray(target.astype(np.float64), dims=("y", "x"))
    for region in range(2):
        area = xr.DataArray(weights[region], dims=("y", "x"))
        expected = float(library.crps_for_ensemble(forecast, came, "m", method="fair", weights=area))
        assert sums[region, 1] / sums[region, 0] == pytest.approx(expected, rel=1e-6)


def test_the_fair_crps_of_a_normal_distribution_is_known_for_any_number_of_members() -> None:
    """Members and what came from N(0, 1): 1 / sqrt(pi) = 0.5642 on average."""
    for members in (2, 3, 20):
        values, target = ensemble(members, 400, 250)
        of_rows = np.array([summed(values[:, [row]], target[[row]])[CRPS] for row in range(400)])
        error = of_rows.std(ddof=1) / math.sqrt(len(of_rows))
        assert abs(of_rows.mean() - 1 / math.sqrt(math.pi)) < 3.5 * error
        assert error < 0.003


def test_spread_and_error_agree_where_what_came_could_be_a_member() -> None:
    for members in (2, 5, 30):
        found = summed(*ensemble(members, 300, 300))
        factor = (members + 1) / members
        assert math.sqrt(factor * found[VARIANCE] / found[MEAN_SQUARED]) == pytest.approx(1, abs=0.012)


def test_ranks_are_flat_where_what_came_could_be_a_member_and_else_not() -> None:
    def ranks(spread: float) -> np.ndarray:
        values, target = ensemble(4, 100, 200, spread=spread)
        return np.asarray(EnsembleSums(everywhere(100, 200), 4).of(values, target)[1][0] / 20_000)

    # The standard error of each share is 0.0028.
    np.testing.assert_allclose(ranks(1.0), 0.2, atol=0.01)
    narrow = ranks(0.4)
    assert narrow[[0, 4]].min() > 0.3
    assert narrow[1:4].max() < 0.15
    wide = ranks(2.5)
    assert wide[[0, 4]].max() < 0.15
    assert wide[2] > 0.22


def test_equal_members_share_the_ranks_that_they_could_have() -> None:
    """Of rain most members are zero, as what came is."""
    members = np.array([0, 0, 1, 3], dtype=np.float32).reshape(4, 1, 1).repeat(4, axis=2)
    target = np.array([[0, 1, 2, 5]], dtype=np.float32)
    weights = np.array([[[1.0, 10.0, 100.0, 1000.0]]])
    _, ranks = EnsembleSums(Regions(("all",), weights), 4).of(members, target)
    # 0 has the ranks 0, 1 or 2; 1 has 2 or 3; 2 has 3; 5 has 4.
    np.testing.assert_allclose(ranks[0], [1 / 3, 1 / 3, 1 / 3 + 5, 5 + 100, 1000], rtol=1e-12)


def test_a_missing_value_shows_unless_its_point_is_left_out() -> None:
    members, target = ensemble(3, 2, 2)
    whole, whole_ranks = EnsembleSums(everywhere(2, 2), 3).of(members, target)
    present = np.array([[True, True], [True, False]])
    for spoil in ("member", "target"):
        values, came = members.copy(), target.copy()
        if spoil == "member":
            values[1, 1, 1] = math.nan
        else:
            came[1, 1] = math.nan
        sums = EnsembleSums(everywhere(2, 2), 3)
        moments, ranks = sums.of(values, came)
        assert math.isnan(moments[0, 1])
        assert np.isnan(ranks).all()
        event = Exceedance("2t", "0", 0.0)
        assert np.isnan(sums.exceeding(values, came, [event])[event.name]).all()
        moments, ranks = sums.of(values, came, present)
        assert moments[0, 0] == 3
        assert ranks.sum() == 3
        assert sums.exceeding(values, came, [event], present)[event.name][0, :4].sum() == 3
    assert whole[0, 0] == whole_ranks.sum() == 4


def test_members_that_reach_a_threshold_are_counted() -> None:
    members = np.array([[1, 5, 2], [3, 5, 0], [2, 0, 0]], dtype=np.float32).reshape(3, 1, 3)
    target = np.array([[2, 9, 1.5]], dtype=np.float32)
    sums = EnsembleSums(Regions(("all",), np.array([[[1.0, 10.0, 100.0]]])), 3)
    events = [Exceedance("2t", "2", 2.0), Exceedance("2t", "4", 4.0)]
    found = sums.exceeding(members, target, events)
    # Of 2: 2 members of the first point, 2 of the second, 1 of the third; it came at the first two.
    np.testing.assert_array_equal(found["2t>=2"], [[0, 100, 11, 0, 0, 0, 11, 0]])
    np.testing.assert_array_equal(found["2t>=4"], [[101, 0, 10, 0, 0, 0, 10, 0]])


def test_the_energy_score_of_one_channel_is_its_crps() -> None:
    members, target = ensemble(6, 20, 30)
    regions = everywhere(20, 30)
    moments, _ = EnsembleSums(regions, 6).of(members, target)
    energy = EnsembleSums(regions, 6).energy([members], [target])
    assert energy[0, MEMBER_MOMENTS.index(ENERGY)] == pytest.approx(moments[0, 1], rel=1e-6)
    assert energy[0, MEMBER_MOMENTS.index(WEIGHT)] == 600


def test_the_energy_score_by_hand() -> None:
    """Members (3, 4) and (0, 0), and (0, 0) came: half of 5, less half of the distance of 5 between them."""
    members = [np.array([value, 0], dtype=np.float32).reshape(2, 1, 1) for value in (3, 4)]
    targets = [np.zeros((1, 1), dtype=np.float32)] * 2
    energy = EnsembleSums(everywhere(1, 1), 2).energy(members, targets)
    assert energy[0, MEMBER_MOMENTS.index(ENERGY)] == pytest.approx(5 / 2 - 5 / 2, abs=1e-12)
    farther = EnsembleSums(everywhere(1, 1), 2).energy(members, [targets[0], targets[0] + np.float32(4)])
    # (0, 4) came: 3 and 4 away.
    assert farther[0, MEMBER_MOMENTS.index(ENERGY)] == pytest.approx(7 / 2 - 5 / 2, rel=1e-12)


def test_blocks_do_not_change_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    members, target = ensemble(5, 6, 7)
    event = [Exceedance("2t", "0.5", 0.5)]

    def everything() -> list[np.ndarray]:
        sums = EnsembleSums(everywhere(6, 7), 5)
        return [
            *sums.of(members, target),
            *sums.exceeding(members, target, event).values(),
            sums.energy([members] * 2, [target] * 2),
        ]

    whole = everything()
    monkeypatch.setattr("kit.verification.ensemble_sums._AT_ONCE", 30)
    for one, other in zip(whole, everything(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
