"""Scorecards: a checkpoint against persistence, and against the weights that its training started from."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from aurora import Batch

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.data.dataset import Pair, Pairs
from kit.data.loader import Waiting, load_pairs
from kit.forecasting.predictor import Conditions, load_base_predictor, load_predictor
from kit.io.errors import CheckpointError, SettingsError
from kit.io.sealed import write_sealed
from kit.memory.out_of_memory import readable
from kit.metrics.edges import EdgeBoard
from kit.metrics.precipitation import RainBoard, flattened
from kit.metrics.scores import ScoreBoard, Scores, persistence, skill
from kit.models.space import TrainingSpace, Window
from kit.models.transforms import PRECIPITATION
from kit.registry.fetching import strictly
from kit.tracking.run_records import attach, run_folder_of
from kit.verification.settings import EvaluateSettings

_logger = logging.getLogger(__name__)

ScoreRow = Mapping[str, float | None]
"""Numbers by name; None, as JSON has no NaN, where nothing can be scored."""


@dataclass(frozen=True)
class Scorecard:
    """Scores of a checkpoint over the states of one period, at one lead time.

    Attributes:
        checkpoint: Folder of the checkpoint, as it was given.
        store: Folder of the store with the states.
        synthetic: Whether the states are made up.
        period: Times of the states, ``START/END``, UTC.
        samples: Number of forecasts scored.
        steps: Model steps from the input states to the state that is scored.
        lead_hours: The same in hours.
        samples_per_second: Forecasts per second, reading included.
        data_wait_fraction: Share of the time that was spent waiting for data, from 0 to 1.
        edge: Errors of a regional model by distance from the edge, as ``EdgeBoard.results`` lists them; None on the
            globe.
        rain: Scores of precipitation (RMSE in mm, critical success index and frequency bias by threshold) of ``model``
            and of ``persistence``; None where there is no precipitation.
        scores: By variable and level: ``rmse``, ``mae`` and ``bias`` in its unit, weighted by area;
            ``persistence_rmse`` and ``skill`` against it; and where the base weights were scored ``base_rmse`` and
            ``skill_over_base``.
        forgetting: By variable and level that the base weights predict: ``before``, ``after`` and ``change``, as
            ``forgetting`` makes them.
        precision: Precision of the predictions, such as ``fp32``.
        seed: Seed of the noise of a stochastic model; None where it draws none.
    """

    checkpoint: str
    store: str
    synthetic: bool
    period: str
    samples: int
    steps: int
    lead_hours: float
    samples_per_second: float
    data_wait_fraction: float
    edge: Sequence[Mapping[str, Any]] | None
    rain: Mapping[str, Mapping[str, float]] | None
    scores: Mapping[str, ScoreRow]
    forgetting: Mapping[str, ScoreRow]
    precision: str = "fp32"
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit evaluate --json`` prints; ``edge``, ``rain`` and ``seed`` only where there is one."""
        found = dict(vars(self))
        for name in ("edge", "rain", "seed"):
            if found[name] is None:
                del found[name]
        return found


