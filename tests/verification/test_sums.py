"""Sums of errors and anomalies, worked by hand."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from kit.verification.regions import ALL, Regions, regions_on
from kit.verification.scoring import SCORES, score_rows
from kit.verification.sums import MOMENTS, RegionalSums, with_wind_speed

THREE_BANDS = [60.0, 0.0, -60.0]
"""Edges 90, 30, -30, -90: areas 1/2, 1, 1/2, so weights 3/4, 3/2, 3/4."""


def globe(latitude: Sequence[float], columns: int) -> Regions:
    return regions_on((ALL,), np.asarray(latitude, dtype=np.float64), np.arange(columns) * 360.0 / columns)


def scored(
    forecast: Mapping[str, torch.Tensor],
    target: Mapping[str, torch.Tensor],
    latitude: Sequence[float] = THREE_BANDS,
    levels: Sequence[float] = (),
    missing: frozenset[str] = frozenset(),
    climatology: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Score forecasts of several start dates over the whole grid."""
    columns = next(iter(target.values())).shape[-1]
    sums = RegionalSums(globe(latitude, columns), levels, missing).of(forecast, target, climatology)
    return {
        channel: {name: float(score(values[:, 0].mean(axis=0))) for name, score in SCORES.items()}
        for channel, values in sums.items()
    }


def test_surface_scores_by_hand() -> None:
    target = torch.zeros(1, 3, 2)
    # Errors by row: (2, 0), (-1, -1), (4, 0); weights 3/4, 3/2, 3/4, two points each, together 6.
    found = scored({"2t": torch.tensor([[[2.0, 0.0], [-1.0, -1.0], [4.0, 0.0]]])}, {"2t": target})
    # Squares: 3/4 * 4 + 3/2 * 2 + 3/4 * 16 = 18; absolute: 3/2 + 3 + 3 = 7.5; signed: 3/2 - 3 + 3 = 1.5.
    assert found["2t"]["rmse"] == pytest.approx(math.sqrt(3))
    assert found["2t"]["mae"] == pytest.approx(1.25)
    assert found["2t"]["bias"] == pytest.approx(0.25)
    assert math.isnan(found["2t"]["acc"])


def test_each_level_has_its_own_scores() -> None:
    target = torch.zeros(2, 2, 3, 4)
    prediction = target + torch.tensor([1.0, -2.0])[:, None, None]
    found = scored({"u": prediction}, {"u": target}, levels=(0.5, 500))
    assert found["u_0_5"]["bias"] == pytest.approx(1)
    assert found["u_500"]["bias"] == pytest.approx(-2)
    assert found["u_500"]["rmse"] == pytest.approx(2)


def test_dates_add_up_before_the_root() -> None:
    errors = torch.tensor([0.0, 4.0])[:, None, None].expand(2, 1, 2)
    # Mean square (0 + 16) / 2 = 8; not the mean of the roots, 2.
    assert scored({"msl": errors}, {"msl": torch.zeros(2, 1, 2)}, [10.0])["msl"]["rmse"] == pytest.approx(math.sqrt(8))


def test_sums_keep_what_float32_would_lose() -> None:
    target = torch.full((50, 2, 512), 101325.0)
    found = scored({"msl": target + 0.0078125}, {"msl": target}, [10.0, 0.0])
    assert found["msl"]["bias"] == pytest.approx(0.0078125, rel=1e-12)


@pytest.mark.parametrize("where", ("forecast", "target"))
def test_a_nan_is_loud(where: str) -> None:
    fields = {"forecast": torch.zeros(1, 3, 2), "target": torch.zeros(1, 3, 2)}
    fields[where][0, 1, 1] = math.nan
    found = scored({"2t": fields["forecast"]}, {"2t": fields["target"]})["2t"]
    assert all(math.isnan(found[name]) for name in ("rmse", "mae", "bias"))


def test_expected_missing_values_are_left_out() -> None:
    target = torch.zeros(1, 3, 2)
    target[0, 0, 0] = math.nan
    waves = frozenset({"swh"})
    found = scored({"swh": torch.full((1, 3, 2), 2.0)}, {"swh": target}, missing=waves)["swh"]
    assert (found["rmse"], found["mae"], found["bias"]) == (2, 2, 2)
    # A forecast that is NaN where the target is not still shows.
    prediction = torch.tensor([[[9.0, 2.0], [0.0, 0.0], [0.0, math.nan]]])
    assert math.isnan(scored({"swh": prediction}, {"swh": target}, missing=waves)["swh"]["rmse"])
    # Only the variables named may be missing, and nothing observed is no perfect score.
    nothing = torch.full((1, 3, 2), math.nan)
    assert math.isnan(scored({"2t": torch.zeros(1, 3, 2)}, {"2t": nothing}, missing=waves)["2t"]["rmse"])
    assert math.isnan(scored({"swh": torch.zeros(1, 3, 2)}, {"swh": nothing}, missing=waves)["swh"]["rmse"])


