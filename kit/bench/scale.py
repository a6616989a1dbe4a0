"""Suite ``scale``: how memory and time grow with the grid, from 1 to 0.1 degrees, and with the length of a roll-out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kit.bench.planning import BenchPlanner, size_of
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.planning.settings import GridSize

__all__ = ["Size", "growth_rows", "run"]

_SETTINGS = (
    "--memory.recompute blocks --memory.latitude_bands 16 --memory.window_bands 6 --memory.offload inputs,optimizer"
)
# The grid of 0.1 degrees is that of its own variant, whose patches are larger.
_GRIDS = (
    ("1 degree", "pretrained", GridSize(181, 360)),
    ("0.25 degrees", "pretrained", GridSize(721, 1440)),
    ("0.1 degrees", "highres", GridSize(1801, 3600)),
)
_ROLLOUTS = (1, 2, 4)
_GRID = GridSize(721, 1440)


@dataclass(frozen=True)
class Size:
    """A step of some size, and what it takes.

    Attributes:
        name: Name of the row.
        tokens: Number of patches of one level that a step goes through, all steps of a roll-out together.
        pixels: The same number of grid points.
        peak_gib: GiB that the device holds at the peak.
        host_gib: GiB that the host holds.
        seconds: Estimated time.
        command: Command that plans it.
    """

    name: str
    tokens: int
    pixels: int
    peak_gib: float
    host_gib: float
    seconds: float
    command: str


def run(settings: BenchSettings) -> list[BenchRow]:
    """Plan all sizes; another grid than the suite's own takes the place of all of its."""
    planner = BenchPlanner(settings.grid or _GRID)
    grids, variant = list(_GRIDS), "pretrained"
    if settings.grid is not None:
        grids, variant = [(str(settings.grid), settings.variant, settings.grid)], settings.variant
    by_grid = []
    for name, grid_variant, grid in grids:
        words = f"--model.variant {grid_variant} {_SETTINGS} --grid {grid}"
        by_grid.append(_size(planner, f"grid, {name}", words, settings.card))
    by_steps = []
    for steps in _ROLLOUTS:
        name, words = f"roll-out, {steps} steps", f"--model.variant {variant} {_SETTINGS} --rollout.steps {steps}"
        if steps == 1:
            # A single step is the default, and as such planned already.
            name, words = "roll-out, 1 step", f"--model.variant {variant} {_SETTINGS}"
        by_steps.append(_size(planner, name, words, settings.card, steps))
    return [*growth_rows(by_grid), *growth_rows(by_steps)]


def _size(planner: BenchPlanner, name: str, words: str, card: str, steps: int = 1) -> Size:
    made = planner.plan(words)
    pixels = math.prod(made.workload.shape)
    return Size(
        name,
        steps * pixels // made.workload.spec.patch_size**2,
        steps * pixels,
        size_of(made),
        made.trace.host_bytes / 2**30,
        planner.seconds(made, card),
        planner.command(words),
    )


def growth_rows(sizes: Sequence[Size]) -> list[BenchRow]:
    """Compare each size with the one before: nothing may grow faster than tokens or pixels, whichever grow more."""
    rows = []
    for before, size in pairwise((None, *sizes)):
        assert size is not None
        more: dict[str, Any] = {
            "peak_gib": rounded(size.peak_gib),
            "host_gib": rounded(size.host_gib),
            "seconds_estimate": rounded(size.seconds),
            "tokens": size.tokens,
            "pixels": size.pixels,
            "command": size.command,
        }
        value, must = None, None
        if before is not None:
            tokens, pixels = size.tokens / before.tokens, size.pixels / before.pixels
            peak, seconds = size.peak_gib / before.peak_gib, size.seconds / before.seconds
            value, must = max(peak, seconds), max(tokens, pixels)
            more |= {
                "tokens_growth": rounded(tokens),
                "pixels_growth": rounded(pixels),
                "peak_growth": rounded(peak),
                "seconds_growth": rounded(seconds),
            }
        rows.append(BenchRow(size.name, value, "times", must=must, more=more))
    return rows
