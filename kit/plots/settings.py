"""Settings of figures: of what, and where they go."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveInt, model_validator

from kit.memory.settings import MemorySettings
from kit.registry.settings import RegistrySettings
from kit.verification.settings import EvaluateData


def _utc(value: Any) -> Any:
    """Read ISO 8601, hours alone included; a time without a zone is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if not isinstance(value, datetime):
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlotSettings(BaseModel):
    """Which figures are drawn; give ``run`` or ``checkpoint``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: Path | None = None
    """Run folder: its loss curves, and maps of its best checkpoint."""
    checkpoint: Path | None = None
    """Checkpoint folder: maps alone."""
    data: EvaluateData = EvaluateData()
    variables: tuple[str, ...] | None = None
    """What is mapped: ``2t``, ``z_500``, or ``z`` for all its levels; by default a few that the model predicts."""
    time: Annotated[datetime, BeforeValidator(_utc)] | None = None
    """Initial time of the first prediction, ISO 8601, UTC; by default the first that the test split allows."""
    samples: PositiveInt = 1
    """Consecutive predictions that are mapped."""
    out: Path | None = None
    """Folder of the figures; by default ``figures`` in the run folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    memory: MemorySettings = MemorySettings()
    """How a forecast fits the device; what is about training has no effect, and is refused."""
    registry: RegistrySettings = RegistrySettings()

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        if (self.run is None) == (self.checkpoint is None):
            both = "both were" if self.run is not None else "neither was"
            msg = f"give run or checkpoint, one of them; {both} given"
            raise ValueError(msg)
        return self
