"""Settings of comparisons: what is compared, and by which scores."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_settings import CliPositionalArg

from kit.checkpoint.settings import RunSettings


class LookupSettings(BaseModel):
    """Where MLflow runs are looked up."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    uri: str | None = None
    """Tracking store or server in which ids of MLflow runs are looked up; by default ``MLFLOW_TRACKING_URI`` if set,
    else ``mlflow.db`` in ``run.dir``."""


class CompareSettings(BaseModel):
    """What is compared, and by what."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    runs: CliPositionalArg[tuple[str, ...]]
    """What is compared with the first: run folders, checkpoints, exports, sums of ``kit evaluate`` (a Zarr), scorecards
    (``scores.json``), ids of MLflow runs; two or more."""
    scores: tuple[str, ...] = ("rmse", "acc")
    """Scores that are compared: ``rmse``, ``mae``, ``bias``, ``acc``, ``activity``, of rain ``csi_1mm``, ``seeps`` and
    the like; those that need a climatology only where there is one. Of ensembles, and of single forecasts beside them,
    ``crps`` and ``brier_1mm``; between ensembles ``spread``, ``spread_error``, ``energy_score`` too."""
    variables: tuple[str, ...] | None = None
    """Variables and levels that are compared, such as ``2t,z_500``; by default all."""
    leads: tuple[float, ...] | None = None
    """Leads that are compared, in hours; by default all."""
    regions: tuple[str, ...] | None = None
    """Regions that are compared, by the names under which they were evaluated; by default all."""
    settings_only: bool = False
    """Compare settings, data, memory, time and losses alone, of runs that were not evaluated, too."""
    out: Path | None = None
    """Page to be written, one HTML file that needs nothing beside it; must not exist."""
    run: RunSettings = RunSettings()
    track: LookupSettings = LookupSettings()

    @field_validator("runs")
    @classmethod
    def _several(cls, runs: tuple[str, ...]) -> tuple[str, ...]:
        if len(runs) < 2:
            given = f"only {runs[0]} was" if runs else "none was"
            msg = f"expected two or more to compare, {given} given; name another run folder, checkpoint or scorecard"
            raise ValueError(msg)
        if len(set(runs)) < len(runs):
            msg = f"one of {', '.join(runs)} is given twice; name different ones"
            raise ValueError(msg)
        return runs

    @field_validator("out")
    @classmethod
    def _is_page(cls, out: Path | None) -> Path | None:
        if out is not None and out.suffix != ".html":
            msg = f"expected a name that ends in .html, got {str(out)!r}"
            raise ValueError(msg)
        return out
