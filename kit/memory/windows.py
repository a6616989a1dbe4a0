"""Attention windows of a backbone block: where they lie, and which of them need a mask.

A shifted block rolls its grid, so that windows at the seams hold tokens that are no neighbours. Upstream keeps a
full mask for every window of every resolution (``aurora/model/swin3d.py``, ``compute_3d_shifted_window_mask``);
most windows need none. Here windows are put into runs that need the same: nothing, or one small mask that all
windows of the run share.

Dimensions: C latent levels, H and W patches; a window holds N tokens, ordered by level, latitude, longitude.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, pairwise, product

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]

# Padded tokens belong together, and to nothing else.
_PADDED = -1


@dataclass(frozen=True)
class WindowRun:
    """Consecutive windows that need the same.

    Attributes:
        windows: Number of windows, for one sample.
        apart: [N, N], or [windows, N, N] where the windows differ; True for pairs of tokens that do not attend to
            each other. None where all do.
    """

    windows: int
    apart: NDArray[np.bool_] | None


@dataclass(frozen=True)
class WindowLayout:
    """How a grid of tokens falls into windows.

    Attributes:
        resolution: Tokens along each axis: levels, latitudes, longitudes.
        window: Tokens of a window along each axis.
        shift: Tokens by which the grid is rolled back before it is cut into windows, along each axis.
    """

    resolution: Triple
    window: Triple
    shift: Triple

    @cached_property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Tokens to add before and after each axis, so that windows fit; the larger half goes after, as upstream's."""
        missing = -np.array(self.resolution) % self.window
        return tuple(zip((missing // 2).tolist(), (missing - missing // 2).tolist(), strict=True))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Windows along each axis."""
        padded = np.array(self.resolution) + np.sum(self.padding, axis=1)
        return tuple((padded // self.window).tolist())

    def split(self, bands: int) -> list[range]:
        """Share window rows among bands, as evenly as possible; there are never more bands than rows."""
        rows = self.counts[1]
        edges = np.linspace(0, rows, min(bands, rows) + 1).round().astype(int).tolist()
        return [range(start, stop) for start, stop in pairwise(edges)]

    def latitudes(self, rows: range) -> tuple[int, int]:
        """First latitude that some window rows hold, and the one after their last; padding is none."""
        before, height = self.padding[1][0], self.resolution[1]
        return max(rows.start * self.window[1] - before, 0), min(rows.stop * self.window[1] - before, height)

    def pad_rows(self, rows: range) -> tuple[int, int]:
        """Latitudes to add before and after those rows."""
        start, stop = self.latitudes(rows)
        before = max(self.padding[1][0] - rows.start * self.window[1], 0)
        return before, len(rows) * self.window[1] - before - (stop - start)

    def runs(self, rows: range) -> list[WindowRun]:
        """Runs of the windows in some window rows, in the order level, latitude, longitude.

        Windows of an unshifted grid need no mask; upstream lets padding take part there.
        """
        levels, _, columns = self.counts
        if not any(self.shift):
            return [WindowRun(levels * len(rows) * columns, None)]
        return list(_joined([self._row(level, row) for level, row in product(range(levels), rows)]))

    def _row(self, level: int, row: int) -> WindowRun:
        """The windows of one level and one row."""
        (levels, rows, columns), size = self._groups, self.window
        # [C, 1, 1], [H, 1] and [windows, 1, 1, W]: together every token of every window.
        own_levels = levels[level * size[0] : (level + 1) * size[0], None, None]
        own_rows = rows[row * size[1] : (row + 1) * size[1], None]
        own_columns = columns.reshape(-1, 1, 1, size[2])
        # One label for each of the three groups along each axis; tokens with equal labels attend to each other.
        labels = (own_levels * 4 + own_rows) * 4 + own_columns
        labels[(own_levels == _PADDED) | (own_rows == _PADDED) | (own_columns == _PADDED)] = _PADDED
        labels = labels.reshape(len(labels), -1)
        apart = labels[:, :, None] != labels[:, None, :]
        if not apart.any():
            return WindowRun(len(labels), None)
        if (apart == apart[0]).all():
            return WindowRun(len(labels), apart[0])
        return WindowRun(len(labels), apart)

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


def _joined(runs: list[WindowRun]) -> Iterator[WindowRun]:
    """Join neighbouring runs that need the same."""

    def need(run: WindowRun) -> tuple[int, bytes]:
        if run.apart is None:
            return 0, b""
        if run.apart.ndim == 2:
            return 2, run.apart.tobytes()
        # Runs whose windows differ among themselves are joined, mask behind mask.
        return 3, b""

    for (rank, _), group in groupby(runs, key=need):
        members = list(group)
        apart = members[0].apart
        if rank == 3:
            apart = np.concatenate([member.apart for member in members if member.apart is not None])
        yield WindowRun(sum(member.windows for member in members), apart)


@lru_cache(maxsize=256)
def layout(resolution: Triple, window: Triple, shift: Triple) -> WindowLayout:
    """Lay out a grid; small arrays of numbers, no tensors."""
    return WindowLayout(resolution, window, shift)
