"""What a store is expected to hold: what upstream's models read, in general or one of them."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from functools import cache

__all__ = ["LEVELS", "Expected", "published"]

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels, in hPa, that upstream's weights were trained on, and for which it publishes statistics."""


@dataclass(frozen=True)
class Expected:
    """What a model reads, in the names of a store.

    Attributes:
        name: of the model; None for upstream's in general, where nothing in particular was asked for.
        surface: surface variables.
        atmospheric: variables on levels.
        static: static variables without their prefix.
        levels: in hPa.
        step_hours: from state to state; None where any step will do.
        window_hours: of accumulated variables; None where it is the step.
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
        """For a sentence."""
        return f"variant {self.name}" if self.name else "Aurora"


@cache
def published() -> dict[str, tuple[float, float]]:
    """Location and scale of each channel that upstream publishes (``aurora/normalisation.py``, MIT licence).

    They are kept here as numbers, because importing them from upstream imports PyTorch.
    """
    text = importlib.resources.files("kit.resources").joinpath("upstream-statistics.json").read_text(encoding="utf-8")
    return {key: (location, scale) for key, (location, scale) in json.loads(text).items()}
