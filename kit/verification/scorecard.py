"""Scorecards: a checkpoint against persistence, and against the weights that its training started from."""

from __future__ import annotations

import gc
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from aurora import Batch

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.data.dataset import Pair, Pairs
from kit.data.loader import Waiting, load_pairs
from kit.forecasting.predictor import Conditions, Forecaster, build_base_forecaster, build_forecaster
from kit.io.atomic import write_atomically
from kit.io.errors import CheckpointError, SettingsError
from kit.memory.out_of_memory import readable
from kit.metrics.edges import EdgeBoard
from kit.metrics.precipitation import RainBoard, flattened
from kit.metrics.scores import ScoreBoard, Scores, persistence, skill
from kit.models.space import TrainingSpace, Window
from kit.models.transforms import PRECIPITATION
from kit.verification.settings import EvaluateSettings

__all__ = ["RainCard", "evaluate", "forgetting", "headlines", "physical", "scores_of"]

_logger = logging.getLogger(__name__)


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score a checkpoint, one step ahead or further.

    Returns:
        What ``kit evaluate --json`` prints: RMSE, MAE and bias of each variable and level in its unit, weighted by
        area; the RMSE of persistence and, where they are at hand, of the base weights; skill against persistence;
        the change of what the base weights predicted; and for a region, errors by distance from the edge. Beside them
        ``rain``: RMSE in mm, critical success index and frequency bias of precipitation by thresholds, and the same of
        persistence.

    Raises:
        KitError: the checkpoint, its store or the period cannot be used.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    conditions = Conditions(
        settings.data.store, settings.data.test, settings.device, settings.precision, settings.memory, settings.steps
    )
    with readable(partial(conditions.out_of_memory, batch_size=settings.batch_size)) as watched:
        forecaster = build_forecaster(checkpoint, conditions)
        watched.model = forecaster.space.model
        result, scores, reference = _result(settings, checkpoint, forecaster)
        # The base weights need the room that this model has.
        del forecaster
        watched.model = None
        gc.collect()
        base = _base_scores(checkpoint, conditions, settings.batch_size) if settings.base else {}
    result["scores"] = {key: _row(score, reference[key].rmse, base.get(key)) for key, score in scores.items()}
    result["forgetting"] = forgetting(scores, base)
    _keep(checkpoint, result)
    return result


def _result(
    settings: EvaluateSettings, checkpoint: Checkpoint, forecaster: Forecaster
) -> tuple[dict[str, Any], dict[str, Scores], dict[str, Scores]]:
    pairs = forecaster.pairs
    edges = EdgeBoard.of(pairs, checkpoint.spec.patch_size, may_be_missing=forecaster.space.may_be_missing)
    rain = RainCard()
    batches = Waiting(load_pairs(pairs, batch_size=settings.batch_size))
    started = time.perf_counter()
    scores, reference = scores_of(forecaster.space, pairs, batches, edges, rain)
    seconds = time.perf_counter() - started
    result = {
        "checkpoint": str(settings.checkpoint),
        "store": str(forecaster.store.path),
        "synthetic": bool(forecaster.store.attributes.get("synthetic")),
        "period": str(pairs.period),
        "samples": len(pairs),
        "steps": settings.steps,
        "lead_hours": settings.steps * checkpoint.spec.lead_hours,
        "samples_per_second": len(pairs) / seconds,
        "data_wait_fraction": batches.seconds / seconds,
        **({} if edges is None else {"edge": edges.results()}),
        **rain.results(),
    }
    return result, scores, reference


def headlines(result: Mapping[str, Any]) -> dict[str, float | None]:
    """What of a scorecard goes to a page on which runs are compared; the rest is in the scorecard.

    Returns:
        ``test/rmse/2t`` and ``test/skill/2t`` for each variable and level, means over all of them, and precipitation.
    """
    scores, changes = result["scores"], [row["change"] for row in result["forgetting"].values()]
    found = {f"test/{kind}/{name}": row[kind] for kind in ("rmse", "skill") for name, row in scores.items()}
    found |= {f"test/{name}": value for name, value in result.get("rain", {}).get("model", {}).items()}
    skills = [row["skill"] for row in scores.values() if row["skill"] is not None]
    changes = [change for change in changes if change is not None]
    if skills:
        found["test/mean_skill"] = sum(skills) / len(skills)
        found["test/better_than_persistence"] = sum(skill > 0 for skill in skills) / len(skills)
    if changes:
        found["test/mean_change_from_base"] = sum(changes) / len(changes)
    return found


def _keep(checkpoint: Checkpoint, result: dict[str, Any]) -> None:
    """Leave the scorecard of a run's best checkpoint in the run folder, where its figures are drawn from."""
    folder = RunFolder(checkpoint.path.absolute().parent.parent)
    if folder.best == checkpoint.path.absolute() and folder.config.exists():
        write_atomically(folder.scores, json.dumps(result, indent=2) + "\n")


