"""Suite ``fit``: what ``memory.fit`` chooses for the cards that people have, and that it is below what was asked."""

from __future__ import annotations

import logging
from typing import Any

from kit.bench.planning import BenchPlanner, read
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.planning.cost import card_named
from kit.planning.fit import RESERVE_GIB, Fitted, MemoryEstimator, fit
from kit.planning.settings import GridSize
from kit.planning.workload import workload_of

__all__ = ["run", "words_for"]

_logger = logging.getLogger(__name__)

_GRID = GridSize(721, 1440)
_LIMITS = (8, 12, 16, 24, 40, 80)
_METHODS = ("full", "lora")
_GIB = 2**30


def run(settings: BenchSettings) -> list[BenchRow]:
    """Fit each method into each size of memory."""
    variant = "pretrained" if settings.grid is None else settings.variant
    planner = BenchPlanner(settings.grid or _GRID)
    rows: list[BenchRow] = []
    for method in _METHODS:
        words = f"--model.variant {variant} --adapt.method {method}"
        asked = read(planner.command(words).removeprefix("kit plan "))
        estimator = MemoryEstimator(asked, workload_of(asked))
        rows += [_row(planner, method, limit, words, settings.card, estimator) for limit in _LIMITS]
    return rows


def _row(planner: BenchPlanner, method: str, limit: int, words: str, card: str, estimator: MemoryEstimator) -> BenchRow:
    name = f"{method}, {limit} GiB"
    command = planner.command(f"{words} --memory.fit {limit}GiB")
    _logger.info("fitting: %s", command)
    chosen = read(command.removeprefix("kit plan "))
    try:
        fitted = fit(chosen, workload_of(chosen), estimator)
    except SettingsError as error:
        return BenchRow(name, None, "GiB", more={"limit_gib": limit, "refused": str(error), "command": command})
    return BenchRow(name, _needed(fitted), "GiB", exact=True, must=float(limit), more=_more(fitted, limit, command, card))


def _needed(fitted: Fitted) -> float:
    return fitted.trace.peak.bytes / _GIB + RESERVE_GIB


def _more(fitted: Fitted, limit: int, command: str, card: str) -> dict[str, Any]:
    return {
        "limit_gib": limit,
        "peak_gib": rounded(fitted.trace.peak.bytes / _GIB),
        "reserve_gib": RESERVE_GIB,
        "host_gib": rounded(fitted.trace.host_bytes / _GIB),
        "chosen": words_for(fitted.memory),
        "seconds_estimate": rounded(fitted.trace.cost.seconds(card_named(card))),
        "command": command,
    }


def words_for(memory: MemorySettings) -> str:
    """Settings of memory that are not the defaults, as on the command line."""
    default = MemorySettings()
    told = []
    for name in MemorySettings.model_fields:
        value = getattr(memory, name)
        if name != "fit" and value != getattr(default, name):
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            told.append(f"--memory.{name} {text}" if value is not True else f"--memory.{name}")
    return " ".join(told)
