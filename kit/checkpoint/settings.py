"""How checkpoints are named by commands that take several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["Checkpoints"]


def _distinct(checkpoints: tuple[Path, ...]) -> tuple[Path, ...]:
    """Refuse one that is given twice.

    Raises:
        ValueError: names all of them.
    """
    if len(set(checkpoints)) < len(checkpoints):
        msg = f"one is given twice among {', '.join(map(str, checkpoints))}; give each once"
        raise ValueError(msg)
    return checkpoints


Checkpoints = Annotated[tuple[Path, ...], Field(min_length=1), AfterValidator(_distinct)]
