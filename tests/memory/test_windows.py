"""Windows and their masks against hand counts, and against upstream's masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aurora.model.swin3d import compute_3d_shifted_window_mask

from kit.memory.windows import Triple, WindowLayout, WindowRun, layout

CASES: list[tuple[Triple, Triple]] = [
    ((4, 12, 24), (2, 6, 12)),
    ((4, 13, 27), (2, 6, 12)),
    ((4, 45, 90), (2, 6, 12)),
    ((4, 10, 8), (2, 4, 4)),
    ((2, 9, 9), (2, 3, 3)),
]


def shifted(resolution: Triple, window: Triple) -> WindowLayout:
    """As upstream shifts: by half a window, but not along an axis that one window covers."""
    shift = tuple(0 if size <= w else w // 2 for size, w in zip(resolution, window, strict=True))
    return layout(resolution, window, shift)


def masks(runs: list[WindowRun], tokens: int) -> np.ndarray:
    """One mask for each window."""
    rows = []
    for run in runs:
        apart = np.zeros((tokens, tokens), bool) if run.apart is None else run.apart
        rows.append(np.broadcast_to(apart, (run.windows, tokens, tokens)))
    return np.concatenate(rows)


@pytest.mark.parametrize(("resolution", "window"), CASES)
@pytest.mark.parametrize("bands", [1, 2, 3])
def test_masks_are_upstreams(resolution: Triple, window: Triple, bands: int) -> None:
    lay = shifted(resolution, window)
    theirs, _ = compute_3d_shifted_window_mask(*resolution, window, lay.shift, torch.device("cpu"), torch.float32)
    levels, rows, columns = (-(-size // w) for size, w in zip(resolution, window, strict=True))
    expected = (theirs != 0).numpy().reshape(levels, rows, columns, *theirs.shape[1:])
    for band in lay.split(bands):
        ours = masks(lay.runs(band), theirs.shape[1])
        assert np.array_equal(ours, expected[:, band.start : band.stop].reshape(ours.shape))


def test_most_windows_of_the_global_grid_need_no_mask() -> None:
    lay = shifted((4, 180, 360), (2, 6, 12))
    runs = lay.runs(range(30))
    # Two rows of windows in the vertical, 30 x 30 in the horizontal: the seam of levels parts every window of the
    # lower one, the seam of latitudes the last row of both.
    assert [(run.windows, run.apart is None) for run in runs] == [(870, True), (30, False), (870, False), (30, False)]
    assert all(run.apart is None or run.apart.shape == (144, 144) for run in runs)


def test_an_unshifted_grid_needs_none_and_lets_padding_take_part() -> None:
    assert layout((4, 13, 27), (2, 6, 12), (0, 0, 0)).runs(range(3)) == [WindowRun(18, None)]


def test_rows_are_shared_as_evenly_as_possible() -> None:
    lay = layout((4, 45, 90), (2, 6, 12), (0, 0, 0))
    # 45 latitudes need 3 more for 8 rows of windows: one before, two after.
    assert lay.padding == ((0, 0), (1, 2), (3, 3))
    assert lay.split(3) == [range(3), range(3, 5), range(5, 8)]
    assert [lay.latitudes(rows) for rows in lay.split(3)] == [(0, 17), (17, 29), (29, 45)]
    assert [lay.pad_rows(rows) for rows in lay.split(3)] == [(1, 0), (0, 0), (0, 2)]


def test_never_more_bands_than_rows() -> None:
    assert layout((4, 12, 24), (2, 6, 12), (0, 0, 0)).split(5) == [range(1), range(1, 2)]
