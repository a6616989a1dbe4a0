"""Plans for benchmarks, by the command lines that the tables show."""

from __future__ import annotations

import logging
import shlex

from kit import config
from kit.options import parse
from kit.plan.cards import card_named
from kit.plan.plan import Plan, plan
from kit.plan.settings import GridSize, PlanSettings

__all__ = ["Planner", "read", "size_of"]

_logger = logging.getLogger(__name__)

_GIB = 2**30


class Planner:
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
