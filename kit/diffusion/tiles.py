"""Tiles: square parts of a grid, which a network reads one at a time.

Dimensions: B sample, C channel, H row, W column; of a tile, S row and column.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kit.io.errors import SettingsError

PLACES = 8
"""Channels of a point's place: sine and cosine of two waves along each side."""


@dataclass(frozen=True)
class Tiling:
    """Tiles of a grid.

    Attributes:
        side: Rows and columns of a tile.
        overlap: Least number of points that neighbouring tiles share.
        circular: Whether columns go around the globe; a tile may then lie across the seam.
    """

    side: int
    overlap: int
    circular: bool

    def check(self, grid: tuple[int, ...]) -> None:
        """Check that a tile fits into a grid.

        Raises:
            SettingsError: it does not.
        """
        if min(grid) < self.side:
            rows, columns = grid
            msg = (
                f"diffusion.crop {self.side}: expected a grid of at least {self.side} x {self.side} points, got "
                f"{rows} x {columns}; train with a smaller --diffusion.crop, or without one on the whole grid"
            )
            raise SettingsError(msg)

    def drawn(self, grid: tuple[int, ...], random: np.random.Generator) -> "Tile":
        """Draw a tile, all places being equally likely.

        Raises:
            SettingsError: the grid is too small.
        """
        self.check(grid)
        rows, columns = grid
        top = int(random.integers(rows - self.side + 1))
        left = int(random.integers(columns if self.circular else columns - self.side + 1))
        return Tile(top, left, self, (rows, columns))

    def covering(self, grid: tuple[int, ...]) -> Iterator[tuple["Tile", torch.Tensor]]:
        """Yield tiles that cover a grid, with weights, [S, S], that sum to 1 at every point.

        Raises:
            SettingsError: the grid is too small.
        """
        self.check(grid)
        rows, columns = grid
        tops = self._along(rows, circular=False)
        lefts = self._along(columns, circular=self.circular)
        for top, down in tops:
            for left, across in lefts:
                yield Tile(top, left, self, (rows, columns)), down[:, None] * across

    def _along(self, length: int, *, circular: bool) -> list[tuple[int, torch.Tensor]]:
        """Spread tiles evenly along a side: where each begins, and its weights, [S], which sum to 1 at every point."""
        stride = self.side - self.overlap
        if circular:
            count = math.ceil(length / stride)
            starts = [round(place * length / count) for place in range(count)]
        else:
            count = math.ceil((length - self.side) / stride) + 1
            starts = [round(place * (length - self.side) / max(1, count - 1)) for place in range(count)]
        # Hann's window fades out where another tile goes on.
        fade = torch.sin(torch.pi * (torch.arange(self.side, dtype=torch.float64) + 0.5) / self.side) ** 2
        total = torch.zeros(length, dtype=torch.float64)
        points = [(start + torch.arange(self.side)) % length for start in starts]
        for inside in points:
            total[inside] += fade
        return [(start, (fade / total[inside]).float()) for start, inside in zip(starts, points, strict=True)]


@dataclass(frozen=True)
class Tile:
    """A square part of a grid.

    Attributes:
        top: First row.
        left: First column.
        tiling: Size of tiles.
        grid: Rows and columns of the grid.
    """

    top: int
    left: int
    tiling: Tiling
    grid: tuple[int, int]

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Cut the tile out of fields, [..., S, S] of [..., H, W]."""
        return values[..., self._rows, :][..., self._columns(values.device)]

    def add(self, values: torch.Tensor, part: torch.Tensor) -> None:
        """Add values of the tile, [..., S, S], to fields, [..., H, W]."""
        values[..., self._rows, self._columns(values.device)] += part

    def places(self, device: torch.device) -> torch.Tensor:
        """Describe where points of the tile are in the grid, [PLACES, S, S].

        Waves are of half the grid and more along rows, where its ends must differ, and of whole ones around the globe.
        """
        side, (height, width) = self.tiling.side, self.grid
        down = torch.pi * (self.top + torch.arange(side, device=device)) / height
        around = (2 if self.tiling.circular else 1) * torch.pi / width
        across = around * self._columns(device)
        waves = []
        for angle in (down[:, None], 2 * down[:, None], across, 2 * across):
            waves += [angle.sin().expand(side, side), angle.cos().expand(side, side)]
        return torch.stack(waves)

    @property
    def _rows(self) -> slice:
        return slice(self.top, self.top + self.tiling.side)

    def _columns(self, device: torch.device) -> torch.Tensor:
        return (self.left + torch.arange(self.tiling.side, device=device)) % self.grid[1]
