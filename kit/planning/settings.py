"""Settings of the planner: those of training, and the grid and the card to plan for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, PlainSerializer, model_validator

from kit.settings import Settings


@dataclass(frozen=True)
class GridSize:
    """Sides of a global grid; written ``ROWSxCOLUMNS``."""

    rows: int
    columns: int

    @classmethod
    def parse(cls, value: Any) -> GridSize:
        """Read ``ROWSxCOLUMNS``.

        Raises:
            ValueError: the text is not two whole numbers above zero.
        """
        if isinstance(value, cls):
            return value
        # Anything but a text is refused with the same words: on a command line 721 alone reads as a number.
        match = re.fullmatch(r"(\d+) ?x ?(\d+)", str(value).strip().lower())
        if match is None or 0 in (int(match[1]), int(match[2])):
            msg = f"expected rows x columns, such as 721x1440, got {value!r}"
            raise ValueError(msg)
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


Size = Annotated[
    GridSize,
    BeforeValidator(GridSize.parse, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


def _name(value: Any) -> Any:
    # On a command line a name of digits alone, such as 4090, reads as a number.
    if isinstance(value, int):
        return str(value)
    return value


class PlanSettings(Settings):
    """What would be run, and on which card."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    ALTERNATIVES: ClassVar = (("grid", "data.store"),)

    grid: Size | None = None
    """Latitudes x longitudes of a global grid, such as 721x1440, to plan on without data; rows that make no whole
    patch are left out, as in training. By default the store's grid."""
    card: Annotated[str | None, BeforeValidator(_name, json_schema_input_type=str)] = None
    """Card to estimate the time of a step for, such as "RTX 4090"."""
    calibration: Path | None = None
    """Results of ``kit bench card`` on a card, whose efficiencies estimates of its time are then made with."""
    forecast: bool = False
    """Plan a prediction instead of a training step."""

    @model_validator(mode="after")
    def _one_grid(self) -> Self:
        if self.grid is not None and "store" in self.data.model_fields_set:
            msg = "grid and data.store were both given, and each says what the grid is; give one"
            raise ValueError(msg)
        return self
