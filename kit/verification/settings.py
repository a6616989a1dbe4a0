"""Settings of evaluation: which checkpoint, on what."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from kit.data.products import Windows
from kit.data.settings import TimeRange
from kit.memory.settings import MemorySettings
from kit.registry.settings import RegistrySettings
from kit.verification.threshold_settings import Thresholds


def _initial_time(value: Any) -> datetime:
    """Read a time; one without a zone is UTC, as everywhere in the kit."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        msg = f"expected a time such as 2020-01-01T06, got {value!r}"
        raise ValueError(msg) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class EvaluateData(BaseModel):
    """What forecasts are scored against."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: str | None = None
    """A store's folder or a registry name; by default the store that the checkpoint was trained on."""
    test: TimeRange | None = None
    """Times to predict, ``START/END`` inclusive; by default the test split that the checkpoint recorded, and of a
    forecast file all that the store holds."""


class EvaluateSettings(BaseModel):
    """A scorecard's ingredients."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: Path | None = None
    """Checkpoint folder, such as ``runs/NAME/checkpoints/best``."""
    forecast_file: Path | None = None
    """Forecast to score instead, made before or by others: NetCDF or a Zarr folder, as ``kit forecast``,
    ``kit ensemble``, WeatherBench 2 and anemoi-inference write them, or any in which coordinates state initial times
    and leads; or GRIB, a file or a folder of files. With members it is scored as an ensemble."""
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
    variables: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Variables of a forecast file that are scored, by Aurora's short names; by default all that the store holds."""
    start: Annotated[datetime, BeforeValidator(_initial_time, json_schema_input_type=str)] | None = None
    """Initial time, UTC, such as ``2020-01-01T06``, of a forecast file that does not state it."""
    window: Windows = ()
    """Hours over which accumulated variables of a forecast file add up, where it does not say: ``tp=6h``."""
    regrid_method: Literal["linear", "conservative", "nearest"] | None = None
    """How a forecast file on another grid is brought to the analyses' points; directions are taken from the nearest
    point in any case. Without it such a file is refused."""
    thresholds: Thresholds = ()
    """Amounts of rain from which on it counts, ``tp=0.1mm/2mm/20mm``; by default 0.1, 1, 5 and 10 mm. Of an ensemble
    the thresholds at which probabilities are scored, of other variables in their unit:
    ``2t=273.15/303.15,10ws=15,tp=1mm``."""
    climatology: str | None = None
    """Climatology for anomaly correlation, activity and skill over what is usual: a folder that ``kit data
    climatology`` made or one in WeatherBench 2's layout, an address, or a registry name such as
    ``weatherbench2-climatology-1p5``. Times that it was averaged over are not scored with it."""
    climatology_period: TimeRange | None = None
    """Times that a climatology was averaged over, ``START/END``, where it does not say so itself."""
    maps: tuple[str, ...] | None = ("headline",)
    """What errors are averaged of at every grid point, for maps of bias and RMSE at 1, 3, 5 and 10 days and the last
    lead: channels such as ``2t,z_500``, ``z`` for all its levels, ``all``, ``none``; by default the headline variables,
    where their sums take less than 512 MiB. Kept beside the sums of a run, or in ``out``."""
    out: Path | None = None
    """Folder for the sums behind the scores; by default ``sums`` in the run folder, and none of other checkpoints and
    of forecast files."""
    table: Literal["headline", "full"] = "headline"
    """Table in the terminal where several leads are scored: the ``headline`` variables, or the ``full`` one of all
    variables at every lead."""
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

    # The field is a text, because ``Path`` would take one of the slashes of ``gs://`` away.
    @field_validator("climatology", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.checkpoint is None) == (self.forecast_file is None):
            msg = "expected a checkpoint or a forecast_file, and not both: --checkpoint FOLDER or --forecast_file FILE"
            raise ValueError(msg)
        kind, without_effect = "a checkpoint", ["variables", "start", "window", "regrid_method"]
        if self.forecast_file is not None:
            kind = "a forecast file"
            without_effect = ["base", "steps", "batch_size", "device", "precision", "seed", "memory", "maps"]
        for name in without_effect:
            if getattr(self, name) != type(self).model_fields[name].default:
                msg = f"{name}: has no effect on the scores of {kind}; leave it out"
                raise ValueError(msg)
        if self.climatology is None and self.climatology_period is not None:
            msg = "climatology_period: has no effect without climatology; leave it out"
            raise ValueError(msg)
        if self.forecast_file is not None and self.data.store is None:
            msg = "data.store: name the store that the forecast is compared with: --data.store STORE"
            raise ValueError(msg)
        return self
