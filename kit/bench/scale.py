"""Suite ``scale``: how memory and time grow with the grid, from 1 to 0.1 degrees, and with the length of a roll-out."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kit.bench.planning import BenchPlanner, size_of
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.planning.settings import GridSize

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


def run(settings: BenchSettings) -> list[BenchRow]:
    """Plan all sizes; another grid than the suite's own takes the place of all of its."""
    planner = BenchPlanner(settings.grid or _GRID)
    grids, variant = list(_GRIDS), "pretrained"
    if settings.grid is not None:
        grids, variant = [(str(settings.grid), settings.variant, settings.grid)], settings.variant
    by_grid, by_steps = {}, {}
    for name, grid_variant, grid in grids:
        words = f"--model.variant {grid_variant} {_SETTINGS} --grid {grid}"
        by_grid[f"grid, {name}"] = _size(planner, words, settings.card)
    for steps in _ROLLOUTS:
        name, words = f"roll-out, {steps} steps", f"--model.variant {variant} {_SETTINGS} --rollout.steps {steps}"
        if steps == 1:
            # A single step is the default, and as such planned already.
            name, words = "roll-out, 1 step", f"--model.variant {variant} {_SETTINGS}"
        by_steps[name] = _size(planner, words, settings.card, steps)
    return [*growth_rows(by_grid), *growth_rows(by_steps)]


def _size(planner: BenchPlanner, words: str, card: str, steps: int = 1) -> dict[str, Any]:
    """Plan a step; tokens are patches of one level, those of all steps of a roll-out together."""
    made = planner.plan(words)
    pixels = math.prod(made.workload.shape)
    return {
        "peak_gib": size_of(made),
        "host_gib": made.trace.host_bytes / 2**30,
        "seconds_estimate": planner.seconds(made, card),
        "tokens": steps * pixels // made.workload.spec.patch_size**2,
        "pixels": steps * pixels,
        "command": planner.command(words),
    }


def growth_rows(sizes: Mapping[str, Mapping[str, Any]]) -> list[BenchRow]:
    """Compare each size with the one before: nothing may grow faster than tokens or pixels, whichever grow more.

    Args:
        sizes: By name of the row, in order: ``peak_gib`` and ``host_gib``, ``seconds_estimate``, number of ``tokens``
            and ``pixels``, ``command``.
    """
    rows, before = [], None
    for name, size in sizes.items():
        more = dict(size)
        for key in ("peak_gib", "host_gib", "seconds_estimate"):
            more[key] = rounded(size[key])
        row = BenchRow(name, None, "times", more=more)
        if before is not None:
            tokens, pixels = size["tokens"] / before["tokens"], size["pixels"] / before["pixels"]
            peak = size["peak_gib"] / before["peak_gib"]
            seconds = size["seconds_estimate"] / before["seconds_estimate"]
            row = replace(row, value=max(peak, seconds), must=max(tokens, pixels))
            growth = {"tokens": tokens, "pixels": pixels, "peak": peak, "seconds": seconds}
            more |= {f"{kind}_growth": rounded(factor) for kind, factor in growth.items()}
        rows.append(row)
        before = size
    return rows
