"""One evaluation of hrrr-50m beside the largest network of its reference that fitted a card."""

from __future__ import annotations

import statistics
import time

import torch

from kit.bench.results import BenchRow, rounded
from kit.config.layers import Layer, read_recipe, resolve
from kit.diffusion.network import DiffusionModel, build_network
from kit.diffusion.spec import DiffusionSpec
from kit.planning.settings import GridSize, PlanSettings
from kit.planning.workload import workload_of

HRRR = GridSize(1059, 1799)
_OURS, _THEIRS = "hrrr-50m", "hrrr-reference-81k"
_MUST = 3.0
"""Times that ours may take as long as theirs, which has a six hundredth of its parameters."""


def evaluation_rows(grid: GridSize, repeats: int) -> list[BenchRow]:
    """Evaluate both on the CPU without gradients, in turns; the medians count."""
    networks = [_network(recipe, grid) for recipe in (_OURS, _THEIRS)]
    wall: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        # The first evaluation of each, which allocates memory, is left out.
        for turn in range(repeats + 1):
            for place, (network, spec) in enumerate(networks):
                state = torch.zeros(1, len(spec.channels), grid.rows, grid.columns)
                condition = torch.zeros(1, spec.conditions, grid.rows, grid.columns) if spec.conditions else None
                started = time.perf_counter(), time.process_time()
                network(state, torch.tensor([500.0]), condition)
                if turn:
                    wall[place].append(time.perf_counter() - started[0])
                    cpu[place].append(time.process_time() - started[1])
    ours, theirs = (statistics.median(seconds) for seconds in wall)
    more = {
        "beside": f"an evaluation of {_THEIRS}",
        "note": f"{torch.get_num_threads()} threads",
        "cpu_seconds": rounded(statistics.median(cpu[0])),
        "cpu_ratio": rounded(statistics.median(cpu[0]) / statistics.median(cpu[1])),
    }
    return [
        BenchRow(f"an evaluation of {_OURS}, {grid}", ours, "s", theirs, must=_MUST * theirs, aim=theirs, more=more)
    ]


def _network(recipe: str, grid: GridSize) -> tuple[DiffusionModel, DiffusionSpec]:
    layers = (Layer("grid", {"grid": str(grid)}), read_recipe(recipe, PlanSettings).only(PlanSettings))
    spec = workload_of(resolve(PlanSettings, layers)).diffusion
    assert spec is not None
    return build_network(spec, 0).eval(), spec