def evaluate(settings: EvaluateSettings) -> Scorecard:
    """Score a checkpoint against persistence and the base weights, one step ahead or further.

    The scorecard of a run's best checkpoint is also written into the run folder, as ``scores.json``, and the headline
    numbers of a run's checkpoint go into its MLflow run.

    Args:
        settings: Checkpoint, store, period (UTC), number of steps, device and memory.

    Returns:
        Scores by variable and level in the variable's unit.

    Raises:
        KitError: the checkpoint, its store or the period cannot be used, or memory runs out.
        OSError: the run folder cannot be written to.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    conditions = Conditions(
        settings.data.store,
        settings.data.test,
        settings.device,
        settings.precision,
        settings.memory,
        settings.steps,
        settings.seed,
    )
    with (
        strictly(settings.registry.strict),
        readable(partial(conditions.out_of_memory, batch_size=settings.batch_size)) as watched,
    ):
        predictor = load_predictor(checkpoint, conditions)
        # Where memory runs out, the message names the module.
        watched.model = predictor.space.model
        pairs, store, precision = predictor.pairs, predictor.store, predictor.precision
        seed = settings.seed if predictor.space.model.backbone.stochastic else None
        edges = EdgeBoard.of(pairs, checkpoint.spec.patch_size, may_be_missing=predictor.space.may_be_missing)
        rain = RainCard()
        batches = Waiting(load_pairs(pairs, batch_size=settings.batch_size))
        started = time.perf_counter()
        scores, reference = scores_of(predictor.space, pairs, batches, edges, rain)
        seconds = time.perf_counter() - started
        # The base weights need the room that this model has.
        del predictor
        watched.model = None
        gc.collect()
        base = _base_scores(checkpoint, conditions, settings.batch_size) if settings.base else {}
    edge = None
    if edges is not None:
        edge = edges.results()
    card = Scorecard(
        checkpoint=str(settings.checkpoint),
        store=str(store.path),
        synthetic=bool(store.attributes.get("synthetic")),
        period=str(pairs.period),
        samples=len(pairs),
        steps=settings.steps,
        lead_hours=settings.steps * checkpoint.spec.lead_hours,
        samples_per_second=len(pairs) / seconds,
        data_wait_fraction=batches.seconds / seconds,
        edge=edge,
        rain=rain.results(),
        scores={key: _score_row(score, reference[key].rmse, base.get(key)) for key, score in scores.items()},
        forgetting=forgetting(scores, base),
        precision=precision,
        seed=seed,
    )
    run = run_folder_of(settings.checkpoint)
    # Figures of a run are drawn from the scorecard of its best checkpoint.
    folder = RunFolder(checkpoint.path.absolute().parent.parent)
    if folder.best == checkpoint.path.absolute() and folder.config.exists():
        write_sealed(folder.scores, card.to_dict())
    if run is not None:
        attach(run, metrics=headlines(card), files=[run / "scores.json"])
    return card


def headlines(card: Scorecard) -> dict[str, float | None]:
    """Pick the numbers of a scorecard that go to a page on which runs are compared.

    Returns:
        ``test/rmse/2t`` and ``test/skill/2t`` for each variable and level, precipitation, and means over all variables
        and levels.
    """
    # All numbers of a scorecard would be hundreds, among which nobody finds the losses.
    found: dict[str, float | None] = {}
    for kind in ("rmse", "skill"):
        for name, row in card.scores.items():
            found[f"test/{kind}/{name}"] = row[kind]
    if card.rain is not None:
        for name, value in card.rain["model"].items():
            found[f"test/{name}"] = value
    skills = [row["skill"] for row in card.scores.values() if row["skill"] is not None]
    changes = [row["change"] for row in card.forgetting.values() if row["change"] is not None]
    if skills:
        found["test/mean_skill"] = sum(skills) / len(skills)
        found["test/better_than_persistence"] = sum(skill > 0 for skill in skills) / len(skills)
    if changes:
        found["test/mean_change_from_base"] = sum(changes) / len(changes)
    return found


def _score_row(score: Scores, persistence_rmse: float, base: Scores | None) -> ScoreRow:
    row = {
        "rmse": score.rmse,
        "mae": score.mae,
        "bias": score.bias,
        "persistence_rmse": persistence_rmse,
        "skill": skill(score.rmse, persistence_rmse),
    }
    if base is not None:
        row["base_rmse"] = base.rmse
        row["skill_over_base"] = skill(score.rmse, base.rmse)
    return _finite_or_none(row)


def _finite_or_none(row: Mapping[str, float]) -> ScoreRow:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _base_scores(checkpoint: Checkpoint, conditions: Conditions, batch_size: int) -> dict[str, Scores]:
    try:
        base = load_base_predictor(checkpoint, conditions)
    except (CheckpointError, SettingsError) as error:
        # Not there, or made for statics or levels that this checkpoint does without.
        _logger.warning("the base weights are not scored: %s", error)
        return {}
    if base is None:
        _logger.warning("the base weights are not scored: training started from random weights")
        return {}
    scores, _ = scores_of(base.space, base.pairs, load_pairs(base.pairs, batch_size=batch_size))
    return scores


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
        space: Model that predicts.
        pairs: Samples to predict.
        batches: The same samples, in order of time.
        edges: Accumulator of errors over all that the model sees, its halo included.
        rain: Accumulator of the scores of precipitation.

    Returns:
        Scores of the model and of persistence, by variable and level.
    """
    device = next(space.model.parameters()).device
    window = pairs.selection.grid.window or (slice(None), slice(None))
    latitude, longitude = pairs.selection.grid.scored_coordinates(pairs.store)
    board = ScoreBoard(latitude, longitude, may_be_missing=space.may_be_missing)
    reference = ScoreBoard(latitude, longitude, may_be_missing=space.may_be_missing)
    levels, first = pairs.selection.levels, 0
    for pair in batches:
        loaded = pair.to(device)
        target = physical(loaded.target)
        state = loaded.inputs
        for _ in range(pairs.steps - 1):
            state = space.advance(state, space.step(space.inputs(state))[1])
        predicted = physical(space.predict(state))
        last = persistence(loaded.inputs.surf_vars | loaded.inputs.atmos_vars)
        # Variables that the model never reads are not among its inputs: their newest states come from the store.
        following = first + len(loaded.inputs.metadata.time)
        for name in target.keys() - last.keys():
            last[name] = pairs.newest(name, range(first, following)).to(target[name])
        first = following
        # Waves come and go; sizes are compared where the model, persistence and the target all have some.
        for name in space.may_be_missing & target.keys():
            target[name] = target[name].where(predicted[name].isfinite() & last[name].isfinite(), torch.nan)
        if edges is not None:
            edges.update(predicted, target, last, levels)
        # The halo is context alone.
        predicted, target, last = _crop(predicted, window), _crop(target, window), _crop(last, window)
        if rain is not None:
            rain.update(predicted, target, last)
        board.update({name: predicted[name] for name in target}, target, levels)
        reference.update({name: last[name] for name in target}, target, levels)
    return board.results(), reference.results()


