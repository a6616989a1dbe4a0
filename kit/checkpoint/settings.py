"""Settings of run folders, and of commands that take several checkpoints."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg


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


class RunSettings(BaseModel):
    """Where the run lives."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder of the run inside ``run.dir``; by default the recipe's name and the time of the start."""
    dir: Path = Path("runs")
    """Parent of all run folders."""


class IntegritySettings(BaseModel):
    """What is verified."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: CliPositionalArg[Path]
    """A checkpoint, a run folder, an export or its archive, or a store."""
