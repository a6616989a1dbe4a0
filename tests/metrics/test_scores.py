from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kit.metrics.scores import ScoreBoard, Scores, area_weights, skill

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


def test_surface_scores_by_hand() -> None:
    board = ScoreBoard(THREE_BANDS)
    target = torch.zeros(1, 3, 2)
    # Errors by row: (2, 0), (-1, -1), (4, 0); weights 3/4, 3/2, 3/4, two points each, together 6.
    board.update({"2t": torch.tensor([[[2.0, 0.0], [-1.0, -1.0], [4.0, 0.0]]])}, {"2t": target})
    # Squares: 3/4 * 4 + 3/2 * 2 + 3/4 * 16 = 18; absolute: 3/2 + 3 + 3 = 7.5; signed: 3/2 - 3 + 3 = 1.5.
    assert board.results() == {"2t": Scores(rmse=math.sqrt(3), mae=1.25, bias=0.25, count=6)}


def test_each_level_has_its_own_scores() -> None:
    board = ScoreBoard(THREE_BANDS)
    target = torch.zeros(2, 2, 3, 4)
    prediction = target + torch.tensor([1.0, -2.0])[:, None, None]
    board.update({"u": prediction}, {"u": target}, levels=(0.5, 500))
    assert board.results() == {"u_0_5": Scores(1, 1, 1, 24), "u_500": Scores(2, 2, -2, 24)}


def test_batches_add_up_before_the_root() -> None:
    board = ScoreBoard([10.0])
    for error in (0.0, 4.0):
        board.update({"msl": torch.full((1, 1, 2), error)}, {"msl": torch.zeros(1, 1, 2)})
    # Mean square (0 + 16) / 2 = 8; not the mean of the roots, 2.
    assert board.results() == {"msl": Scores(math.sqrt(8), 2, 2, 4)}


def test_streaming_equals_one_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(6, 3, 4, 5, generator=generator) for _ in range(2))
    latitudes, levels = [80.0, 30, 10, -60], (50, 500, 1000)
    whole, parts = ScoreBoard(latitudes), ScoreBoard(latitudes)
    whole.update({"t": prediction}, {"t": target}, levels)
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        parts.update({"t": prediction[start:stop]}, {"t": target[start:stop]}, levels)
    for key, scores in whole.results().items():
        other = parts.results()[key]
        assert (other.rmse, other.mae, other.bias) == pytest.approx((scores.rmse, scores.mae, scores.bias), rel=1e-12)
        assert other.count == scores.count == 120


def test_sums_keep_what_float32_would_lose() -> None:
    board = ScoreBoard([10.0, 0.0])
    target = torch.full((1, 2, 512), 101325.0)
    for _ in range(200):
        board.update({"msl": target + 0.0078125}, {"msl": target})
    assert board.results()["msl"].bias == pytest.approx(0.0078125, rel=1e-12)


@pytest.mark.parametrize("where", ("prediction", "target"))
def test_a_nan_is_loud(where: str) -> None:
    fields = {"prediction": torch.zeros(1, 3, 2), "target": torch.zeros(1, 3, 2)}
    fields[where][0, 1, 1] = math.nan
    board = ScoreBoard(THREE_BANDS)
    board.update({"2t": fields["prediction"]}, {"2t": fields["target"]})
    scores = board.results()["2t"]
    assert math.isnan(scores.rmse)
    assert math.isnan(scores.mae)
    assert math.isnan(scores.bias)


def test_expected_missing_values_are_left_out() -> None:
    target = torch.zeros(1, 3, 2)
    target[0, 0, 0] = math.nan
    prediction = torch.tensor([[[9.0, 2.0], [0.0, 0.0], [0.0, math.nan]]])
    board = ScoreBoard(THREE_BANDS, may_be_missing={"swh"})
    board.update({"swh": torch.full((1, 3, 2), 2.0)}, {"swh": target})
    # 2 everywhere but at the missing point: weight 6 - 3/4 either way.
    assert board.results() == {"swh": Scores(2, 2, 2, 5)}
    board.update({"swh": prediction}, {"swh": target})
    assert math.isnan(board.results()["swh"].rmse), "the prediction is NaN where the target is not"


def test_only_the_variables_named_may_be_missing() -> None:
    target = torch.full((1, 3, 2), math.nan)
    board = ScoreBoard(THREE_BANDS, may_be_missing={"swh"})
    board.update(dict.fromkeys(("swh", "2t"), torch.zeros(1, 3, 2)), dict.fromkeys(("swh", "2t"), target))
    assert {name: scores.count for name, scores in board.results().items()} == {"swh": 0, "2t": 6}
    assert math.isnan(board.results()["swh"].rmse)
    assert math.isnan(board.results()["2t"].rmse)


def test_no_gradient_is_kept() -> None:
    board = ScoreBoard([0.0])
    board.update({"2t": torch.zeros(1, 1, 1, requires_grad=True)}, {"2t": torch.ones(1, 1, 1)})
    assert board.results()["2t"].bias == -1


def test_names_must_agree() -> None:
    with pytest.raises(ValueError, match=r"predictions hold \['2t'\], but targets hold \['2t', 'msl'\]"):
        ScoreBoard([0.0]).update({"2t": torch.zeros(1, 1, 1)}, dict.fromkeys(("2t", "msl"), torch.zeros(1, 1, 1)))


@pytest.mark.parametrize(
    ("prediction", "target"),
    (
        ((1, 3, 4), (1, 3, 5)),
        ((1, 2, 4), (1, 2, 4)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ((3, 4), (3, 4)),
        ((1, 1, 1, 3, 4), (1, 1, 1, 3, 4)),
    ),
)
def test_shapes_must_fit_and_nothing_is_added(prediction: tuple[int, ...], target: tuple[int, ...]) -> None:
    board = ScoreBoard(THREE_BANDS)
    good = torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match=r"t: expected \[B, 3, W\] at the surface or \[B, 1, 3, W\] on 1 levels"):
        board.update({"2t": good, "t": torch.zeros(prediction)}, {"2t": good, "t": torch.zeros(target)}, levels=(500,))
    assert board.results() == {}


def test_matrices_of_a_regular_grid_score_as_its_rows_do() -> None:
    latitude, longitude = np.meshgrid(np.linspace(60, 20, 5), np.linspace(0, 30, 4), indexing="ij")
    vectors, matrices = ScoreBoard(latitude[:, 0]), ScoreBoard(latitude, longitude)
    generator = torch.Generator().manual_seed(0)
    drawn = [{"2t": torch.randn(2, 5, 4, generator=generator), "t": torch.randn(2, 3, 5, 4, generator=generator)}
             for _ in range(2)]  # fmt: skip
    for board in (vectors, matrices):
        board.update(drawn[0], drawn[1], (500, 850, 1000))
    for key, found in matrices.results().items():
        expected = vectors.results()[key]
        assert (found.rmse, found.mae) == pytest.approx((expected.rmse, expected.mae), rel=1e-12)
        assert found.bias == pytest.approx(expected.bias, rel=1e-10)
        assert found.count == expected.count == 40
    with pytest.raises(ValueError, match=r"2t: expected \[B, 5, 4\] at the surface"):
        matrices.update({"2t": torch.zeros(1, 5, 3)}, {"2t": torch.zeros(1, 5, 3)})
