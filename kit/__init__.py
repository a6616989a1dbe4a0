"""The kit: fine-tune Microsoft's Aurora weather foundation model, reproducibly.

Every function does what the command of its name does, takes the settings of that command by keyword, and returns a
typed, frozen result whose ``to_dict()`` is what the command prints with ``--json``. Nothing heavy is imported before a
function is called.
"""

from __future__ import annotations

# Before eccodes, which xarray imports wherever it opens a file, and which brings an old SQLite: whichever is loaded
# first is everybody's, and MLflow refuses the old one.
import sqlite3  # noqa: F401
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.io.errors import masked

if TYPE_CHECKING:
    from kit.data.settings import BuildSettings
    from kit.data.store.reader import Store
    from kit.experiments.report import RunReport
    from kit.experiments.settings import ReportSettings
    from kit.forecasting.ensemble_result import EnsembleResult
    from kit.forecasting.ensemble_settings import EnsembleSettings
    from kit.forecasting.forecast import ForecastResult
    from kit.forecasting.loaded import LoadedCheckpoint
    from kit.forecasting.settings import ForecastSettings
    from kit.planning.plan import Plan
    from kit.planning.settings import PlanSettings
    from kit.run.finetune import FinetuneResult
    from kit.settings import Settings
    from kit.verification.comparison import Comparison
    from kit.verification.comparison_settings import CompareSettings
    from kit.verification.results import Scorecard
    from kit.verification.settings import EvaluateSettings

__all__ = [
    "Settings",
    "__version__",
    "build_store",
    "compare",
    "ensemble",
    "evaluate",
    "finetune",
    "forecast",
    "load_checkpoint",
    "open_store",
    "plan",
    "report",
]

__version__ = version("aurora-finetune-kit")


def __getattr__(name: str) -> Any:
    """Import ``Settings`` when it is asked for: it is a class, and cannot be deferred as functions defer imports."""
    if name == "Settings":
        from kit.settings import Settings

        return Settings
    msg = f"module 'kit' has no attribute {name!r}"
    raise AttributeError(msg)


@masked
def open_store(name: str | Path) -> Store:
    """Open a store, building it first if it is a registry entry that has no store yet.

    Args:
        name: Folder of a store, or name of a registry entry such as ``era5-sample``.

    Raises:
        KitError: there is no such store, or a file of it does not have the hash that the registry says.
    """
    from kit.data.store.build import open_store as open_by_name

    return open_by_name(str(name))


@masked
def build_store(settings: BuildSettings | None = None, /, **keywords: Any) -> Store:
    """Build a store from files, archives or data stores.

    Args:
        settings: Settings of ``kit data build``.
        keywords: The same settings by name, such as ``source="netcdf", path="era5", out="store"``.

    Returns:
        The store, opened.

    Raises:
        KitError: the data cannot be read, reconciled or fitted together; nothing is left behind.
    """
    from kit.config.layers import from_keywords
    from kit.data.settings import BuildSettings
    from kit.data.store.build import build_store as build

    return build(from_keywords(BuildSettings, settings, keywords))


@masked
def finetune(settings: Settings | None = None, /, **keywords: Any) -> FinetuneResult:
    """Fine-tune Aurora, in a run folder of its own, with a record in MLflow.

    Progress is shown on a terminal and in a notebook. Without any settings the tiny Aurora is fine-tuned on the sample
    that the kit carries.

    Args:
        settings: Settings of the run, such as ``Settings(run={"name": "a"}, train={"steps": 20})``.
        keywords: The same sections by name, such as ``train={"steps": 20}``.

    Returns:
        Losses, counts, timings, and the folder of the best checkpoint.

    Raises:
        KitError: something that the user can mend.
    """
    from kit.config.layers import from_keywords
    from kit.run.finetune import finetune as run
    from kit.settings import Settings

    return run(from_keywords(Settings, settings, keywords))


@masked
def evaluate(settings: EvaluateSettings | None = None, /, **keywords: Any) -> Scorecard:
    """Score a checkpoint against persistence, and against the weights that its training started from.

    Args:
        settings: Settings of ``kit evaluate``.
        keywords: The same settings by name, such as ``checkpoint="runs/a/checkpoints/best", steps=4``.

    Returns:
        Scores by variable and level; they are written beside the checkpoint and into its MLflow run too.

    Raises:
        KitError: checkpoint and data do not fit together.
    """
    from kit.config.layers import from_keywords
    from kit.verification.scorecard import evaluate as score
    from kit.verification.settings import EvaluateSettings

    return score(from_keywords(EvaluateSettings, settings, keywords))


