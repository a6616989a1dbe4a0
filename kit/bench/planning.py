"""Suite ``plan``: the memory of the settings that the kit is judged by, and what they cost in time.

Memory is planned at 0.25 degrees, by ``kit plan`` with the command line that stands in the row. Time is measured on the
small model, in one run for all rows, with the row's own settings beside upstream's way; and estimated by the planner at
the row's own size.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel

from kit.bench.configurations import by_kit, forecast, measure, upstreams_loop
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.bench.step import CROP
from kit.bench.workload import make_case, on_rows
from kit.config import layers as config
from kit.config.command_line import parse
from kit.memory.device import choose_device
from kit.planning.cost import card_named
from kit.planning.plan import Plan, plan
from kit.planning.settings import GridSize, PlanSettings

_logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)

GRID = GridSize(721, 1440)
_GIB = 2**30
_BANDS = "--memory.latitude_bands 24 --memory.window_bands 6"
_BLOCKS = f"--memory.recompute blocks {_BANDS}"
_UPSTREAM = "--memory.recompute upstream"
_PLAIN = "--train.precision fp32"
_PUBLISHED_FULL = 64.6
"""GiB of upstream's recipe for full fine-tuning, as the kit's plan of record has it."""
_LORA_SHARE = 0.30
FULL_BELOW_LORA = "LoRA, of full fine-tuning"


@dataclass(frozen=True)
class BenchTarget:
    """A promise of the kit.

    Attributes:
        name: Name of the row.
        variant: Variant of the model.
        words: Settings, as on the command line.
        must: GiB that the peak must not exceed.
        aim: GiB that it is hoped not to exceed.
        host: GiB that the host may hold; None where nothing is offloaded.
        reported: GiB that users report of upstream's way.
    """

    name: str
    variant: str
    words: str
    must: float
    aim: float
    host: float | None = None
    reported: float | None = None

    @property
    def is_forecast(self) -> bool:
        """Whether nothing trains."""
        return "--forecast" in self.words.split()


_LARGE, _SMALL = "pretrained", "small"
TARGETS = (
    BenchTarget(
        "full, 1.26 B, fp32 AdamW, clipped", _LARGE, f"{_BLOCKS} --memory.offload inputs,optimizer", 24, 16, host=48
    ),
    BenchTarget(
        "full, 1.26 B, nothing offloaded",
        _LARGE,
        f"{_BLOCKS} --memory.saved_inputs bf16 --optim.name adamw-8bit",
        36,
        28,
    ),
    BenchTarget(
        "LoRA, 1.26 B",
        _LARGE,
        f"--adapt.method lora {_BLOCKS} --memory.frozen_weights bf16 --memory.offload inputs",
        12,
        9,
        host=24,
    ),
    BenchTarget(
        "LoRA, 1.26 B, nothing offloaded",
        _LARGE,
        "--adapt.method lora --memory.recompute blocks --memory.latitude_bands 24 --memory.window_bands 15 "
        "--memory.frozen_weights bf16 --memory.saved_inputs bf16",
        18,
        14,
    ),
    BenchTarget("QLoRA, 1.26 B", _LARGE, f"--adapt.method qlora {_BLOCKS} --memory.offload inputs", 10, 7, host=24),
    BenchTarget(
        "full, 113 M, nothing offloaded",
        _SMALL,
        "--memory.recompute blocks --memory.latitude_bands 36 --memory.window_bands 6",
        10,
        7,
    ),
    # 40 GB, as a card's name has it.
    BenchTarget("forecast, 1.26 B", _LARGE, f"--forecast {_BANDS} --memory.frozen_weights bf16", 10, 8, reported=37.3),
)


def run(settings: BenchSettings) -> list[BenchRow]:
    """Plan all targets, and measure what their settings cost."""
    planner = BenchPlanner(settings.grid or GRID)
    plans = {target.name: _plans(planner, target) for target in TARGETS}
    times = _times(settings, {name: made.own.settings for name, made in plans.items()})
    return rows_of(plans, times, planner, settings.card, has_targets=settings.grid in (None, GRID))


@dataclass(frozen=True)
class _Plans:
    """Plans of a target, of upstream's way, and of the way that is written without thinking of memory."""

    command: str
    own: Plan
    upstream: Plan
    plain: Plan


def _plans(planner: BenchPlanner, target: BenchTarget) -> _Plans:
    first = f"--model.variant {target.variant}"
    upstream, plain = _UPSTREAM, _PLAIN
    if target.is_forecast:
        # Upstream predicts with nothing recomputed.
        upstream, plain = "--forecast", f"--forecast {_PLAIN}"
    words = f"{first} {target.words}"
    own = planner.plan(words)
    return _Plans(planner.command(words), own, planner.plan(f"{first} {upstream}"), planner.plan(f"{first} {plain}"))