def test_anomalies_by_hand() -> None:
    """Two points of equal weight: climatology (1, 3), forecast (2, 5), target (3, 4)."""
    usual, forecast, target = (torch.tensor([[[a, b]]]) for a, b in ((1.0, 3.0), (2.0, 5.0), (3.0, 4.0)))
    found = scored({"2t": forecast}, {"2t": target}, [10.0], climatology={"2t": usual})["2t"]
    # Anomalies (1, 2) and (2, 1): product 4, squares 5 and 5.
    assert found["acc"] == pytest.approx(4 / 5)
    assert found["activity"] == pytest.approx(math.sqrt(5 / 2))
    assert found["target_activity"] == pytest.approx(math.sqrt(5 / 2))


def test_directions_differ_by_the_smaller_angle() -> None:
    forecast, target = torch.tensor([[[350.0, 10.0, 181.0]]]), torch.tensor([[[10.0, 350.0, 0.0]]])
    found = scored({"mwd": forecast}, {"mwd": target}, [10.0])["mwd"]
    # -20, 20 and -179 degrees.
    assert found["mae"] == pytest.approx((20 + 20 + 179) / 3)
    assert found["bias"] == pytest.approx(-179 / 3)


def test_directions_of_persistence_and_climatology_are_angles_too() -> None:
    """North in turns of 10 degrees: what came at 5, persistence at 355, climatology at 350, both west of it."""
    came, last, usual = (torch.full((1, 1, 2), value) for value in (5.0, 355.0, 350.0))
    found = scored({"dwi": last}, {"dwi": came}, [10.0], climatology={"dwi": usual})["dwi"]
    assert (found["bias"], found["mae"], found["rmse"]) == (-10, 10, 10)
    # Anomalies of 5 and 15 degrees: both turn to the same side.
    assert found["activity"] == pytest.approx(5)
    assert found["target_activity"] == pytest.approx(15)
    assert found["acc"] == pytest.approx(1)


def test_speed_of_the_wind() -> None:
    values = {"10u": 3.0, "10v": -4.0, "u": 5.0, "v": 12.0}
    winds = {name: torch.tensor([value]) for name, value in values.items()}
    found = with_wind_speed(winds)
    assert found["10ws"].item() == 5
    assert found["ws"].item() == 13
    assert with_wind_speed({"10u": torch.tensor([3.0])}).keys() == {"10u"}


def test_regions_are_summed_up_apart() -> None:
    regions = regions_on(("all", "tropics", "northern-hemisphere"), np.array(THREE_BANDS), np.array([0.0, 180.0]))
    error = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]])
    found = RegionalSums(regions, ()).of({"2t": error}, {"2t": torch.zeros(1, 3, 2)})["2t"]
    assert found.shape == (1, 3, len(MOMENTS))
    absolute = MOMENTS.index("absolute")
    # Weights 3/4, 3/2, 3/4, two points each.
    assert found[0, :, absolute].tolist() == pytest.approx([1.5 + 6 + 6, 6, 1.5])


def test_matrices_of_a_regular_grid_score_as_its_rows_do() -> None:
    latitude, longitude = np.meshgrid(np.linspace(60, 20, 5), np.linspace(0, 30, 4), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    fields = [{"2t": torch.randn(2, 5, 4, generator=generator)} for _ in range(2)]
    grids = ((latitude[:, 0], longitude[0]), (latitude, longitude))
    found = [RegionalSums(regions_on((ALL,), *grid), ()).of(*fields)["2t"] for grid in grids]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


def test_rows_compare_on_dates_that_both_have() -> None:
    ours = np.full((4, 2, len(MOMENTS)), math.nan)
    theirs = ours.copy()
    # Weight, error, absolute and squared error of dates 0 to 2, and of dates 1 to 3.
    ours[:3, 0, :4] = [[1, 1, 1, 1], [1, 2, 2, 4], [1, 2, 2, 4]]
    theirs[1:, 0, :4] = [[1, 4, 4, 16], [1, 4, 4, 16], [1, 9, 9, 81]]
    # The other channel has all dates, and no reference.
    ours[:, 1, :4] = [1, 2, 2, 4]
    row, other = score_rows(ours, {"persistence": theirs, "base": theirs}, 1)
    assert row["dates"] == 3
    assert row["rmse"] == pytest.approx(math.sqrt(3))
    assert row["persistence_rmse"] == row["base_rmse"] == pytest.approx(4)
    assert row["skill"] == row["skill_over_base"] == pytest.approx(0.5)
    assert "acc" not in row
    assert "rmse_low" not in row
    assert (other["dates"], other["rmse"], other["bias"]) == (4, 2, 2)
    assert "skill" not in other
