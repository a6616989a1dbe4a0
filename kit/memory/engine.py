"""The memory engine: applies the settings of memory to a model, without renaming anything in it."""

from __future__ import annotations

from aurora import Aurora

from kit.memory.settings import MemorySettings

__all__ = ["install"]


def install(model: Aurora, settings: MemorySettings) -> None:
    """Make a model run its forward and backward pass as the settings say."""