def _row(score: Scores, persistence_rmse: float, base: Scores | None) -> dict[str, float | None]:
    row = {
        "rmse": score.rmse,
        "mae": score.mae,
        "bias": score.bias,
        "persistence_rmse": persistence_rmse,
        "skill": skill(score.rmse, persistence_rmse),
    }
    if base is not None:
        row |= {"base_rmse": base.rmse, "skill_over_base": skill(score.rmse, base.rmse)}
    # JSON has no NaN: what cannot be scored is null.
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _base_scores(checkpoint: Checkpoint, conditions: Conditions, batch_size: int) -> dict[str, Scores]:
    try:
        base = build_base_forecaster(checkpoint, conditions)
    except (CheckpointError, SettingsError) as error:
        # Not there, or made for statics or levels that this checkpoint does without.
        _logger.warning("the base weights are not scored: %s", error)
        return {}
    if base is None:
        _logger.warning("the base weights are not scored: training started from random weights")
        return {}
    return scores_of(base.space, base.pairs, load_pairs(base.pairs, batch_size=batch_size))[0]


@torch.no_grad()
def scores_of(
    space: TrainingSpace,
    pairs: Pairs,
    batches: Iterable[Pair],
    edges: EdgeBoard | None = None,
    rain: RainCard | None = None,
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Score predictions of the last step to each pair's target, and persistence on the same samples.

    Args:
        space: predicts.
        pairs: what is predicted.
        batches: the same, in order of time.
        edges: is given all that the model sees.
        rain: is shown what is scored, and keeps the scores of precipitation.

    Returns:
        Scores of the model and of persistence, by variable and level.
    """
    device = next(space.model.parameters()).device
    waves, window = space.may_be_missing, pairs.selection.grid.window or (slice(None), slice(None))
    scored = pairs.selection.grid.scored_coordinates(pairs.store)
    board, reference = (ScoreBoard(*scored, may_be_missing=waves) for _ in range(2))
    levels, first = pairs.selection.levels, 0
    for pair in batches:
        loaded = pair.to(device)
        target = physical(loaded.target)
        predicted = physical(_ahead(space, loaded.inputs, pairs.steps))
        last = _last(loaded.inputs, target, pairs, first)
        first += len(loaded.inputs.metadata.time)
        for name in waves & target.keys():
            # Waves come and go; sizes are compared where the model, persistence and the target all have some.
            target[name] = target[name].where(predicted[name].isfinite() & last[name].isfinite(), torch.nan)
        if edges is not None:
            edges.update(predicted, target, last, levels)
        predicted, target, last = (_within(window, states) for states in (predicted, target, last))
        if rain is not None:
            rain.update(predicted, target, last)
        board.update({name: predicted[name] for name in target}, target, levels)
        reference.update({name: last[name] for name in target}, target, levels)
    return board.results(), reference.results()


def _last(inputs: Batch, target: Mapping[str, torch.Tensor], pairs: Pairs, first: int) -> dict[str, torch.Tensor]:
    """What was last observed: the newest input states, and those of variables that the model never reads."""
    last = persistence(inputs.surf_vars | inputs.atmos_vars)
    indices = range(first, first + len(inputs.metadata.time))
    return last | {name: pairs.newest(name, indices).to(target[name]) for name in target if name not in last}


def _within(window: Window, states: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is scored of what the model sees."""
    rows, columns = window
    return {name: value[..., rows, columns] for name, value in states.items()}


def _ahead(space: TrainingSpace, state: Batch, steps: int) -> Batch:
    """Predict so many steps ahead."""
    for _ in range(steps - 1):
        state = space.advance(state, space.step(space.inputs(state))[1])
    return space.predict(state)


def physical(batch: Batch) -> dict[str, torch.Tensor]:
    """The one state of a batch: [B, H, W] at the surface, [B, C, H, W] in the atmosphere."""
    return {name: value[:, 0] for name, value in (batch.surf_vars | batch.atmos_vars).items()}


# What fine-tuning did to what the weights could do before.


def forgetting(after: Mapping[str, Scores], before: Mapping[str, Scores]) -> dict[str, dict[str, float | None]]:
    """Compare errors with those of the weights that training started from, on the same samples.

    Args:
        after: scores of the checkpoint, by variable and level.
        before: scores of the base weights; what they cannot predict is not among them.

    Returns:
        For each variable and level that both predict ``before`` and ``after``, the RMSE in its unit, and ``change``,
        the relative change: above 0 it got worse. None where there is no such number.
    """
    return {key: _change(before[key].rmse, score.rmse) for key, score in after.items() if key in before}


def _change(before: float, after: float) -> dict[str, float | None]:
    change = after / before - 1 if before else math.nan
    row = {"before": before, "after": after, "change": change}
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


# Precipitation in a scorecard: by thresholds and in millimetres, beside persistence.


class RainCard:
    """Scores of a model's precipitation, and of persistence: what fell in the step before falls again."""

    def __init__(self) -> None:
        self._model = RainBoard()
        self._persistence = RainBoard()

    def update(
        self,
        predicted: Mapping[str, torch.Tensor],
        target: Mapping[str, torch.Tensor],
        last: Mapping[str, torch.Tensor],
    ) -> None:
        """Add one batch.

        Args:
            predicted: physical values by variable where they are scored, [B, H, W] at the surface.
            target: what came.
            last: what was last observed.
        """
        names = [name for name in PRECIPITATION if name in target]
        observed = {name: target[name] for name in names}
        self._model.update({name: predicted[name] for name in names}, observed)
        self._persistence.update({name: last[name] for name in names}, observed)

    def results(self) -> dict[str, Any]:
        """``rain`` of a scorecard; nothing where there is no precipitation."""
        model = flattened(self._model.results())
        return {"rain": {"model": model, "persistence": flattened(self._persistence.results())}} if model else {}
