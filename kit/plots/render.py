"""The figures of a run or a checkpoint: from its predictions to PNG files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kit.checkpoint.folder import open_checkpoint
from kit.checkpoint.run_folder import MetricsLog, RunFolder, read_side_file
from kit.data.dataset import Pairs, collate
from kit.forecasting.predictor import Conditions, Predictor, load_predictor
from kit.io.atomic import remove_leftovers
from kit.io.errors import KitError, SettingsError
from kit.memory.out_of_memory import readable
from kit.metrics.scores import skill
from kit.plots.curves import edge_errors, loss_curves, scorecard
from kit.plots.maps import comparison_map
from kit.plots.settings import PlotSettings
from kit.plots.styles import save
from kit.registry.fetching import strictly
from kit.tracking.run_records import attach, run_folder_of
from kit.verification.evaluation import physical

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_logger = logging.getLogger(__name__)

_SCORES = {"scores", "samples", "lead_hours", "period", "synthetic"}
"""Keys of a scorecard that its figures are drawn from."""
_DEFAULT_CHANNELS = ("2t", "tp", "msl", "10u", "z_500", "t_850", "u_500", "q_700")
_DEFAULT_COUNT = 4


def plot(settings: PlotSettings) -> dict[str, Any]:
    """Draw what the settings ask for; figures of a run go into its MLflow run too.

    Returns:
        ``files``: the PNG files, in the order in which they were drawn.

    Raises:
        KitError: nothing to draw: no such run, checkpoint, variable or time.
    """
    if settings.run is not None:
        folder = RunFolder(settings.run)
        if not folder.metrics.exists():
            near = sorted(str(other.parent) for other in folder.path.parent.glob("*/metrics.jsonl"))
            nearby = ", ".join(near[:6]) or "none"
            msg = f"{folder.path}: expected a run folder with metrics.jsonl, found none; runs nearby: {nearby}"
            raise KitError(msg)
        path, out = folder.best, folder.figures
    if settings.checkpoint is not None:
        path, out = settings.checkpoint, settings.checkpoint.parent / "figures"
    checkpoint = open_checkpoint(path)
    out = settings.out or out
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    conditions = Conditions(settings.data.store, settings.data.test, settings.device, memory=settings.memory)
    with strictly(settings.registry.strict), readable(conditions.out_of_memory) as watched:
        predictor = load_predictor(checkpoint, conditions)
        watched.model = predictor.space.model
        files = []
        if settings.run is not None:
            if MetricsLog(folder.metrics).scan()[0]:
                files.append(save_loss_curves(folder, out, synthetic=_synthetic(predictor)))
            else:
                _logger.warning("%s holds no whole line, so that no losses are drawn", folder.metrics)
            without = "no scores are drawn; kit evaluate writes it anew"
            scores = read_side_file(folder.scores, _SCORES, without) if folder.scores.exists() else None
            if scores is not None:
                files += _save_scores(folder, scores, out)
        files += _save_maps(predictor, settings, out)
    run = settings.run or run_folder_of(path)
    if run is not None:
        attach(run, figures=files)
    return {"files": list(map(str, files))}


def _synthetic(predictor: Predictor) -> bool:
    return bool(predictor.store.attributes.get("synthetic"))


def save_loss_curves(folder: RunFolder, out: Path, *, synthetic: bool) -> Path:
    """Draw the losses of a run against its steps."""
    figure = loss_curves(MetricsLog(folder.metrics).records(), title=f"Loss of {folder.path.name}", synthetic=synthetic)
    out.mkdir(parents=True, exist_ok=True)
    return save(figure, out / "loss.png")


def _save_scores(folder: RunFolder, result: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw what the last evaluation of a run found: its scorecard, and errors by distance from the edge."""
    skills, before = {}, {}
    for key, row in result["scores"].items():
        # Persistence without an error leaves no skill to draw.
        if row["skill"] is None:
            continue
        skills[key] = row["skill"]
        if row.get("base_rmse"):
            before[key] = skill(row["base_rmse"], row["persistence_rmse"])
    figure = scorecard(
        skills,
        before=before,
        title=f"Skill of {folder.path.name}",
        subtitle=f"{result['samples']} predictions, {result['lead_hours']:g} h ahead, {result['period']}",
        synthetic=result["synthetic"],
    )
    files = [save(figure, out / "scorecard.png")]
    if result.get("edge"):
        title = f"Errors of {folder.path.name} by distance from the edge"
        figure = edge_errors(result["edge"], title=title, synthetic=result["synthetic"])
        files.append(save(figure, out / "edge.png"))
    return files


