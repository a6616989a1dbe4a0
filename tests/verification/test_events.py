"""Sums of rain, worked by hand and held against the library ``scores``."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scores.categorical import BasicContingencyManager, ThresholdEventOperator
from scores.categorical import seeps as library_seeps
from scores.continuous import mse
from scores.spatial import fss_2d

from kit.data.climatology.rain import RainClimate
from kit.metrics.contingency import brier, csi, ets, frequency_bias
from kit.verification.event_scores import event_scores
from kit.verification.events import EventSums, neighbourhood_km, seeps
from kit.verification.regions import Regions, regions_on

Fields = npt.NDArray[np.float64]


def even(rows: int, columns: int) -> Regions:
    """One region whose points all weigh the same, as in the library."""
    return Regions(("all",), np.ones((1, rows, columns)))


def rain_of(values: Fields) -> dict[str, torch.Tensor]:
    return {"tp": torch.from_numpy(np.ascontiguousarray(values))}


def scored(
    forecast: Fields,
    observed: Fields,
    regions: Regions | None = None,
    *,
    closed: bool = False,
    thresholds: Sequence[float] = (1.0,),
    widths: Sequence[int] = (3,),
    climate: RainClimate | None = None,
) -> dict[str, float]:
    """Score rain in mm of several start dates, [B, H, W], over the first region."""
    regions = regions or even(*forecast.shape[1:])
    sums = EventSums(regions, closed=closed, thresholds_mm=thresholds, neighbourhoods=widths)
    climates = None if climate is None else {"tp": climate}
    found = sums.of(rain_of(forecast / 1000), rain_of(observed / 1000), climates)["tp"]
    assert found.shape == (len(forecast), len(regions.names), len(sums.names))
    return {name: float(score(found[:, 0].mean(axis=0))) for name, score in event_scores(sums.names).items()}


def test_a_case_counted_by_hand() -> None:
    """At 1 mm: forecast in the 1st, 2nd and 4th point, observed in the 1st, 3rd and 4th, never in the 5th.

    Hits 2, misses 1, false alarms 1 of 5 points: CSI 2 / 4, bias 3 / 3, Brier 2 / 5; by chance 3 x 3 / 5 hits, so ETS
    (2 - 9 / 5) / (4 - 9 / 5) = 1 / 11.
    """
    forecast, observed = np.array([[[3.0, 2, 0, 10, 0]]]), np.array([[[2.0, 0, 6, 2, 0]]])
    found = scored(forecast, observed, thresholds=(1.0, 10.0))
    assert found["csi_1mm"] == pytest.approx(0.5)
    assert found["ets_1mm"] == pytest.approx(1 / 11)
    assert found["frequency_bias_1mm"] == pytest.approx(1)
    assert found["brier_1mm"] == pytest.approx(0.4)
    # At 10 mm one false alarm, and nothing observed.
    assert found["csi_10mm"] == 0
    assert math.isnan(found["frequency_bias_10mm"])
    assert found["brier_10mm"] == pytest.approx(0.2)
    # Without climatology there is no SEEPS.
    assert math.isnan(found["seeps"])


def test_points_weigh_by_their_area() -> None:
    """Rows at 60 north, 0 and 60 south weigh 3/4, 3/2 and 3/4: a miss, a hit and a false alarm."""
    regions = regions_on(("all", "tropics"), np.array([60.0, 0.0, -60.0]), np.array([0.0]))
    forecast, observed = np.array([[[0.0], [2.0], [2.0]]]), np.array([[[2.0], [2.0], [0.0]]])
    found = scored(forecast, observed, regions)
    assert found["csi_1mm"] == pytest.approx(1.5 / 3)
    assert found["brier_1mm"] == pytest.approx(1.5 / 3)


def test_fractions_by_hand() -> None:
    """Of five columns, a neighbourhood of 3 fits in three: fractions 1/3, 1/3, 1/3 of the one and 0, 1/3, 1/3."""
    forecast, observed = np.zeros((1, 3, 5)), np.zeros((1, 3, 5))
    forecast[0, :, 2] = 2
    observed[0, :, 3] = 2
    # Differences 1/3, 0, 0; squares 3/9 and 2/9: 1 - (1/9) / (5/9).
    assert scored(forecast, observed)["fss_1mm_3x3"] == pytest.approx(0.8)
    # Around the globe all five columns have a neighbourhood: differences in two of them, squares 3/9 and 3/9.
    assert scored(forecast, observed, closed=True)["fss_1mm_3x3"] == pytest.approx(1 - 2 / 6)
    # A square wider than the grid is left out.
    assert scored(forecast, observed, widths=(5,)).keys() == scored(forecast, observed, widths=()).keys()


def test_seeps_by_hand() -> None:
    """Half of the windows dry, 3 mm heavy; dry is 0, light 1 mm, heavy 4 mm."""
    amounts = np.array([0.0, 1.0, 4.0])
    forecast, observed = (grid[None] for grid in np.meshgrid(amounts, amounts, indexing="ij"))
    climate = RainClimate(torch.full((3, 3), 0.5), torch.full((3, 3), 3e-3))
    penalty, scored_points = seeps(torch.from_numpy(forecast) / 1000, torch.from_numpy(observed) / 1000, climate)
    # With p1 = 1/2, p3 = 1/6: halves of 1 / (1 - p1) = 2, 1 / p3 = 6, 1 / p1 = 2, 1 / (1 - p3) = 6/5.
    expected = np.array([[0, 1, 4], [1, 0, 3], [1.6, 0.6, 0]])
    np.testing.assert_allclose(penalty[0], expected)
    assert bool(scored_points.all())
    assert scored(forecast, observed, climate=climate)["seeps"] == pytest.approx(expected.mean())


@pytest.mark.parametrize("dry", (0.05, 0.9, math.nan))
def test_seeps_leaves_out_climates_without_categories(dry: float) -> None:
    forecast, observed = np.array([[[0.0, 4.0]]]), np.array([[[0.0, 0.0]]])
    climate = RainClimate(torch.tensor([[0.5, dry]]), torch.tensor([[3e-3, 3e-3]]))
    assert scored(forecast, observed, climate=climate)["seeps"] == 0
    nowhere = RainClimate(torch.tensor([[dry, dry]]), torch.tensor([[3e-3, 3e-3]]))
    assert math.isnan(scored(forecast, observed, climate=nowhere)["seeps"])


@pytest.mark.parametrize("where", (0, 1))
def test_a_missing_value_makes_a_start_date_nan(where: int) -> None:
    fields = [np.full((2, 3, 3), 2.0), np.full((2, 3, 3), 2.0)]
    fields[where][1, 0, 0] = math.nan
    sums = EventSums(even(3, 3), closed=False)
    found = sums.of(rain_of(fields[0]), rain_of(fields[1]))["tp"]
    assert np.isfinite(found[0, :, :-2]).all()
    assert np.isnan(found[1]).all()


def test_a_tenth_of_a_millimetre_in_single_precision_is_one() -> None:
    rain = {"tp": torch.full((1, 1, 1), 1e-4)}
    sums = EventSums(even(1, 1), closed=False, thresholds_mm=(0.1,))
    assert sums.of(rain, rain)["tp"][0, 0, sums.names.index("hits_0.1mm")] == 1


def test_only_rain_has_events() -> None:
    fields = {name: torch.zeros(1, 3, 3) for name in ("2t", "tp", "sf")}
    assert EventSums(even(3, 3), closed=False).of(fields, fields).keys() == {"tp", "sf"}


def test_start_dates_add_up() -> None:
    random = np.random.default_rng(0)
    forecast, observed = random.gamma(0.3, 4.0, (2, 6, 8, 9))
    regions = regions_on(("all", "europe"), np.linspace(80, 10, 8), np.linspace(0, 40, 9))
    sums = EventSums(regions, closed=False)
    together = sums.of(rain_of(forecast), rain_of(observed))["tp"]
    pairs = zip(forecast, observed, strict=True)
    apart = [sums.of(rain_of(one[None]), rain_of(other[None]))["tp"] for one, other in pairs]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-12)


rain = arrays(np.float64, (2, 4, 7, 8), elements=st.floats(0, 20, width=32))


def check_against_the_library(fields: Fields, dry: Fields, heavy: Fields, *, closed: bool) -> None:
    forecast, observed = fields
    climate = RainClimate(torch.from_numpy(dry), torch.from_numpy(heavy) / 1000)
    found = scored(forecast, observed, thresholds=(1.0, 5.0), widths=(3, 5), climate=climate, closed=closed)
    dims = ("start", "y", "x")
    ours, theirs = (xr.DataArray(values, dims=dims) for values in fields)
    seam = 2 if closed else 0
    for threshold in (1.0, 5.0):
        operator = ThresholdEventOperator(default_event_threshold=threshold)
        table = operator.make_contingency_manager(ours, theirs).transform()
        assert isinstance(table, BasicContingencyManager)
        expected = {
            "csi": table.critical_success_index(),
            "ets": table.gilberts_skill_score(),
            "frequency_bias": table.frequency_bias(),
            "brier": mse((ours >= threshold).astype(float), (theirs >= threshold).astype(float)),
        }
        for width in (3, 5):
            # Around the globe: as many columns of the other side as a neighbourhood reaches over the seam.
            reach = min(seam, width // 2)
            padded = (values.pad(x=(reach, reach), mode="wrap") for values in (ours, theirs))
            expected[f"fss_{width}"] = fss_2d(
                *padded,
                event_threshold=threshold,
                window_size=(width, width),
                spatial_dims=("y", "x"),
                threshold_operator=np.greater_equal,
            )
        for name, value in expected.items():
            kind, _, square = name.partition("fss_")
            key = f"fss_{threshold:g}mm_{square}x{square}" if square else f"{kind}_{threshold:g}mm"
            # Without any event in a neighbourhood the library calls fractions worthless.
            if square and math.isnan(found[key]):
                assert float(value) == 0
            elif math.isinf(value):
                # Of what was never observed there is no share.
                assert math.isnan(found[key])
            else:
                assert found[key] == pytest.approx(float(value), abs=1e-6, nan_ok=True), key
    expected_seeps = library_seeps(
        ours,
        theirs,
        xr.DataArray(dry, dims=("y", "x")),
        xr.DataArray(heavy, dims=("y", "x")),
        dry_light_threshold=0.25,
    )
    assert found["seeps"] == pytest.approx(float(expected_seeps), abs=1e-6)


@pytest.mark.parametrize("closed", (False, True))
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_library(seed: int, closed: bool) -> None:
    random = np.random.default_rng(seed)
    fields = random.gamma(0.4, 5.0, (2, 4, 7, 8))
    check_against_the_library(fields, random.uniform(0.05, 0.95, (7, 8)), random.uniform(1, 8, (7, 8)), closed=closed)


@settings(max_examples=10, deadline=None)
@given(fields=rain, closed=st.booleans())
def test_any_rain_is_scored_as_by_the_library(fields: Fields, closed: bool) -> None:
    check_against_the_library(fields, np.linspace(0.05, 0.95, 56).reshape(7, 8), np.full((7, 8), 4.0), closed=closed)


def test_neighbourhoods_have_a_width_in_km() -> None:
    latitude, longitude = np.array([1.0, 0.75, 0.5]), np.array([0.0, 0.25])
    # A quarter of a degree of a great circle of 6371 km is 27.8 km.
    assert neighbourhood_km(3, latitude, longitude) == pytest.approx(83.4, abs=0.05)
    matrices = np.meshgrid(latitude, longitude, indexing="ij")
    assert neighbourhood_km(3, *matrices) == pytest.approx(83.4, abs=0.05)
    assert math.isnan(neighbourhood_km(3, np.array([1.0]), longitude))


def test_formulas_take_arrays() -> None:
    hits, misses, alarms = np.array([2.0, 0.0]), np.array([1.0, 0.0]), np.array([1.0, 0.0])
    points = np.array([5.0, 5.0])
    np.testing.assert_allclose(csi(hits, misses, alarms), [0.5, np.nan])
    np.testing.assert_allclose(ets(hits, misses, alarms, points), [1 / 11, np.nan])
    np.testing.assert_allclose(frequency_bias(hits, misses, alarms), [1, np.nan])
    np.testing.assert_allclose(brier(misses, alarms, points), [0.4, 0])
