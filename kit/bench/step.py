"""Suite ``step``: one training step in several configurations, in one process: time, memory, exactness."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kit.bench.configurations import (
    Configuration,
    StepMeasurement,
    by_kit,
    measure,
    plain_adam,
    plain_name,
    upstreams_loop,
)
from kit.bench.exactness import Exactness, UpstreamReference, loss_curve, upstreams_curve
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.bench.workload import make_case, on_rows
from kit.memory.device import choose_device
from kit.planning.settings import GridSize
from kit.settings import Settings

_logger = logging.getLogger(__name__)

CROP = GridSize(96, 192)
TARGET = "forward + backward at no more than upstream's memory"
_MUST, _AIM = 0.78, 0.65
_GIB = 2**30
# As in upstream's loop: no clipping.
_OPTIM = {"clip": None, "warmup": 0}
_KITS: Mapping[str, Mapping[str, Any]] = {
    "kit, recompute none": {},
    "kit, recompute none, 8 latitude bands": {"latitude_bands": 8},
    "kit, recompute selective, 8 latitude bands": {"recompute": "selective", "latitude_bands": 8},
    "kit, recompute blocks in the first stage, 24 latitude and 4 window bands": {
        "recompute": "blocks",
        "stages": 1,
        "latitude_bands": 24,
        "window_bands": 4,
    },
    "kit, recompute blocks in the first two stages, 24 latitude and 4 window bands": {
        "recompute": "blocks",
        "stages": 2,
        "latitude_bands": 24,
        "window_bands": 4,
    },
    "kit, recompute blocks, 8 latitude and 4 window bands": {
        "recompute": "blocks",
        "latitude_bands": 8,
        "window_bands": 4,
    },
}
# The loss is followed on a model and a grid where twenty steps take seconds; its windows shift as in the large ones.
_CURVE_VARIANT, _CURVE_GRID, _CURVE_PAIRS = "tiny", GridSize(32, 64), 4


def run(settings: BenchSettings) -> list[BenchRow]:
    """Measure the configurations, then compare what they compute."""
    device = choose_device(settings.device)
    autocast = settings.precision == "bf16"
    case = make_case(settings.variant, settings.grid or CROP, device, autocast=autocast)
    upstream, kits = upstreams_loop(), kit_configurations()
    others = [plain_adam(), *kits]
    _logger.info("step: %d ways, %d times each", len(others) + 1, settings.repeats)
    measured = measure([upstream, *others], case, settings.repeats)
    _logger.info("step: what they compute")
    curves = _curves(kits, device, autocast=autocast)
    reference = UpstreamReference(upstream, case)
    exactness = {each.name: reference.compare(each, curves.get(each.name)) for each in others}
    # Targets were set for the small model in fp32 on the suite's own grid.
    usual = settings.grid is None and settings.variant == "small" and not autocast
    return rows_of(measured, exactness, upstream.name, {each.name for each in kits}, has_targets=usual)


def kit_configurations() -> list[Configuration]:
    """Return the kit's own, with settings of memory that are worth comparing."""
    return [
        by_kit(name, Settings.model_validate({"memory": dict(memory), "optim": _OPTIM}))
        for name, memory in _KITS.items()
    ]


def _curves(configurations: Sequence[Configuration], device: torch.device, *, autocast: bool) -> dict[str, float]:
    """Return the largest relative difference of each configuration's losses from upstream's."""
    case = make_case(_CURVE_VARIANT, _CURVE_GRID, device, autocast=autocast, pairs=_CURVE_PAIRS)
    theirs = np.array(upstreams_curve(Settings.model_validate({"optim": _OPTIM}), case))
    found = {}
    for configuration in configurations:
        assert configuration.settings is not None
        # A small grid has fewer rows of patches than some settings have bands.
        ours = loss_curve(on_rows(configuration.settings, _CURVE_GRID.rows // case.spec.patch_size), case)
        found[configuration.name] = float(np.max(np.abs(ours - theirs) / np.abs(theirs)))
    return found


def rows_of(
    measured: Mapping[str, StepMeasurement],
    exactness: Mapping[str, Exactness],
    upstream: str,
    kits: Collection[str],
    *,
    has_targets: bool,
) -> list[BenchRow]:
    """Make rows of measurements, and one of the target that they are for.

    Args:
        measured: Measurements by name of the configuration.
        exactness: Distances from upstream's way by name, upstream's own not among them.
        upstream: Name of upstream's way.
        kits: Names of the kit's configurations.
        has_targets: Whether the targets are set for what was measured.
    """
    base = measured[upstream]
    rows = [_row(name, found, base, exactness.get(name)) for name, found in measured.items()]
    target = BenchRow(TARGET, None, "of upstream's time", 1.0)
    if has_targets:
        target = replace(target, must=_MUST, aim=_AIM)
    # The fastest of the kit's configurations among those that need no more memory than upstream's way.
    fitting = [row for row in rows if row.name in kits and row.more["fits"]]
    if fitting:
        best = min(fitting, key=lambda row: row.value or 0.0)
        more = {"way": best.name, "peak_ratio": best.more["peak_ratio"], "exactness": best.more["exactness"]}
        target = replace(target, value=best.ratio, exact=best.exact, more=more)
    return [*rows, target]


def _row(name: str, found: StepMeasurement, base: StepMeasurement, exactness: Exactness | None) -> BenchRow:
    assert found.peak is not None
    assert base.peak is not None
    # Upstream's own way is exact by definition.
    exact, differences = True, None
    if exactness is not None:
        exact, differences = exactness.exact, exactness.as_dict()
    more: dict[str, Any] = {
        "step_seconds": rounded(found.whole),
        "step_ratio": rounded(found.whole / base.whole),
        "samples_per_second": rounded(1 / found.whole),
        "peak_gib": rounded(found.peak.bytes / _GIB),
        "peak_baseline_gib": rounded(base.peak.bytes / _GIB),
        "peak_ratio": rounded(found.peak.bytes / base.peak.bytes),
        "peak_at": {"module": plain_name(found.peak.where), "phase": found.peak.phase},
        "fits": found.peak.bytes <= base.peak.bytes,
        "exactness": differences,
    }
    if found.cuda_bytes is not None:
        more["cuda_gib"] = rounded(found.cuda_bytes / _GIB)
    return BenchRow(name, found.seconds.through_backward, "s", base.seconds.through_backward, exact, more=more)