@masked
def forecast(settings: ForecastSettings | None = None, /, **keywords: Any) -> ForecastResult:
    """Roll a checkpoint out from the states of a store, or of a NetCDF file, to NetCDF or Zarr.

    Args:
        settings: Settings of ``kit forecast``.
        keywords: The same settings by name, such as ``checkpoint="runs/a/checkpoints/best", out="a.nc", steps=4``.

    Returns:
        What was written, and where.

    Raises:
        KitError: checkpoint, data and settings do not fit together; nothing is left behind.
    """
    from kit.config.layers import from_keywords
    from kit.forecasting.forecast import forecast as run
    from kit.forecasting.settings import ForecastSettings

    return run(from_keywords(ForecastSettings, settings, keywords))


@masked
def ensemble(settings: EnsembleSettings | None = None, /, **keywords: Any) -> EnsembleResult:
    """Forecast the members of an ensemble to one Zarr; the same call in another process shares the work or resumes it.

    Args:
        settings: Settings of ``kit ensemble``.
        keywords: The same settings by name, such as ``checkpoint="runs/a/checkpoints/best", out="a.zarr", members=10,
            perturb="gaussian"``.

    Returns:
        What was written, and where.

    Raises:
        KitError: checkpoints, data and settings do not fit together, or another ensemble is there.
    """
    from kit.config.layers import from_keywords
    from kit.forecasting.ensemble_settings import EnsembleSettings
    from kit.planning.passes import ensemble as run

    return run(from_keywords(EnsembleSettings, settings, keywords))


@masked
def plan(settings: Settings | PlanSettings | None = None, /, **keywords: Any) -> Plan:
    """Plan the memory and time of an optimiser step, or of a forecast step, without a GPU.

    Args:
        settings: Settings of ``kit plan``: those of a run, and what it is planned for.
        keywords: The same by name, such as ``model={"variant": "small"}, grid="721x1440"``.

    Returns:
        Peak memory by what holds it, arithmetic, and time on the card that is asked for.

    Raises:
        KitError: the step cannot be taken with these settings.
    """
    from kit.config.layers import from_keywords
    from kit.planning.plan import plan as trace
    from kit.planning.settings import PlanSettings

    return trace(from_keywords(PlanSettings, settings, keywords))


@masked
def compare(settings: CompareSettings | None = None, /, **keywords: Any) -> Comparison:
    """Compare runs with the first: settings, data, memory, time, losses, and scores on the start dates of all.

    Args:
        settings: Settings of ``kit compare``.
        keywords: The same settings by name, such as ``runs=["runs/a", "runs/b"], out="compare.html"``.

    Returns:
        What differs, and the scores with intervals of their differences.

    Raises:
        KitError: one of them cannot be compared, or they were scored against different data or on no common dates.
    """
    from kit.config.layers import from_keywords
    from kit.plots.comparison_page import compare as run
    from kit.verification.comparison_settings import CompareSettings

    return run(from_keywords(CompareSettings, settings, keywords))


@masked
def report(settings: ReportSettings | None = None, /, **keywords: Any) -> RunReport:
    """Write one page about a run: what was asked, data, what trained, memory, losses, scores, licences.

    Args:
        settings: Settings of ``kit report``.
        keywords: The same settings by name, such as ``run="runs/a", out="report.html"``.

    Returns:
        Where the page is, and what it lacks.

    Raises:
        KitError: there is no run, or it is damaged.
    """
    from kit.config.layers import from_keywords
    from kit.experiments.report import report as run
    from kit.experiments.settings import ReportSettings

    return run(from_keywords(ReportSettings, settings, keywords))


@masked
def load_checkpoint(path: str | Path, *, device: str = "auto", precision: str = "auto") -> LoadedCheckpoint:
    """Load a checkpoint for predictions from arrays in memory, or for a loop of one's own.

    Args:
        path: Checkpoint folder, such as ``runs/a/checkpoints/best``, or an export.
        device: ``auto`` for a GPU where there is one, ``cpu`` or ``cuda``.
        precision: Precision of the forward pass: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for that of upstream's
            class on a GPU and fp32 on a CPU.

    Returns:
        The checkpoint, whose ``predict`` takes an ``xarray.Dataset`` or an ``aurora.Batch``, and whose ``model`` is
        Aurora itself.

    Raises:
        KitError: there is no checkpoint at ``path``, or its base weights are nowhere to be found.
    """
    from kit.forecasting.loaded import load_checkpoint as load

    return load(path, device=device, precision=precision)
