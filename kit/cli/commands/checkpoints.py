"""Commands that take a checkpoint: score it, forecast with it, as an ensemble too, draw it, give it away, verify it."""

import logging
from collections.abc import Sequence
from functools import partial

from kit.checkpoint.settings import IntegritySettings
from kit.cli.commands.common import Outcome, resolve_settings
from kit.cli.views.checkpoints import show_scores
from kit.cli.views.progress import loading, log_to_screen
from kit.cli.views.stores import show_verification
from kit.cli.views.tables import show_facts, show_files
from kit.export.settings import ExportSettings
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.settings import ForecastSettings
from kit.plots.settings import PlotSettings
from kit.verification.settings import EvaluateSettings


def evaluate(arguments: Sequence[str]) -> Outcome:
    """Score a checkpoint against persistence, and against the weights that its training started from.

    A forecast that was made before, or by others, is scored with --forecast_file FILE --data.store STORE.
    """
    settings, options = resolve_settings(evaluate, EvaluateSettings, arguments)
    with loading("PyTorch and Aurora"):
        from kit.verification import scorecard
    result = scorecard.evaluate(settings).to_dict()
    return Outcome(result, options.as_json, partial(show_scores, table=settings.table))


def forecast(arguments: Sequence[str]) -> Outcome:
    """Roll a checkpoint out from the states of a store, or of a NetCDF file, and write NetCDF or Zarr as it goes.

    Several checkpoints, deltas on one base, are an ensemble: --checkpoint A --checkpoint B.
    """
    settings, options = resolve_settings(forecast, ForecastSettings, arguments)
    log_to_screen(logging.INFO)
    with loading("PyTorch and Aurora"):
        from kit.forecasting.forecast import forecast as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, partial(show_facts, "Forecast"))


def ensemble(arguments: Sequence[str]) -> Outcome:
    """Forecast the members of an ensemble to one Zarr.

    The same command resumes what was interrupted, and started several times it shares the work.
    """
    settings, options = resolve_settings(ensemble, EnsembleSettings, arguments)
    log_to_screen(logging.INFO)
    with loading("PyTorch and Aurora"):
        from kit.planning.passes import ensemble as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, partial(show_facts, "Ensemble"))


def export(arguments: Sequence[str]) -> Outcome:
    """Write a checkpoint for others: deltas merged in fp32, a model card with licences, a folder or one archive.

    Several checkpoints from the same weights are averaged: --checkpoint A --checkpoint B --average.
    """
    settings, options = resolve_settings(export, ExportSettings, arguments)
    with loading("PyTorch and Aurora"):
        from kit.export.export import export as run
    result = run(settings).to_dict()
    return Outcome(result, options.as_json, partial(show_facts, "Export"))


def verify(arguments: Sequence[str]) -> Outcome:
    """Read every file of a checkpoint, a run, an export, a store or a climatology, and compare it with its hash.

    Names every file that was changed, cut off, lost or added, and exits with 2 if there is any. Readers of checkpoints
    compare them anyway, before they use anything.
    """
    settings, options = resolve_settings(verify, IntegritySettings, arguments)
    with loading("PyTorch and Aurora"):
        from kit.checkpoint.verify import verify_path
    result = verify_path(settings.path)
    code = 0 if result["passed"] else 2
    return Outcome(result, options.as_json, show_verification, code)


def plot(arguments: Sequence[str]) -> Outcome:
    """Draw prediction, target and error maps of a checkpoint, and the loss curves of a run, as PNG."""
    settings, options = resolve_settings(plot, PlotSettings, arguments)
    with loading("PyTorch and Aurora"):
        from kit.plots import render
    result = render.plot(settings)
    return Outcome(result, options.as_json, show_files)
