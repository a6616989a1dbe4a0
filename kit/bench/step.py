"""Suite ``step``: one training step in several ways, in one process: time, memory, exactness."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kit.bench.configurations import StepMeasurement, Configuration, by_kit, measure, plain_adam, plain_name, upstreams_loop
from kit.bench.exactness import Exactness, UpstreamReference, loss_curve, upstreams_curve
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.bench.workload import make_case, on_rows
from kit.planning.settings import GridSize
from kit.settings import Settings
from kit.memory.device import choose_device

__all__ = ["CROP", "TARGET", "kit_ways", "rows_of", "run"]

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
    """Measure the ways, then compare what they compute."""
    device = choose_device(settings.device)
    autocast = settings.precision == "bf16"
    case = make_case(settings.variant, settings.grid or CROP, device, autocast=autocast)
    upstream, adam, kits = upstreams_loop(), plain_adam(), kit_ways()
    ways = [upstream, adam, *kits]
    _logger.info("step: %d ways, %d times each", len(ways), settings.repeats)
    measured = measure(ways, case, settings.repeats)
    _logger.info("step: what they compute")
    curves = _curves(kits, device, autocast=autocast)
    reference = UpstreamReference(upstream, case)
    exactness = {way.name: reference.compare(way, curves.get(way.name)) for way in ways[1:]}
    usual = settings.grid is None and settings.variant == "small" and not autocast
    return rows_of(measured, exactness, upstream.name, {way.name for way in kits}, has_targets=usual)


def kit_ways() -> list[Configuration]:
    """The kit's own, with settings of memory that are worth comparing."""
    return [
        by_kit(name, Settings.model_validate({"memory": dict(memory), "optim": _OPTIM}))
        for name, memory in _KITS.items()
    ]


def _curves(ways: Sequence[Configuration], device: torch.device, *, autocast: bool) -> dict[str, float]:
    """Largest relative difference of each way's losses from upstream's."""
    case = make_case(_CURVE_VARIANT, _CURVE_GRID, device, autocast=autocast, pairs=_CURVE_PAIRS)
    theirs = upstreams_curve(Settings.model_validate({"optim": _OPTIM}), case)
    found: dict[str, float] = {}
    for way in ways:
        assert way.settings is not None
        ours = loss_curve(on_rows(way.settings, _CURVE_GRID.rows // case.spec.patch_size), case)
        found[way.name] = max(abs(own - their) / abs(their) for own, their in zip(ours, theirs, strict=True))
    return found


def rows_of(
    measured: Mapping[str, StepMeasurement],
    exactness: Mapping[str, Exactness],
    upstream: str,
    kits: set[str],
    *,
    has_targets: bool,
) -> list[BenchRow]:
    """Make rows of measurements, and of the target that they are for.

    Args:
        measured: by way.
        exactness: by way, but upstream's.
        upstream: name of upstream's way.
        kits: names of the kit's ways.
        has_targets: whether the targets are set for what was measured.
    """
    base = measured[upstream]
    rows = [_row(name, found, base, exactness.get(name)) for name, found in measured.items()]
    return [*rows, _target(rows, kits, has_targets=has_targets)]


def _row(name: str, found: StepMeasurement, base: StepMeasurement, exactness: Exactness | None) -> BenchRow:
    assert found.peak is not None
    assert base.peak is not None
    more: dict[str, Any] = {
        "step_seconds": rounded(found.whole),
        "step_ratio": rounded(found.whole / base.whole),
        "samples_per_second": rounded(1 / found.whole),
        "peak_gib": rounded(found.peak.bytes / _GIB),
        "peak_baseline_gib": rounded(base.peak.bytes / _GIB),
        "peak_ratio": rounded(found.peak.bytes / base.peak.bytes),
        "peak_at": {"module": plain_name(found.peak.where), "phase": found.peak.phase},
        "fits": found.peak.bytes <= base.peak.bytes,
        "exactness": exactness.as_dict() if exactness else None,
    }
    if found.cuda_bytes is not None:
        more["cuda_gib"] = rounded(found.cuda_bytes / _GIB)
    exact = True if exactness is None else exactness.exact
    return BenchRow(name, found.seconds.through_backward, "s", base.seconds.through_backward, exact, more=more)


def _target(rows: Sequence[BenchRow], kits: set[str], *, has_targets: bool) -> BenchRow:
    """The fastest of the kit's ways among those that need no more memory than upstream's."""
    fit = [row for row in rows if row.name in kits and row.more["fits"]]
    unit = "of upstream's time"
    must, aim = (_MUST, _AIM) if has_targets else (None, None)
    if not fit:
        return BenchRow(TARGET, None, unit, 1.0, must=must, aim=aim)
    best = min(fit, key=lambda row: row.value or 0.0)
    more = {"way": best.name, "peak_ratio": best.more["peak_ratio"], "exactness": best.more["exactness"]}
    return BenchRow(TARGET, best.ratio, unit, 1.0, best.exact, must, aim, more)
