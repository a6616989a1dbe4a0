from __future__ import annotations

import numpy as np
import pytest

from kit.checks.scan import Tally, extent, form


def _tally(masks: list[np.ndarray]) -> Tally:
    tally = Tally()
    for time, mask in enumerate(masks):
        tally.add(time, mask)
    return tally


def _mask(*places: tuple[int | slice, ...], levels: int = 2) -> np.ndarray:
    mask = np.zeros((levels, 10, 20), dtype=bool)
    for place in places:
        mask[place] = True
    return mask


SCATTER = _mask((0, 1, 2), (0, 7, 3))
GROUND = _mask((0, slice(0, 1), slice(0, 2)), (1, slice(0, 2), slice(0, 5)))


@pytest.mark.parametrize(
    ("masks", "empty", "expected"),
    (
        ([_mask((1,)), _mask()], 1, "whole fields"),
        ([SCATTER, _mask()], 0, "scattered"),
        ([SCATTER, SCATTER], 0, "the same points in every state"),
        ([GROUND, _mask((1, 0, 0))], 0, "growing with pressure, as below the ground"),
        ([_mask((0, slice(2, 5), slice(3, 9))), _mask()], 0, "a block"),
        ([_mask((0, slice(None), slice(None, None, 2))), _mask()], 0, ""),
    ),
)
def test_sparse_and_structured(masks: list[np.ndarray], empty: int, expected: str) -> None:
    assert form(_tally(masks), len(masks), empty) == expected


def test_counts_and_places() -> None:
    tally = _tally([_mask(), SCATTER, _mask((1, 9, 19))])
    assert (tally.count, tally.states, tally.last, tally.levels) == (3, 2, 2, [0, 1])
    assert tally.first is not None
    assert (tally.first.time, tally.first.level, tally.first.row, tally.first.column) == (1, 0, 1, 2)
    assert tally.points is not None
    assert np.argwhere(tally.points).tolist() == [[1, 2], [7, 3], [9, 19]]


def test_a_box_across_greenwich_is_the_shorter_way_round() -> None:
    assert extent(np.array([350.0, 355.0, 0.0, 5.0])) == (350.0, 5.0)
    assert extent(np.array([10.0, 20.0, 30.0])) == (10.0, 30.0)
    assert extent(np.array([7.0])) == (7.0, 7.0)
