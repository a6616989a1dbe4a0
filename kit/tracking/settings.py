"""Settings of tracking, of its page, and of what is sent to it later."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from pydantic_settings import CliPositionalArg

from kit.checkpoint.settings import RunSettings


class TrackSettings(BaseModel):
    """Where MLflow records the run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    uri: str | None = None
    """Tracking store or server; by default ``MLFLOW_TRACKING_URI`` if set, else ``mlflow.db`` in ``run.dir``."""
    experiment: str | None = None
    """MLflow experiment; by default the recipe's name, or ``kit``."""
    checkpoint: bool = True
    """Whether the best checkpoint is among MLflow's artifacts: sent to a server; hard links where the store is on the
    disk of the run, which cost nothing there."""
    system_seconds: PositiveFloat | None = 10.0
    """Seconds between samples of CPU, memory, disk, network and GPU, which go to ``system.jsonl`` and to MLflow;
    ``none`` takes none."""
    activations: PositiveInt | None = None
    """Steps between looks at what each module puts out (largest magnitude, RMS, share of NaN and Inf), which go to
    ``activations.jsonl`` and to MLflow; by default none is taken."""


class UiSettings(BaseModel):
    """Where the tracking page looks, and where it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: RunSettings = RunSettings()
    track: TrackSettings = TrackSettings()
    port: int = Field(default=5000, ge=1, le=65535)
    """Port on the loopback address."""


class SyncStoreSettings(BaseModel):
    """Which tracking store."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    uri: str | None = None
    """Tracking store or server that the run is sent to, made there if need be; by default the one it began in."""


class SyncSettings(BaseModel):
    """What is sent where."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: CliPositionalArg[Path]
    """The run's folder."""
    track: SyncStoreSettings = SyncStoreSettings()
