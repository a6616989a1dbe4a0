"""The figures of a run or a checkpoint: from its predictions to PNG files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.data.dataset import Pairs, collate
from kit.forecasting.predictor import Conditions, Predictor, load_predictor
from kit.io.errors import KitError, SettingsError
from kit.memory.out_of_memory import readable
from kit.metrics.scores import skill
from kit.plots.curves import edge_errors, loss_curves, scorecard
from kit.plots.maps import comparison_map
from kit.plots.settings import PlotSettings
from kit.plots.styles import save
from kit.verification.scorecard import physical

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["plot", "save_loss_curves"]

_DEFAULT_CHANNELS = ("2t", "tp", "msl", "10u", "z_500", "t_850", "u_500", "q_700")
_DEFAULT_COUNT = 4


def plot(settings: PlotSettings) -> dict[str, Any]:
    """Draw what the settings ask for.

    Returns:
        ``files``: the PNG files, in the order in which they were drawn.

    Raises:
        KitError: nothing to draw: no such run, checkpoint, variable or time.
    """
    folder = None if settings.run is None else _run_folder(settings.run)
    checkpoint = open_checkpoint(settings.checkpoint or RunFolder(settings.run or Path()).best)
    conditions = Conditions(settings.data.store, settings.data.test, settings.device, memory=settings.memory)
    with readable(conditions.out_of_memory) as watched:
        predictor = load_predictor(checkpoint, conditions)
        watched.model = predictor.space.model
        return {"files": [str(file) for file in _files(settings, folder, checkpoint, predictor)]}


def _files(
    settings: PlotSettings, folder: RunFolder | None, checkpoint: Checkpoint, predictor: Predictor
) -> Iterator[Path]:
    out = settings.out or (folder.figures if folder else checkpoint.path.parent / "figures")
    out.mkdir(parents=True, exist_ok=True)
    if folder is not None:
        yield save_loss_curves(folder, out, synthetic=_synthetic(predictor))
    if folder is not None and folder.scores.exists():
        yield from _save_scores(folder, out)
    yield from _maps(predictor, settings, out)


def _run_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    if not folder.metrics.exists():
        near = ", ".join(sorted(str(other.parent) for other in path.parent.glob("*/metrics.jsonl"))[:6])
        msg = f"{path}: expected a run folder with metrics.jsonl, found none; runs nearby: {near or 'none'}"
        raise KitError(msg)
    return folder


def _synthetic(predictor: Predictor) -> bool:
    return bool(predictor.store.attributes.get("synthetic"))


def save_loss_curves(folder: RunFolder, out: Path, *, synthetic: bool) -> Path:
    """Draw the losses of a run against its steps."""
    figure = loss_curves(MetricsLog(folder.metrics).records(), title=f"Loss of {folder.path.name}", synthetic=synthetic)
    out.mkdir(parents=True, exist_ok=True)
    return save(figure, out / "loss.png")


def _save_scores(folder: RunFolder, out: Path) -> Iterator[Path]:
    """Draw what the last evaluation of a run found."""
    result = json.loads(folder.scores.read_text(encoding="utf-8"))
    yield _save_scorecard(folder, result, out)
    if result.get("edge"):
        title = f"Errors of {folder.path.name} by distance from the edge"
        yield save(edge_errors(result["edge"], title=title, synthetic=result["synthetic"]), out / "edge.png")


def _save_scorecard(folder: RunFolder, result: dict[str, Any], out: Path) -> Path:
    rows = result["scores"]
    scored = {key: row for key, row in rows.items() if row["skill"] is not None}
    before = {k: skill(row["base_rmse"], row["persistence_rmse"]) for k, row in scored.items() if row.get("base_rmse")}
    figure = scorecard(
        {key: row["skill"] for key, row in scored.items()},
        before=before,
        title=f"Skill of {folder.path.name}",
        subtitle=f"{result['samples']} predictions, {result['lead_hours']:g} h ahead, {result['period']}",
        synthetic=result["synthetic"],
    )
    return save(figure, out / "scorecard.png")


@torch.no_grad()
def _maps(predictor: Predictor, settings: PlotSettings, out: Path) -> Iterator[Path]:
    """Prediction, target and error of each channel of each sample."""
    pairs, space = predictor.pairs, predictor.space
    channels = _channels(settings.variables, pairs)
    device = next(space.model.parameters()).device
    for index in _samples(settings, pairs):
        pair = collate([pairs[index]]).to(device)
        predicted, target = physical(space.predict(pair.inputs)), physical(pair.target)
        moment = pair.target.metadata.time[0]
        for name, level in channels:
            figure = comparison_map(
                _field(predicted, name, level, pairs),
                _field(target, name, level, pairs),
                pairs.latitude.numpy(),
                pairs.longitude.numpy(),
                variable=name,
                level=level,
                valid_time=moment,
                lead_hours=space.spec.lead_hours,
                land_sea_mask_HW=_land_sea_mask(pairs),
                unit=predictor.store.variable_attributes(name).get("units"),
                synthetic=_synthetic(predictor),
                scored=pairs.selection.grid.window,
            )
            channel = name if level is None else f"{name}_{level:g}"
            yield save(figure, out / f"{channel}_{moment:%Y%m%dT%H%M}.png")


def _samples(settings: PlotSettings, pairs: Pairs) -> range:
    first = 0 if settings.time is None else _index(settings.time, pairs)
    return range(first, min(first + settings.samples, len(pairs)))


def _index(moment: datetime, pairs: Pairs) -> int:
    times = [pairs.time(index) for index in range(len(pairs))]
    if moment not in times:
        msg = (
            f"time: no prediction of {pairs.period} starts at {moment:%Y-%m-%dT%H:%M}; there are {len(times)}, from "
            f"{times[0]:%Y-%m-%dT%H:%M} to {times[-1]:%Y-%m-%dT%H:%M}"
        )
        raise SettingsError(msg)
    return times.index(moment)


def _channels(asked: Sequence[str] | None, pairs: Pairs) -> list[tuple[str, float | None]]:
    """Variables and levels to draw: those asked for, else a few of those that most people look at first."""
    known = dict(_known_channels(pairs))
    if asked is None:
        chosen = [key for key in _DEFAULT_CHANNELS if key in known] + list(known)
        return [known[key] for key in list(dict.fromkeys(chosen))[:_DEFAULT_COUNT]]
    return [known[key] for name in asked for key in _matching(name, known)]


def _known_channels(pairs: Pairs) -> Iterator[tuple[str, tuple[str, float | None]]]:
    for name in pairs.selection.targets:
        yield name, (name, None)
    for name in pairs.selection.atmospheric:
        for level in pairs.selection.levels:
            yield f"{name}_{level:g}", (name, level)


def _matching(name: str, known: Iterable[str]) -> list[str]:
    """The channel of that name, or all levels of the variable of that name."""
    found = [key for key in known if key == name or re.fullmatch(re.escape(name) + r"_\d+(\.\d+)?", key)]
    if not found:
        msg = f"variables: {name!r} is not predicted; there are {', '.join(known)}"
        raise SettingsError(msg)
    return found


def _field(state: dict[str, Tensor], name: str, level: float | None, pairs: Pairs) -> np.ndarray[Any, Any]:
    value = state[name][0]
    field = value if level is None else value[pairs.selection.levels.index(level)]
    array: np.ndarray[Any, Any] = field.float().cpu().numpy()
    return array


def _land_sea_mask(pairs: Pairs) -> np.ndarray[Any, Any] | None:
    """From the store, whether the model reads it or not."""
    if "lsm" not in pairs.store.static:
        return None
    return pairs.selection.grid.read_static(pairs.store, "lsm")
