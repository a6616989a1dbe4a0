"""Settings of evaluation: which checkpoint, on what."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from kit.data.settings import TimeRange
from kit.memory.settings import MemorySettings
from kit.registry.settings import RegistrySettings


class EvaluateData(BaseModel):
    """What the checkpoint is tried on."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str | None = None
    """A store's folder or a registry name; by default the store that the checkpoint was trained on."""
    test: TimeRange | None = None
    """Times to predict, ``START/END`` inclusive; by default the test split that the checkpoint recorded."""


class EvaluateSettings(BaseModel):
    """A scorecard's ingredients."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: Path
    """Checkpoint folder, such as ``runs/NAME/checkpoints/best``."""
    data: EvaluateData = EvaluateData()
    base: bool = True
    """Score the weights that training started from too; ``--no-base`` leaves them out."""
    steps: PositiveInt = 1
    """Steps that the model predicts, each prediction becoming the newest input state of the next one; every lead is
    scored, beside persistence over the same time."""
    regions: tuple[str, ...] | None = None
    """Regions that are scored: ``all``, ``northern-hemisphere``, ``southern-hemisphere``, ``tropics``, ``europe`` and
    the other boxes of WeatherBench, ``land``, ``sea``, ``NAME=NORTH/WEST/SOUTH/EAST``, ``NAME=FILE.geojson``; by
    default all, both hemispheres and the tropics as far as they are there."""
    out: Path | None = None
    """Folder for the sums behind the scores; by default ``sums`` in the run folder, and none of other checkpoints."""
    batch_size: PositiveInt = 1
    """Predictions per forward pass."""
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
