"""Suite ``fit``: settings that ``memory.fit`` chooses for the cards that people have, below what was asked."""

import logging

from kit.bench.planning import BenchPlanner, read
from kit.bench.results import BenchRow, rounded
from kit.bench.settings import BenchSettings
from kit.io.errors import SettingsError
from kit.memory.settings import MemorySettings
from kit.planning.cost import card_named
from kit.planning.fit import RESERVE_GIB, MemoryEstimator, fit
from kit.planning.settings import GridSize
from kit.planning.workload import workload_of

_logger = logging.getLogger(__name__)

_GRID = GridSize(721, 1440)
_LIMITS = (8, 12, 16, 24, 40, 80)
_METHODS = ("full", "lora")
_GIB = 2**30


def run(settings: BenchSettings) -> list[BenchRow]:
    """Fit each method into each size of memory."""
    variant = settings.variant if settings.grid is not None else "pretrained"
    planner, card = BenchPlanner(settings.grid or _GRID), card_named(settings.card)
    rows: list[BenchRow] = []
    for method in _METHODS:
        words = f"--model.variant {variant} --adapt.method {method}"
        asked = read(planner.command(words).removeprefix("kit plan "))
        # Shared by all limits: what it has traced once need not be traced again.
        estimator = MemoryEstimator(asked, workload_of(asked))
        for limit in _LIMITS:
            name, command = f"{method}, {limit} GiB", planner.command(f"{words} --memory.fit {limit}GiB")
            _logger.info("fitting: %s", command)
            chosen = read(command.removeprefix("kit plan "))
            try:
                fitted = fit(chosen, workload_of(chosen), estimator)
            # That nothing fits is a result, too.
            except SettingsError as error:
                refusal = {"limit_gib": limit, "refused": str(error), "command": command}
                rows.append(BenchRow(name, None, "GiB", more=refusal))
                continue
            trace, peak = fitted.trace, fitted.trace.peak.bytes / _GIB
            more = {
                "limit_gib": limit,
                "peak_gib": rounded(peak),
                "reserve_gib": RESERVE_GIB,
                "host_gib": rounded(trace.host_bytes / _GIB),
                "chosen": words_for(fitted.memory),
                "seconds_estimate": rounded(trace.cost.seconds(card)),
                "command": command,
            }
            rows.append(BenchRow(name, peak + RESERVE_GIB, "GiB", exact=True, must=float(limit), more=more))
    return rows


def words_for(memory: MemorySettings) -> str:
    """Return the settings of memory that are not the defaults, as on the command line."""
    default, words = MemorySettings(), []
    for name in MemorySettings.model_fields:
        value = getattr(memory, name)
        if name == "fit" or value == getattr(default, name):
            continue
        words.append(f"--memory.{name}")
        if isinstance(value, tuple):
            words.append(",".join(value))
        elif value is not True:
            words.append(str(value))
    return " ".join(words)
