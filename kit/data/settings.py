"""Settings of the data line: which store, which part of it, how it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PositiveInt, model_validator

__all__ = ["Codec", "DataSettings", "Period", "TimeRange", "check_region"]

Codec = Literal["fast", "small", "none"]
"""How a store's chunks are packed."""


@dataclass(frozen=True)
class Period:
    """An inclusive range of times, UTC: ``START/END`` in ISO 8601, where a year or a month alone is all of it."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, value: Any) -> Period:
        """Read ``START/END``; naive times are UTC.

        Raises:
            ValueError: the text is not two ISO 8601 times in order.
        """
        if isinstance(value, cls):
            return value
        msg = f"expected START/END in ISO 8601, such as 2020-01-01/2020-12-31T18, got {value!r}"
        parts = value.split("/") if isinstance(value, str) else ()
        if len(parts) != 2:
            raise ValueError(msg)
        try:
            start, end = _utc(parts[0]), _utc(parts[1], at_end=True)
        except ValueError as error:
            raise ValueError(msg) from error
        if start > end:
            msg += ": it ends before it starts"
            raise ValueError(msg)
        return cls(start, end)

    def __str__(self) -> str:
        return "/".join(moment.strftime("%Y-%m-%dT%H:%M") for moment in (self.start, self.end))


def _utc(text: str, *, at_end: bool = False) -> datetime:
    """A moment; of a year or a month its first, or at the end its last minute."""
    if found := re.fullmatch(r"(\d{4})(?:-(\d{2}))?", text.strip()):
        year, month = int(found[1]), int(found[2] or (12 if at_end else 1))
        first = datetime(year, month, 1, tzinfo=UTC)
        return (first + timedelta(days=31)).replace(day=1) - timedelta(minutes=1) if at_end else first
    moment = datetime.fromisoformat(text.strip())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


TimeRange = Annotated[
    Period,
    BeforeValidator(Period.parse, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


def check_region(region: tuple[float, float, float, float] | None, setting: str) -> None:
    """Check north, west, south and east by themselves.

    Raises:
        ValueError: there is no such region; names the setting.
    """
    if region is None:
        return
    north, west, south, east = region
    if not -90 <= south <= north <= 90:
        msg = f"{setting}: north {north:g} and south {south:g} must be in [-90, 90], the larger one first"
        raise ValueError(msg)
    if west == east or not (abs(west) <= 360 and abs(east) <= 360):
        msg = (
            f"{setting}: west {west:g} and east {east:g} must be two different longitudes in [-360, 360]; the "
            "whole circle is 0 to 360"
        )
        raise ValueError(msg)


class DataSettings(BaseModel):
    """Which store is trained on, and which part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str = "era5-sample"
    """A store's folder, or the name of a registry entry that the kit builds into one."""
    region: tuple[float, float, float, float] | None = None
    """North, west, south, east in degrees; the whole store by default. Where west is greater than east, the box
    crosses Greenwich."""
    halo: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Degrees of context around ``data.region``: the model sees them; losses and scores are over the region alone."""
    variables: tuple[str, ...] | None = None
    """Surface and atmospheric variables by Aurora's short names; by default all that the store holds."""
    levels: tuple[float, ...] | None = None
    """Pressure levels in hPa; by default all that the store holds."""
    statics: tuple[str, ...] | None = None
    """Static variables without the ``static_`` prefix; by default all that the store holds."""
    accept: tuple[str, ...] = ()
    """Errors of the store's checks to train in spite of, by name, such as ``nan:2t``; each must have been found."""
    train: TimeRange | None = None
    """Times to train on, ``START/END`` inclusive; by default the store's own split."""
    valid: TimeRange | None = None
    """Times to validate on; by default the store's own split."""
    test: TimeRange | None = None
    """Times that evaluation scores; by default the store's own split."""
    history: PositiveInt = 2
    """States that the model sees, the last one being the initial time."""
    batch_size: PositiveInt = 1
    """Pairs per forward pass; of processes that train together, all of theirs."""
    workers: int = Field(default=0, ge=0)
    """Processes that read ahead; with 0 up to four threads of the training process do, about as fast."""

    @model_validator(mode="after")
    def _check_region(self) -> DataSettings:
        if self.region is None and self.halo:
            msg = f"data.halo {self.halo:g} has no effect without data.region: everything is scored; leave it out"
            raise ValueError(msg)
        check_region(self.region, "data.region")
        return self
