"""Settings of figures: of what, and where they go."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveInt, model_validator

from kit.data.products import Windows
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


def _point(value: Any) -> Any:
    """Read ``52.5/13.4``: degrees north and east."""
    # A command line hands over a list with the text.
    text = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if not isinstance(text, str):
        return value
    try:
        north, east = map(float, text.split("/"))
    except ValueError:
        north, east = math.nan, math.nan
    if not (abs(north) <= 90 and abs(east) <= 360):
        msg = f"expected LATITUDE/LONGITUDE in degrees such as 52.5/13.4, got {text!r}"
        raise ValueError(msg)
    return north, east


class PlotSettings(BaseModel):
    """Which figures are drawn; give one of ``run``, ``checkpoint``, ``forecast_file`` and ``sums``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: Path | None = None
    """Run folder: its loss curves, its scores, and maps of its best checkpoint."""
    checkpoint: Path | None = None
    """Checkpoint folder: maps alone."""
    forecast_file: Path | None = None
    """Forecast: maps, of an ensemble plumes and postage stamps, beside what came where ``data.store`` has it. One of
    others, in the layouts that ``kit evaluate`` scores, needs the store."""
    sums: Path | None = None
    """Sums of an ensemble that ``kit evaluate --out`` kept: spread and error by lead, histograms of ranks, reliability
    of probabilities."""
    data: EvaluateData = EvaluateData()
    variables: tuple[str, ...] | None = None
    """What is mapped: ``2t``, ``z_500``, or ``z`` for all its levels; by default a few that the model predicts."""
    time: Annotated[datetime, BeforeValidator(_utc)] | None = None
    """Initial time of the first prediction, ISO 8601, UTC; by default the first that the test split allows, or the
    forecast's first."""
    window: Windows = ()
    """Hours that an accumulated variable adds up over, where a forecast of others does not say: ``tp=6h``."""
    samples: PositiveInt = 1
    """Consecutive initial times that are mapped."""
    steps: PositiveInt | None = None
    """Step of the roll-out that is mapped; by default the first one, of a forecast file the last."""
    point: Annotated[tuple[float, float], BeforeValidator(_point, json_schema_input_type=str)] | None = None
    """Place of an ensemble's plumes, ``LATITUDE/LONGITUDE`` in degrees; by default the mean over the area."""
    animate: bool = False
    """Write GIF animations of all steps up to that one, in the place of maps."""
    base: bool = True
    """Map what the weights predict that training started from too; ``--no-base`` leaves them out."""
    out: Path | None = None
    """Folder of the figures; by default ``figures`` in the run folder, or beside the checkpoint or forecast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    memory: MemorySettings = MemorySettings()
    """How a forecast fits the device; what is about training has no effect, and is refused."""
    registry: RegistrySettings = RegistrySettings()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        subjects = {"run": self.run, "checkpoint": self.checkpoint, "forecast_file": self.forecast_file}
        subjects["sums"] = self.sums
        given = [name for name, path in subjects.items() if path is not None]
        if len(given) != 1:
            msg = f"give one of {', '.join(subjects)}; given: {' and '.join(given) or 'none'}"
            raise ValueError(msg)
        if self.point is not None and self.forecast_file is None:
            msg = "point has no effect without --forecast_file ENSEMBLE; leave it out"
            raise ValueError(msg)
        if self.window and self.forecast_file is None:
            msg = "window has no effect without --forecast_file FILE; leave it out"
            raise ValueError(msg)
        if self.forecast_file is not None:
            for setting, is_set in (("data.test", self.data.test is not None), ("base", not self.base)):
                if is_set:
                    msg = f"{setting} has no effect on a forecast that is made already; leave it out"
                    raise ValueError(msg)
        return self
