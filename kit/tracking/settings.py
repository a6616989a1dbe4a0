"""Settings of tracking."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

__all__ = ["TrackSettings"]


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
