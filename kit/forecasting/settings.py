"""Settings of forecasts: which checkpoints, from when, how far, and where to."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    model_validator,
)

from kit.checkpoint.settings import Checkpoints
from kit.data.settings import Period
from kit.memory.settings import MemorySettings
from kit.registry.settings import RegistrySettings

SUFFIXES = (".nc", ".zarr")
"""What a forecast is written as, by the end of its name."""


def _start(value: Any) -> Any:
    """Read a time, or a range of times; a time is a range of its own."""
    if not isinstance(value, str) or "/" in value:
        return Period.parse(value)
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        msg = f"expected a time such as 2020-01-01T06, or a range START/END, got {value!r}"
        raise ValueError(msg) from None
    # Times without a zone are UTC, as everywhere in the kit.
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return Period(moment, moment)


Start = Annotated[
    Period,
    BeforeValidator(_start, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


class ForecastData(BaseModel):
    """Where the initial states come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str | None = None
    """A store's folder, a registry name, or a NetCDF file with the initial states; by default the store that the
    checkpoint was trained on."""


class RollOutSettings(BaseModel):
    """What forecasts and ensembles are both made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: Checkpoints
    """Checkpoint folders, given one by one or separated by commas."""
    out: Path
    """What is written."""
    data: ForecastData = ForecastData()
    start: tuple[Start, ...] | None = Field(default=None, min_length=1)
    """Initial times, UTC, such as ``2020-01-01T06``, and ranges ``START/END`` that stand for every possible one in
    them; by default the first possible one of the test split."""
    steps: PositiveInt = 4
    """Steps of the roll-out, each of the model's own length."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward pass, whatever training's was; ``auto`` is that of upstream's class on a GPU (fp16 for
    version 1.5, fp32 for the others) and fp32 on a CPU."""
    seed: NonNegativeInt = 0
    """Seed of the noise that stochastic variants read; it goes by member, initial time and step, whatever is predicted
    beside them."""
    memory: MemorySettings = MemorySettings()
    """How a forecast fits the device; what is about training has no effect, and is refused."""
    registry: RegistrySettings = RegistrySettings()


class ForecastSettings(RollOutSettings):
    """A forecast's ingredients."""

    checkpoint: Checkpoints
    """Checkpoint folders, given one by one or separated by commas. Several are the members of an ensemble: deltas on
    one base, which is held once."""
    out: Path
    """What is written: a NetCDF file (``.nc``) or a Zarr v3 group (``.zarr``); must not exist."""
    members: Literal["each", "mean"] = "each"
    """Of several checkpoints: write ``each`` forecast, along a dimension ``member``, or their ``mean`` alone."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.out.suffix not in SUFFIXES:
            msg = f"out: expected a name that ends in {' or '.join(SUFFIXES)}, got {str(self.out)!r}"
            raise ValueError(msg)
        if self.members == "mean" and len(self.checkpoint) == 1:
            msg = "members: mean has no effect with one checkpoint; leave it out, or give several"
            raise ValueError(msg)
        return self
