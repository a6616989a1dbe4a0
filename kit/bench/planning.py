"""Suite ``plan``: the memory of the settings that the kit is judged by, and what they cost in time.

Memory is planned at 0.25 degrees, by ``kit plan`` with the command line that stands in the row. Time is measured on the
small model, in one run for all rows, with the row's own settings beside upstream's way; and estimated by the planner at
the row's own size.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kit.bench.configurations import Configuration, by_kit, forecast, measure, upstreams_loop
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.bench.step import CROP
from kit.bench.workload import make_case, on_rows
from kit.config import layers as config
from kit.config.command_line import parse
from kit.planning.cost import card_named
from kit.planning.plan import Plan, plan
from kit.planning.settings import GridSize, PlanSettings
from kit.memory.device import choose_device

__all__ = ["FULL_BELOW_LORA", "GRID", "BenchPlanner", "TARGETS", "BenchTarget", "read", "rows_of", "run", "size_of"]

_logger = logging.getLogger(__name__)

GRID = GridSize(721, 1440)
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
    """What the kit promises.

    Attributes:
        name: of the row.
        variant: of the model.
        words: settings, as on the command line.
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
    times = _times(settings, {target.name: plans[target.name].own.settings for target in TARGETS})
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
    upstream, plain = ("--forecast", f"--forecast {_PLAIN}") if target.is_forecast else (_UPSTREAM, _PLAIN)
    words = f"{first} {target.words}"
    return _Plans(
        planner.command(words),
        planner.plan(words),
        planner.plan(f"{first} {upstream}"),
        planner.plan(f"{first} {plain}"),
    )


def rows_of(
    plans: Mapping[str, _Plans], times: Mapping[str, float], planner: BenchPlanner, card: str, *, has_targets: bool
) -> list[BenchRow]:
    """Make rows of plans and times.

    Args:
        plans: by target.
        times: measured time of a step, of upstream's way in the same run, by target; some may be missing.
        planner: that made the plans.
        card: for which times are estimated.
        has_targets: whether the targets are set for the grid that was planned.
    """
    rows = [
        _row(target, plans[target.name], times.get(target.name), planner, card, has_targets=has_targets)
        for target in TARGETS
    ]
    return [*rows, *_shares(plans, has_targets=has_targets)]


def _row(target: BenchTarget, plans: _Plans, time: float | None, planner: BenchPlanner, card: str, *, has_targets: bool) -> BenchRow:
    own, upstream, plain = (size_of(plan) for plan in (plans.own, plans.upstream, plans.plain))
    more: dict[str, Any] = {
        "plain_gib": rounded(plain),
        "host_gib": rounded(plans.own.trace.host_bytes / 2**30),
        "time_ratio": rounded(time),
        "time_ratio_estimate": rounded(planner.seconds(plans.own, card) / planner.seconds(plans.upstream, card)),
        "card": card,
        "inexact": list(plans.own.inexact),
        "peak_at": {"module": plans.own.trace.peak.where, "phase": plans.own.trace.peak.phase},
        "command": plans.command,
    }
    if target.reported is not None:
        more["reported_gib"] = target.reported
    if target.host is not None and has_targets:
        more["host_must"] = target.host
    must, aim = (target.must, target.aim) if has_targets else (None, None)
    return BenchRow(target.name, own, "GiB", upstream, not plans.own.inexact, must, aim, more)


def _shares(plans: Mapping[str, _Plans], *, has_targets: bool) -> Iterable[BenchRow]:
    """LoRA beside full fine-tuning: as published, and as plainly written."""
    lora, full = plans["LoRA, 1.26 B"], plans["full, 1.26 B, fp32 AdamW, clipped"]
    own, must = size_of(lora.own), _LORA_SHARE if has_targets else None
    for how, whole in (("as published", _PUBLISHED_FULL), ("as plainly written", size_of(full.plain))):
        more = {"lora_gib": rounded(own), "full_gib": rounded(whole), "percent_below": rounded(100 * (1 - own / whole))}
        yield BenchRow(f"{FULL_BELOW_LORA} {how}", own / whole, "of full", 1.0, None, must, None, more)


def _times(settings: BenchSettings, chosen: Mapping[str, PlanSettings]) -> dict[str, float]:
    """Time of a step with each row's settings, of upstream's way, both measured in turns; a GPU's precision."""
    device = choose_device(settings.device)
    # What is planned may be far more than this machine could run.
    grid = min(settings.grid or CROP, CROP, key=lambda size: size.rows * size.columns)
    case = make_case(settings.variant, grid, device, autocast=True)
    chosen = {name: on_rows(own, grid.rows // case.spec.patch_size) for name, own in chosen.items()}
    training = {name: own for name, own in chosen.items() if not own.forecast and _says_something(own, device)}
    forecasts = {name: own for name, own in chosen.items() if own.forecast}
    ways: list[Configuration] = [upstreams_loop(), *(by_kit(name, own) for name, own in training.items())]
    plain = forecast("upstream's forecast", PlanSettings())
    others: list[Configuration] = [plain, *(forecast(name, own) for name, own in forecasts.items())]
    found: dict[str, float] = {}
    for group in (ways, others):
        _logger.info("plan: time of a step, %d ways, %d times each", len(group), settings.repeats)
        measured = measure(group, case, settings.repeats, count=False)
        base = measured.pop(group[0].name)
        found |= {name: own.whole / base.whole for name, own in measured.items()}
    return found


def _says_something(settings: PlanSettings, device: torch.device) -> bool:
    """Whether the device's time says something of a GPU's: 8-bit AdamW is made for GPUs alone."""
    return device.type == "cuda" or settings.optim.name != "adamw-8bit"


# Plans for benchmarks, by the command lines that the tables show.


_GIB = 2**30


class BenchPlanner:
    """Makes each plan once.

    Args:
        grid: that is planned on, unless a command line says another one.
    """

    def __init__(self, grid: GridSize) -> None:
        self._grid = grid
        self._made: dict[str, Plan] = {}

    def command(self, words: str) -> str:
        """The command line."""
        return f"kit plan {self._whole(words)}"

    def plan(self, words: str) -> Plan:
        """Make a plan.

        Args:
            words: arguments of ``kit plan``.

        Raises:
            KitError: they cannot be planned.
        """
        whole = self._whole(words)
        if whole not in self._made:
            _logger.info("planning: %s", self.command(words))
            self._made[whole] = plan(read(whole))
        return self._made[whole]

    @staticmethod
    def seconds(made: Plan, card: str) -> float:
        """Estimated time of a step."""
        return made.trace.cost.seconds(card_named(card))

    def _whole(self, words: str) -> str:
        return words if "--grid" in words.split() else f"{words} --grid {self._grid}"


def read(words: str) -> PlanSettings:
    """Settle settings from arguments of ``kit plan`` alone: no environment, no files."""
    given = parse(PlanSettings, shlex.split(words), "kit plan")
    return config.resolve(PlanSettings, [config.command_line_layer(given, PlanSettings)])


def size_of(made: Plan) -> float:
    """Peak in GiB."""
    return made.trace.peak.bytes / _GIB
