"""Attention windows of a backbone block: where they lie, and which of them need a mask.

A shifted block rolls its grid, so that windows at the seams hold tokens that are no neighbours. Upstream keeps a
full mask for every window of every resolution (``aurora/model/swin3d.py``, ``compute_3d_shifted_window_mask``);
most windows need none. Here windows are put into runs that need the same: nothing, or one small mask that all
windows of the run share.

Dimensions: C latent levels, H and W patches; a window holds N tokens, ordered by level, latitude, longitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, product

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layout", "Run", "layout"]

Triple = tuple[int, int, int]

# Padded tokens belong together, and to nothing else.
_PADDED = -1


@dataclass(frozen=True)
class Run:
    """Consecutive windows that need the same.

    Attributes:
        windows: how many, for one sample.
        apart: [N, N], or [windows, N, N] where the windows differ; True for pairs of tokens that do not attend to
            each other. None where all do.
    """

    windows: int
    apart: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Layout:
    """How a grid of tokens falls into windows.

    Attributes:
        resolution: tokens along each axis.
        window: of this size.
        shift: the grid is rolled back by so much before it is cut into windows.
    """

    resolution: Triple
    window: Triple
    shift: Triple

    @property
    def shifted(self) -> bool:
        """Whether the grid is rolled."""
        return any(self.shift)

    @cached_property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Tokens to add before and after each axis, so that windows fit; the larger half goes after, as upstream's."""
        missing = [-size % window for size, window in zip(self.resolution, self.window, strict=True)]
        return tuple((count // 2, count - count // 2) for count in missing)

    def split(self, bands: int) -> list[range]:
        """Share window rows among bands, as evenly as possible; there are never more bands than rows."""
        rows = (self.resolution[1] + sum(self.padding[1])) // self.window[1]
        edges = np.linspace(0, rows, min(bands, rows) + 1).round().astype(int)
        return [range(start, stop) for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]

    def latitudes(self, rows: range) -> tuple[int, int]:
        """First latitude that some window rows hold, and the one after their last; padding is none."""
        before, height = self.padding[1][0], self.resolution[1]
        return max(rows.start * self.window[1] - before, 0), min(rows.stop * self.window[1] - before, height)

    def pad_rows(self, rows: range) -> tuple[int, int]:
        """Latitudes to add before and after those rows."""
        start, stop = self.latitudes(rows)
        before = max(self.padding[1][0] - rows.start * self.window[1], 0)
        return before, len(rows) * self.window[1] - before - (stop - start)

    def runs(self, rows: range) -> list[Run]:
        """Runs of the windows in some window rows, in the order level, latitude, longitude.

        Windows of an unshifted grid need no mask; upstream lets padding take part there.
        """
        levels, _, columns = (
            (size + sum(pad)) // window
            for size, pad, window in zip(self.resolution, self.padding, self.window, strict=True)
        )
        if not self.shifted:
            return [Run(levels * len(rows) * columns, None)]
        found = [self._row(level, row) for level, row in product(range(levels), rows)]
        return list(_merged(found))

    def _row(self, level: int, row: int) -> Run:
        """The windows of one level and one row."""
        level_ids, row_ids, column_ids = self._groups
        size = self.window
        own_levels = level_ids[level * size[0] : (level + 1) * size[0]]
        own_rows = row_ids[row * size[1] : (row + 1) * size[1]]
        columns = column_ids.reshape(-1, size[2])
        kinds = np.stack([_labels(own_levels, own_rows, own) for own in columns])
        apart = kinds[:, :, None] != kinds[:, None, :]
        if not apart.any():
            return Run(len(columns), None)
        return Run(len(columns), apart[0] if (apart == apart[0]).all() else apart)

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int64], ...]:
        """Which tokens are neighbours along each axis, after the roll; longitudes wrap, so a roll parts none."""
        groups = []
        for axis, (size, window, shift) in enumerate(zip(self.resolution, self.window, self.shift, strict=True)):
            ids = np.zeros(size, dtype=np.int64)
            if shift and axis != 2:
                ids[-window:-shift], ids[-shift:] = 1, 2
            if shift and axis == 2:
                ids[-window:] = 1
            groups.append(np.pad(ids, self.padding[axis], constant_values=_PADDED))
        return tuple(groups)


def _labels(levels: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """One label for each token of a window; equal labels attend to each other."""
    grids = np.meshgrid(levels, rows, columns, indexing="ij")
    label = (grids[0] * 4 + grids[1]) * 4 + grids[2]
    label[np.any([grid == _PADDED for grid in grids], axis=0)] = _PADDED
    return label.reshape(-1)


def _merged(runs: list[Run]) -> Iterator[Run]:
    """Join neighbouring runs that need the same."""

    def need(run: Run) -> tuple[int, bytes]:
        if run.apart is None:
            return 0, b""
        # Runs whose windows differ among themselves are joined, mask behind mask.
        return run.apart.ndim, run.apart.tobytes() if run.apart.ndim == 2 else b""

    for (rank, _), group in groupby(runs, key=need):
        members = list(group)
        apart = members[0].apart
        if rank == 3:
            apart = np.concatenate([member.apart for member in members if member.apart is not None])
        yield Run(sum(member.windows for member in members), apart)


@lru_cache(maxsize=256)
def layout(resolution: Triple, window: Triple, shift: Triple) -> Layout:
    """The layout of a grid; small arrays of numbers, no tensors."""
    return Layout(resolution, window, shift)
