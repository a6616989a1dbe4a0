"""Settings of ``kit data qa`` and ``kit data stats``."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from kit.data.settings import TimeRange


class StatsSettings(BaseModel):
    """Which statistics are shown, and what they are held against."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: CliPositionalArg[str]
    """A store's folder, the name of a registry entry that the kit builds into one, or a JSON file of statistics."""
    split: Literal["train", "valid", "test"] | None = None
    """Split whose statistics are shown; ``train`` by default. Others are computed from the values."""
    times: TimeRange | None = None
    """Times whose statistics are computed, ``START/END`` inclusive, instead of a split's."""
    weights: Literal["none", "area"] | None = None
    """How points are weighted: ``none``, all alike; ``area``, by the area of their cells; by default as the store's
    statistics have it."""
    recompute: bool = False
    """Compute from the values even what ``stats.json`` holds."""
    write: bool = False
    """Put what was computed over the training split into the store's ``stats.json``."""
    against: str = "upstream"
    """What they are compared with: ``upstream``'s published statistics, another store, or a JSON file of statistics."""
    transforms: dict[str, str] = Field(default_factory=dict)
    """Transforms to try, as ``model.transforms`` has them: ``tp=log1p:1e-4``; they are fitted to the training split."""
    states: int = Field(default=8, ge=0)
    """States of each split that are read to compare validation and test with training; 0 leaves it out."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.split is not None and self.times is not None:
            msg = f"split {self.split} and times {self.times}: give one of them"
            raise ValueError(msg)
        other = self.times is not None or self.split in ("valid", "test")
        which = f"times {self.times}" if self.times is not None else f"split {self.split}"
        if self.write and other:
            msg = f"write: a store's statistics are those of its training split, not of {which}; leave one of them out"
            raise ValueError(msg)
        if self.recompute and other:
            msg = f"recompute has no effect: statistics of {which} are computed anyway; leave it out"
            raise ValueError(msg)
        return self


class QaSettings(BaseModel):
    """What is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: CliPositionalArg[str]
    """A store's folder, or the name of a registry entry that the kit builds into one."""
    variant: str | None = None
    """Variant of Aurora that is to read it: what it lacks for that is then a warning."""
    accept: tuple[str, ...] = ()
    """Errors to accept, by name, such as ``nan:2t``; each must be one that was found."""
    html: Path | None = None
    """File to write a page to: the findings, with maps and histograms."""
    fresh: bool = False
    """Read the store even if the report of an earlier check still holds."""
