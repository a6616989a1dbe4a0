"""Errors in rings, by hand."""

from __future__ import annotations

import pytest
import torch

from kit.metrics.edges import EdgeBoard
from kit.metrics.scores import area_weights

LAT = torch.linspace(14, -14, 8)
DISTANCE = torch.tensor([[min(r, c, 7 - r, 7 - c) for c in range(8)] for r in range(8)])


def test_rings_double_in_width() -> None:
    """Patches of 2 in a box of 40 x 40, whose middle is 19 points away."""
    distance = torch.tensor([[min(r, c, 39 - r, 39 - c) for c in range(40)] for r in range(40)])
    board = EdgeBoard(torch.linspace(20, -20, 40), distance, 2)
    assert [ring["distance"] for ring in board.results()] == [0, 2, 4, 8, 16]
    assert [ring["points"] for ring in board.results()] == [304, 272, 448, 512, 64]
    assert sum(ring["points"] for ring in board.results()) == 1600
    alone = EdgeBoard(LAT, DISTANCE.clamp(max=1), 2)
    assert [ring["distance"] for ring in alone.results()] == [0]


def test_each_ring_has_its_own_error() -> None:
    """Errors of 3 in the outer two rows and columns, 1 inside; persistence is off by 5 everywhere."""
    target = torch.zeros(2, 8, 8)
    predicted = torch.where(DISTANCE < 2, 3.0, 1.0).expand(2, 8, 8)
    board = EdgeBoard(LAT, DISTANCE, 2)
    for sample in range(2):
        part = slice(sample, sample + 1)
        board.update({"2t": predicted[part]}, {"2t": target[part]}, {"2t": target[part] + 5})
    outer, inner = board.results()
    assert (outer["rmse"]["2t"], inner["rmse"]["2t"]) == (pytest.approx(3), pytest.approx(1))
    assert (outer["persistence_rmse"]["2t"], inner["persistence_rmse"]["2t"]) == (pytest.approx(5), pytest.approx(5))


def test_rows_count_by_area_and_levels_apart() -> None:
    lat = torch.tensor([80.0, 60, 40, 20])
    distance = torch.zeros(4, 3, dtype=torch.int64)
    error = torch.tensor([4.0, 3, 2, 1])[:, None].expand(4, 3)
    target = torch.zeros(1, 2, 4, 3)
    predicted = torch.stack([error, 2 * error])[None]
    board = EdgeBoard(lat, distance, 4)
    board.update({"t": predicted}, {"t": target}, {}, (500, 850))
    (ring,) = board.results()
    expected = (area_weights(lat) * torch.tensor([16.0, 9, 4, 1])).mean().sqrt().item()
    assert ring["rmse"] == {"t_500": pytest.approx(expected), "t_850": pytest.approx(2 * expected)}
    assert ring["persistence_rmse"] == {}


def test_only_expected_gaps_are_left_out() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, 0] = torch.nan
    board = EdgeBoard(LAT, DISTANCE, 2, may_be_missing={"swh"})
    values = {"swh": target + 2, "2t": target.nan_to_num() + 2}
    board.update(values, {"swh": target, "2t": target}, {})
    outer, inner = board.results()
    assert outer["rmse"] == {"swh": pytest.approx(2), "2t": None}
    assert inner["rmse"] == {"swh": pytest.approx(2), "2t": pytest.approx(2)}


def test_the_share_that_is_scored_is_told() -> None:
    scored = (DISTANCE >= 1).float()
    outer, inner = EdgeBoard(LAT, DISTANCE, 2, scored_HW=scored).results()
    # Two rings of 28 and 20 points, of which the second is scored.
    assert outer["scored"] == pytest.approx(20 / 48)
    assert inner["scored"] == 1


def test_matrices_of_a_regular_grid_have_the_same_rings() -> None:
    lat, lon = torch.meshgrid(LAT.double(), torch.arange(DISTANCE.shape[1]).double(), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    predicted, target = ({"2t": torch.randn(1, *DISTANCE.shape, generator=generator)} for _ in range(2))
    boards = EdgeBoard(LAT, DISTANCE, 2), EdgeBoard(lat, DISTANCE, 2, lon=lon)
    for board in boards:
        board.update(predicted, target, {})
    for one, other in zip(*(board.results() for board in boards), strict=True):
        assert other["rmse"]["2t"] == pytest.approx(one["rmse"]["2t"], rel=1e-6)
