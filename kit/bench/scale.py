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
from kit.planning.plan import Plan
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
        name: of the row.
        tokens: patches of one level that a step goes through, all steps of a roll-out together.
        pixels: the same, of grid points.
        peak_gib: that the device holds.
        host_gib: that the host holds.
        seconds: estimate.
        command: that plans it.
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
    grids = _GRIDS if settings.grid is None else ((str(settings.grid), settings.variant, settings.grid),)
    by_grid = [
        _size(planner, f"grid, {name}", f"--model.variant {variant} {_SETTINGS} --grid {grid}", settings.card)
        for name, variant, grid in grids
    ]
    variant = "pretrained" if settings.grid is None else settings.variant
    by_steps = [
        _size(planner, f"roll-out, {steps} step{'s' * (steps > 1)}", _rollout(variant, steps), settings.card, steps)
        for steps in _ROLLOUTS
    ]
    return [*growth_rows(by_grid), *growth_rows(by_steps)]


def _rollout(variant: str, steps: int) -> str:
    # A single step is the default, and as such planned already.
    return f"--model.variant {variant} {_SETTINGS}" + (f" --rollout.steps {steps}" if steps > 1 else "")


def _size(planner: BenchPlanner, name: str, words: str, card: str, steps: int = 1) -> Size:
    made = planner.plan(words)
    pixels = _pixels(made)
    return Size(
        name,
        steps * pixels // made.workload.spec.patch_size**2,
        steps * pixels,
        size_of(made),
        made.trace.host_bytes / 2**30,
        planner.seconds(made, card),
        planner.command(words),
    )


def _pixels(made: Plan) -> int:
    return math.prod(made.workload.shape)


def growth_rows(sizes: Sequence[Size]) -> list[BenchRow]:
    """Compare each size with the one before: nothing may grow faster than tokens or pixels, whichever grow more."""
    rows = [_row(sizes[0], None)]
    return rows + [_row(size, before) for before, size in pairwise(sizes)]


def _row(size: Size, before: Size | None) -> BenchRow:
    more: dict[str, Any] = {
        "peak_gib": rounded(size.peak_gib),
        "host_gib": rounded(size.host_gib),
        "seconds_estimate": rounded(size.seconds),
        "tokens": size.tokens,
        "pixels": size.pixels,
        "command": size.command,
    }
    if before is None:
        return BenchRow(size.name, None, "times", more=more)
    most = max(size.tokens / before.tokens, size.pixels / before.pixels)
    peak, seconds = size.peak_gib / before.peak_gib, size.seconds / before.seconds
    more |= {
        "tokens_growth": rounded(size.tokens / before.tokens),
        "pixels_growth": rounded(size.pixels / before.pixels),
        "peak_growth": rounded(peak),
        "seconds_growth": rounded(seconds),
    }
    return BenchRow(size.name, max(peak, seconds), "times", must=most, more=more)
