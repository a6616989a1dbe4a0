"""The figures of a run, a checkpoint or a forecast: from what is in its files to PNG."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.checkpoint.folder import open_checkpoint
from kit.checkpoint.run_folder import MetricsLog, RunFolder, is_scorecard_of, read_side_file
from kit.forecasting.predictor import Conditions
from kit.io.atomic import remove_leftovers
from kit.io.errors import KitError, SettingsError
from kit.memory.out_of_memory import readable
from kit.metrics.scores import skill
from kit.plots.checkpoint_maps import checkpoint_maps
from kit.plots.curves import edge_errors, loss_curves, scorecard
from kit.plots.ensemble_plots import save_ensemble, save_ensemble_scores
from kit.plots.forecast_maps import forecast_maps
from kit.plots.map_series import MapAlbum, save_maps
from kit.plots.mean_error_maps import save_mean_errors
from kit.plots.open_forecasts import opened_forecast
from kit.plots.sample_figures import sample_figure
from kit.plots.score_figures import lead_curves, score_changes
from kit.plots.settings import PlotSettings
from kit.plots.styles import save
from kit.registry.fetching import strictly
from kit.tracking.run_records import attach, run_folder_of

_logger = logging.getLogger(__name__)

_SCORES = {"scores", "samples", "lead_hours", "period", "synthetic"}
"""Keys of a scorecard that its figures are drawn from."""


def plot(settings: PlotSettings) -> dict[str, Any]:
    """Draw what the settings ask for; figures of a run go into its MLflow run too.

    Returns:
        ``files``: the PNG and GIF files, in the order in which they were drawn.

    Raises:
        KitError: nothing to draw: no such run, checkpoint, forecast, variable or time; nothing is written then.
    """
    if settings.forecast_file is not None:
        return {"files": list(map(str, _of_file(settings, settings.forecast_file)))}
    if settings.sums is not None:
        out = settings.out or settings.sums.absolute().parent / "figures"
        remove_leftovers(out)
        return {"files": list(map(str, save_ensemble_scores(settings.sums, out)))}
    folder = None
    if settings.run is not None:
        folder = _run_folder(settings.run)
        path, out = folder.best, folder.figures
    else:
        assert settings.checkpoint is not None
        path, out = settings.checkpoint, settings.checkpoint.parent / "figures"
    out = settings.out or out
    if folder is not None and not open_checkpoint(path).forecasts:
        remove_leftovers(out)
        synthetic = bool(open_checkpoint(path).description["lineage"][-1].get("synthetic"))
        drawn = [*_save_losses(folder, out, synthetic=synthetic), *save_samples(folder, out, synthetic=synthetic)]
        attach(folder.path, figures=drawn)
        return {"files": list(map(str, drawn))}
    album = _maps_of(path, settings)
    remove_leftovers(out)
    files = []
    if folder is not None:
        files += _save_run_figures(folder, path, out, album)
        files += save_mean_errors(folder.sums, path, settings, out)
    files += save_maps(album, out, animate=settings.animate)
    run = settings.run or run_folder_of(path)
    if run is not None:
        attach(run, figures=files)
    return {"files": list(map(str, files))}


def _of_file(settings: PlotSettings, path: Path) -> list[Path]:
    """Draw a forecast: maps of a single one, plumes and postage stamps of an ensemble."""
    out = settings.out or path.absolute().parent / "figures"
    opened = opened_forecast(path, settings.data.store, dict(settings.window))
    with strictly(settings.registry.strict), opened as file:
        if file.members:
            remove_leftovers(out)
            return save_ensemble(file, settings, out)
        if settings.point is not None:
            msg = f"point: {path} is no ensemble, whose plume could be drawn there; leave it out"
            raise SettingsError(msg)
        album = forecast_maps(file, settings)
    remove_leftovers(out)
    return list(save_maps(album, out, animate=settings.animate))


def _run_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    if not folder.metrics.exists():
        near = sorted(str(other.parent) for other in folder.path.parent.glob("*/metrics.jsonl"))
        nearby = ", ".join(near[:6]) or "none"
        msg = f"{folder.path}: expected a run folder with metrics.jsonl, found none; runs nearby: {nearby}"
        raise KitError(msg)
    return folder


def _maps_of(path: Path, settings: PlotSettings) -> MapAlbum:
    """Predict what is mapped of a checkpoint."""
    checkpoint = open_checkpoint(path)
    conditions = Conditions(settings.data.store, settings.data.test, settings.device, memory=settings.memory)
    with strictly(settings.registry.strict), readable(conditions.out_of_memory) as watched:
        return checkpoint_maps(checkpoint, settings, conditions, watched)


def _save_run_figures(folder: RunFolder, checkpoint: Path, out: Path, album: MapAlbum) -> list[Path]:
    """Draw losses of a run, and what its last evaluation found."""
    files = _save_losses(folder, out, synthetic=album.setting.synthetic)
    files += save_samples(folder, out, synthetic=album.setting.synthetic)
    without = "no scores are drawn; kit evaluate writes it anew"
    scores = read_side_file(folder.scores, _SCORES, without) if folder.scores.exists() else None
    if scores is not None and not is_scorecard_of(scores, checkpoint):
        _logger.warning("%s is of another checkpoint than %s is now; %s", folder.scores, checkpoint, without)
        scores = None
    if scores is not None:
        files += _save_scores(folder, scores, out)
    return files


def _save_losses(folder: RunFolder, out: Path, *, synthetic: bool) -> list[Path]:
    if MetricsLog(folder.metrics).scan()[0]:
        return [save_loss_curves(folder, out, synthetic=synthetic)]
    _logger.warning("%s holds no whole line, so that no losses are drawn", folder.metrics)
    return []


def save_samples(folder: RunFolder, out: Path, *, synthetic: bool) -> list[Path]:
    """Draw how well the network of a run draws, if that was looked at."""
    if not folder.samples.exists():
        return []
    quality = read_side_file(folder.samples, {"loss", "fields", "power", "fine"}, "its figure is not drawn")
    if quality is None:
        return []
    figure = sample_figure(quality, title=f"Samples of {folder.path.name}", synthetic=synthetic)
    return [save(figure, out / "samples.png")]


def save_loss_curves(folder: RunFolder, out: Path, *, synthetic: bool) -> Path:
    """Draw the losses of a run against its steps."""
    figure = loss_curves(MetricsLog(folder.metrics).records(), title=f"Loss of {folder.path.name}", synthetic=synthetic)
    return save(figure, out / "loss.png")


def _save_scores(folder: RunFolder, result: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw what the last evaluation of a run found: its scorecards, scores by lead, and errors near the edge."""
    skills, before = {}, {}
    for key, row in result["scores"].items():
        # Persistence without an error leaves no skill to draw.
        if row["skill"] is None:
            continue
        skills[key] = row["skill"]
        if row.get("base_rmse"):
            before[key] = skill(row["base_rmse"], row["persistence_rmse"])
    name, synthetic = folder.path.name, result["synthetic"]
    figure = scorecard(
        skills,
        before=before,
        title=f"Skill of {name}",
        subtitle=f"{result['samples']} predictions, {result['lead_hours']:g} h ahead, {result['period']}",
        synthetic=synthetic,
    )
    files = [save(figure, out / "scorecard.png")]
    leads = result.get("leads") or {}
    # A single lead is what the scorecard shows.
    if len(leads) > 1:
        for reference, word in (("base", "the weights before training"), ("persistence", "persistence")):
            figure_of = score_changes(leads, reference, title=f"{name} against {word}", synthetic=synthetic)
            if figure_of is not None:
                files.append(save(figure_of, out / f"scorecard_{reference}.png"))
        figure = lead_curves(leads, result.get("units") or {}, title=f"Scores of {name} by lead", synthetic=synthetic)
        files.append(save(figure, out / "scores_by_lead.png"))
    if result.get("edge"):
        title = f"Errors of {name} by distance from the edge"
        files.append(save(edge_errors(result["edge"], title=title, synthetic=synthetic), out / "edge.png"))
    return files
