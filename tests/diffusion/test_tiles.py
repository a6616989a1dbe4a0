"""Tiles cover a grid, their weights sum to 1, and what a network makes of each point is what samples are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kit.diffusion.denoiser import Denoiser
from kit.diffusion.layers import with_condition
from kit.diffusion.space import DiffusionSpace, Example
from kit.diffusion.tiles import PLACES, Tiling
from kit.io.errors import SettingsError
from tests.diffusion.test_space import described, space_of

GRIDS = [
    (16, 0, (16, 16)),
    (16, 4, (16, 33)),
    (16, 8, (61, 40)),
    (8, 2, (19, 8)),
    (256, 64, (1059, 1799)),
]


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("side", "overlap", "grid"), GRIDS)
def test_weights_of_tiles_sum_to_one_everywhere(side: int, overlap: int, grid: tuple[int, int], circular: bool) -> None:
    tiling, total, count = Tiling(side, overlap, circular), torch.zeros(2, *grid), 0
    for tile, weights in tiling.covering(grid):
        assert weights.shape == (side, side)
        assert tile.top + side <= grid[0]
        assert circular or tile.left + side <= grid[1]
        tile.add(total, weights)
        count += 1
    torch.testing.assert_close(total, torch.ones_like(total))
    # No more tiles than the overlap needs, by hand for HRRR's grid: 1 + 803 / 192 rows, 1 + 1543 / 192 columns.
    if grid == (1059, 1799):
        assert count == 6 * 10


def test_weights_fade_out_where_another_tile_goes_on() -> None:
    (_, first), (_, second) = Tiling(8, 4, False).covering((8, 12))
    across = first[0] / first[0, 0]
    # Hann's window of both, where both are: the last weight is far less than the first that they share.
    assert across[:4].tolist() == [1, 1, 1, 1]
    assert (across[4:].diff() < 0).all()
    assert across[7] == pytest.approx(np.sin(np.pi / 16) ** 2 / (np.sin(np.pi / 16) ** 2 + np.sin(7 * np.pi / 16) ** 2))
    torch.testing.assert_close(first[:, 4:] + second[:, :4], torch.ones(8, 4))


def test_places_are_the_same_in_every_tile() -> None:
    whole = next(Tiling(24, 0, True).covering((24, 24)))[0].places(torch.device("cpu"))
    assert whole.shape == (PLACES, 24, 24)
    for tile, _ in Tiling(8, 2, True).covering((24, 24)):
        torch.testing.assert_close(tile.places(torch.device("cpu")), tile.of(whole))
    # Around the globe the first column follows on the last; elsewhere the ends differ, as those of rows do.
    step = (whole[:, :, 0] - whole[:, :, 1]).abs().max()
    assert (whole[:, :, 0] - whole[:, :, -1]).abs().max() == pytest.approx(step.item(), rel=0.01)
    box = next(Tiling(24, 0, False).covering((24, 24)))[0].places(torch.device("cpu"))
    for ends in (box[:, :, 0] - box[:, :, -1], box[:, 0] - box[:, -1]):
        assert ends.abs().max() > 1.9


def test_training_reads_every_place_and_cuts_all_alike() -> None:
    tiling, random = Tiling(4, 0, True), np.random.default_rng(0)
    seen = torch.zeros(6, 7)
    for _ in range(200):
        tile = tiling.drawn((6, 7), random)
        tile.add(seen, torch.ones(4, 4))
    assert (seen > 0).all()
    field = torch.arange(42.0).reshape(6, 7)
    tile = replace(tiling.drawn((6, 7), random), top=1, left=5)
    # Across the seam.
    assert tile.of(field)[0].tolist() == [12, 13, 7, 8]


def pointwise(crop: int | None) -> DiffusionSpace:
    """A space whose network reads each point by itself, and of the condition the state."""
    space = space_of(described(of="next", given=("state",), crop=crop))
    space.model.bound.fill_(3)

    def network(
        noisy: torch.Tensor, label: torch.Tensor, condition: torch.Tensor | None, present: torch.Tensor | None
    ) -> torch.Tensor:
        assert condition is not None
        there = 1 if present is None else present[:, None, None, None]
        return torch.tanh(0.7 * noisy + 0.2 * there * condition[:, :4] + label[:, None, None, None] / 1000)

    space.denoiser = Denoiser(network, "v")
    return space


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_samples_blended_of_tiles_are_those_of_the_whole_grid(guidance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    condition = torch.randn(2, 8, 21, 30, generator=generator)
    start = torch.randn(2, 4, 21, 30, generator=generator)
    drawn = []
    for crop in (None, 8):
        generators = [torch.Generator().manual_seed(place) for place in range(2)]
        drawn.append(pointwise(crop).draw(condition, start, generators, guidance=guidance, steps=6))
    torch.testing.assert_close(drawn[1], drawn[0], atol=1e-4, rtol=1e-4)


def test_a_sample_is_cut_with_its_condition_and_its_place() -> None:
    space = pointwise(8)
    values = torch.arange(2 * 4 * 21 * 30.0).reshape(2, 4, 21, 30)
    example = space.cut(Example(values, torch.cat([values, values], 1)), [np.random.default_rng(1)] * 2)
    condition = example.condition
    assert condition is not None
    assert example.drawn.shape == (2, 4, 8, 8)
    assert condition.shape == (2, space.spec.conditions, 8, 8) == (2, 2 * 4 + PLACES, 8, 8)
    assert torch.equal(condition[:, :4], example.drawn)
    # Each sample has a tile of its own.
    first = example.drawn[:, 0, 0, 0]
    assert first[0] != first[1] - 4 * 21 * 30
    # Cosine of the row's wave, of which a tile has eight rows.
    row = int(first[0]) // 30
    assert condition[0, 8 + 1, :, 0].tolist() == pytest.approx(np.cos(np.pi * np.arange(row, row + 8) / 21), abs=1e-6)


def test_a_place_is_told_where_the_condition_is_left_out() -> None:
    state, condition = torch.zeros(2, 1, 3, 3), torch.ones(2, 5, 3, 3)
    read = with_condition(state, condition, 5, torch.tensor([1.0, 0.0]), places=2)
    assert read[:, :, 0, 0].tolist() == [[0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]]


def test_a_grid_smaller_than_a_tile_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"diffusion.crop 8: expected a grid of at least 8 x 8 points, got 5 x 30"):
        pointwise(8).draw(None, torch.zeros(1, 4, 5, 30), [torch.Generator()])