@torch.no_grad()
def _save_maps(predictor: Predictor, settings: PlotSettings, out: Path) -> Iterator[Path]:
    """Draw prediction, target and error of each channel of each sample."""
    pairs, space = predictor.pairs, predictor.space
    channels = _channels(settings.variables, pairs)
    device = next(space.model.parameters()).device
    mask_HW = None
    if "lsm" in pairs.store.static:
        # From the store, whether the model reads it or not.
        mask_HW = pairs.selection.grid.read_static(pairs.store, "lsm")
    first = 0 if settings.time is None else _index(settings.time, pairs)
    for index in range(first, min(first + settings.samples, len(pairs))):
        pair = collate([pairs[index]]).to(device)
        predicted, target = physical(space.predict(pair.inputs)), physical(pair.target)
        moment = pair.target.metadata.time[0]
        for channel, name, level in channels:
            figure = comparison_map(
                _field(predicted, name, level, pairs),
                _field(target, name, level, pairs),
                pairs.latitude.numpy(),
                pairs.longitude.numpy(),
                variable=name,
                level=level,
                valid_time=moment,
                lead_hours=space.spec.lead_hours,
                land_sea_mask_HW=mask_HW,
                unit=predictor.store.variable_attributes(name).get("units"),
                synthetic=_synthetic(predictor),
                scored=pairs.selection.grid.window,
            )
            yield save(figure, out / f"{channel}_{moment:%Y%m%dT%H%M}.png")


def _index(moment: datetime, pairs: Pairs) -> int:
    times = list(map(pairs.time, range(len(pairs))))
    if moment not in times:
        msg = (
            f"time: no prediction of {pairs.period} starts at {moment:%Y-%m-%dT%H:%M}; there are {len(times)}, from "
            f"{times[0]:%Y-%m-%dT%H:%M} to {times[-1]:%Y-%m-%dT%H:%M}"
        )
        raise SettingsError(msg)
    return times.index(moment)


def _channels(asked: Sequence[str] | None, pairs: Pairs) -> list[tuple[str, str, float | None]]:
    """Choose channels to draw, with variable and level: those asked for, else a few that most people look at first."""
    known: dict[str, tuple[str, str, float | None]] = {}
    for name in pairs.selection.targets:
        known[name] = name, name, None
    for name in pairs.selection.atmospheric:
        for level in pairs.selection.levels:
            key = f"{name}_{level:g}"
            known[key] = key, name, level
    if asked is None:
        # The usual ones first, then others in the order of the store, each once.
        usual = [known[key] for key in _DEFAULT_CHANNELS if key in known]
        return list(dict.fromkeys([*usual, *known.values()]))[:_DEFAULT_COUNT]
    chosen = []
    for name in asked:
        # A channel by its name, or all levels of a variable by the variable's.
        pattern = re.compile(rf"{re.escape(name)}(_\d+(\.\d+)?)?")
        found = [channel for key, channel in known.items() if pattern.fullmatch(key)]
        if not found:
            msg = f"variables: {name!r} is not predicted; there are {', '.join(known)}"
            raise SettingsError(msg)
        chosen += found
    return chosen


def _field(state: dict[str, Tensor], name: str, level: float | None, pairs: Pairs) -> np.ndarray[Any, Any]:
    field = state[name][0]
    if level is not None:
        field = field[pairs.selection.levels.index(level)]
    array: np.ndarray[Any, Any] = field.float().cpu().numpy()
    return array
