"""What a store is expected to hold: what upstream's models read, in general or one of them."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cache

from kit.io.documents import parse_json

__all__ = ["LEVELS", "Expected", "published"]

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels, in hPa, that upstream's weights were trained on, and for which it publishes statistics."""


@dataclass(frozen=True)
class Expected:
    """What a model reads, in the names of a store.

    Attributes:
        name: Name of the model; None for upstream's in general, where nothing in particular was asked for.
        surface: Surface variables.
        atmospheric: Variables on levels.
        static: Static variables without their prefix.
        levels: Pressure levels, hPa.
        step_hours: Hours from state to state; None where any step will do.
        window_hours: Hours that accumulated variables are accumulated over; None where it is the step.
    """

    name: str | None = None
    surface: tuple[str, ...] = ("2t", "10u", "10v", "msl")
    atmospheric: tuple[str, ...] = ("z", "u", "v", "t", "q")
    static: tuple[str, ...] = ("lsm", "z", "slt")
    levels: tuple[float, ...] = LEVELS
    step_hours: float | None = None
    window_hours: float | None = None

    @property
    def label(self) -> str:
        """Name for a sentence."""
        return f"variant {self.name}" if self.name else "Aurora"


@cache
def published() -> dict[str, tuple[float, float]]:
    """Read location and scale of each channel that upstream publishes (``aurora/normalisation.py``, MIT licence).

    They are kept here as numbers, because importing them from upstream imports PyTorch.
    """
    text = importlib.resources.files("kit.resources").joinpath("upstream-statistics.json").read_text(encoding="utf-8")
    return {key: (location, scale) for key, (location, scale) in parse_json(text).items()}