def _crop(states: Mapping[str, torch.Tensor], window: Window) -> dict[str, torch.Tensor]:
    return {name: value[(..., *window)] for name, value in states.items()}


def physical(batch: Batch) -> dict[str, torch.Tensor]:
    """Take the one state out of a batch: [B, H, W] at the surface, [B, C, H, W] in the atmosphere."""
    return {name: value[:, 0] for name, value in (batch.surf_vars | batch.atmos_vars).items()}


def forgetting(after: Mapping[str, Scores], before: Mapping[str, Scores]) -> dict[str, ScoreRow]:
    """Compare errors with those of the weights that training started from, on the same samples.

    Args:
        after: Scores of the checkpoint, by variable and level.
        before: Scores of the base weights; what they cannot predict is not among them.

    Returns:
        For each variable and level that both predict ``before`` and ``after``, the RMSE in its unit, and ``change``,
        the relative change: above 0 it got worse. None where there is no such number.
    """
    found = {}
    for key, score in after.items():
        if key in before:
            old, change = before[key].rmse, math.nan
            if old:
                change = score.rmse / old - 1
            found[key] = _finite_or_none({"before": old, "after": score.rmse, "change": change})
    return found


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
            predicted: Physical values by variable where they are scored, in metres, [B, H, W] at the surface.
            target: Values that came, the same shapes.
            last: Values that were last observed, the same shapes.
        """
        # Grid points are counted without area weights, as contingency tables do.
        for name in PRECIPITATION:
            if name in target:
                self._model.update({name: predicted[name]}, {name: target[name]})
                self._persistence.update({name: last[name]}, {name: target[name]})

    def results(self) -> dict[str, dict[str, float]] | None:
        """Return the scores of ``model`` and ``persistence``; None where there is no precipitation."""
        model = flattened(self._model.results())
        if not model:
            return None
        return {"model": model, "persistence": flattened(self._persistence.results())}