def rows_of(
    plans: Mapping[str, _Plans], times: Mapping[str, float], planner: BenchPlanner, card: str, *, has_targets: bool
) -> list[BenchRow]:
    """Make rows of plans and times.

    Args:
        plans: Plans by name of the target.
        times: Measured time of a step, of upstream's way in the same run, by name; some may be missing.
        planner: Planner that made the plans.
        card: GPU for which times are estimated.
        has_targets: Whether the targets are set for the grid that was planned.
    """
    rows = []
    for target in TARGETS:
        made = plans[target.name]
        trace, upstream = made.own.trace, size_of(made.upstream)
        more: dict[str, Any] = {
            "plain_gib": rounded(size_of(made.plain)),
            "host_gib": rounded(trace.host_bytes / _GIB),
            "time_ratio": rounded(times.get(target.name)),
            "time_ratio_estimate": rounded(planner.seconds(made.own, card) / planner.seconds(made.upstream, card)),
            "card": card,
            "inexact": list(made.own.inexact),
            "peak_at": {"module": trace.peak.where, "phase": trace.peak.phase},
            "command": made.command,
        }
        if target.reported is not None:
            more["reported_gib"] = target.reported
        row = BenchRow(target.name, size_of(made.own), "GiB", upstream, not made.own.inexact, more=more)
        if has_targets:
            row = replace(row, must=target.must, aim=target.aim)
            if target.host is not None:
                more["host_must"] = target.host
        rows.append(row)
    # LoRA beside full fine-tuning: as published, and as plainly written.
    lora = size_of(plans["LoRA, 1.26 B"].own)
    plain = size_of(plans["full, 1.26 B, fp32 AdamW, clipped"].plain)
    for how, full in (("as published", _PUBLISHED_FULL), ("as plainly written", plain)):
        share = lora / full
        more = {"lora_gib": rounded(lora), "full_gib": rounded(full), "percent_below": rounded(100 * (1 - share))}
        row = BenchRow(f"{FULL_BELOW_LORA} {how}", share, "of full", 1.0, more=more)
        if has_targets:
            row = replace(row, must=_LORA_SHARE)
        rows.append(row)
    return rows


def _times(settings: BenchSettings, chosen: Mapping[str, PlanSettings]) -> dict[str, float]:
    """Measure steps with each row's settings and upstream's way in turns; return times of upstream's, by name."""
    device = choose_device(settings.device)
    # What is planned may be far more than this machine could run.
    grid = min(settings.grid or CROP, CROP, key=lambda size: size.rows * size.columns)
    # In bf16, which is a GPU's precision.
    case = make_case(settings.variant, grid, device, autocast=True)
    training, forecasts = [upstreams_loop()], [forecast("upstream's forecast", PlanSettings())]
    for name, planned in chosen.items():
        own = on_rows(planned, grid.rows // case.spec.patch_size)
        if own.forecast:
            forecasts.append(forecast(name, own))
        elif device.type == "cuda" or own.optim.name != "adamw-8bit":
            # 8-bit AdamW is made for GPUs alone: a CPU's time would say nothing of a GPU's.
            training.append(by_kit(name, own))
    found: dict[str, float] = {}
    for group in (training, forecasts):
        _logger.info("plan: time of a step, %d ways, %d times each", len(group), settings.repeats)
        measured = measure(group, case, settings.repeats, count=False)
        base = measured.pop(group[0].name)
        found |= {name: taken.whole / base.whole for name, taken in measured.items()}
    return found


class BenchPlanner:
    """Planner for benchmarks, by the command lines that the tables show; makes each plan once.

    Args:
        grid: Grid that is planned on, unless a command line names another one.
    """

    def __init__(self, grid: GridSize) -> None:
        self._grid = grid
        self._made: dict[str, Plan] = {}

    def command(self, words: str) -> str:
        """Return the command line."""
        return f"kit plan {self._whole(words)}"

    def plan(self, words: str) -> Plan:
        """Make a plan.

        Args:
            words: Arguments of ``kit plan``.

        Raises:
            KitError: they cannot be planned.
        """
        whole = self._whole(words)
        # A plan traces a whole step, and several rows need the same one.
        if whole not in self._made:
            _logger.info("planning: %s", self.command(words))
            self._made[whole] = plan(read(whole))
        return self._made[whole]

    @staticmethod
    def seconds(made: Plan, card: str) -> float:
        """Return the estimated time of a step."""
        return made.trace.cost.seconds(card_named(card))

    def _whole(self, words: str) -> str:
        return words if "--grid" in words.split() else f"{words} --grid {self._grid}"


def read(words: str) -> PlanSettings:
    """Read settings from arguments of ``kit plan`` alone: no environment, no files."""
    return read_settings(PlanSettings, words, "kit plan")


def read_settings(kind: type[M], words: str, command: str) -> M:
    """Read settings from a command line alone: no environment, no files.

    Args:
        kind: Class of the settings.
        words: Arguments of the command.
        command: Its name, for messages.
    """
    given = parse(kind, shlex.split(words), command)
    return config.resolve(kind, [config.command_line_layer(given, kind)])


def size_of(made: Plan) -> float:
    """Return the peak of a plan in GiB."""
    return made.trace.peak.bytes / _GIB
