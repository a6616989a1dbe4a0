"""Scorecards: a checkpoint against persistence, and against the weights that its training started from."""

import dataclasses
import gc
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.data.dataset import Pairs
from kit.data.store.reader import Store
from kit.forecasting.predictor import Conditions, load_base_predictor, load_predictor
from kit.forecasting.writing import portable_name
from kit.io.errors import CheckpointError, SettingsError
from kit.io.hashes import sha256_of_file
from kit.io.sealed import write_sealed
from kit.memory.out_of_memory import readable
from kit.metrics.edges import EdgeBoard
from kit.metrics.precipitation import RainBoard, flattened
from kit.models.transforms import PRECIPITATION
from kit.models.weights.integrity import DESCRIPTION
from kit.registry.fetching import strictly
from kit.tracking.run_records import attach, run_folder_of
from kit.verification.archive import ArchiveWriter, archive_name, archiving, read_archive, starts_of
from kit.verification.evaluation import Observer, RollOuts, Scoring, cropped, sum_up
from kit.verification.regions import ALL, Regions, regions_on
from kit.verification.scoring import ScoreRow, lead_name, score_lead, score_table
from kit.verification.settings import EvaluateSettings
from kit.verification.sums import BASE, MODEL, PERSISTENCE, WIND_SPEED, States

_logger = logging.getLogger(__name__)

HEADLINE_HOURS = (24, 72, 120, 240)
"""Leads that people ask for first: 1, 3, 5 and 10 days."""
_MANY_LEADS = 10
_ROW = ("rmse", "mae", "bias", "persistence_rmse", "skill", "base_rmse", "skill_over_base")


@dataclass(frozen=True)
class Scorecard:
    """Scores of a checkpoint over the states of one period, at one lead time.

    Attributes:
        checkpoint: Folder of the checkpoint, as it was given.
        store: Folder of the store with the states.
        synthetic: Whether the states are made up.
        period: Times of the states, ``START/END``, UTC.
        samples: Number of forecasts scored.
        steps: Model steps of each forecast; ``scores`` are of the last one.
        lead_hours: The same in hours.
        samples_per_second: Forecasts per second, reading included.
        data_wait_fraction: Share of the time that was spent waiting for data, from 0 to 1.
        edge: Errors of a regional model by distance from the edge, as ``EdgeBoard.results`` lists them; None on the
            globe.
        rain: Scores of precipitation (RMSE in mm, critical success index and frequency bias by threshold) of ``model``
            and of ``persistence``; None where there is no precipitation.
        scores: Of the last lead, by variable and level: ``rmse``, ``mae`` and ``bias`` in its unit, weighted by area;
            ``persistence_rmse`` and ``skill`` against it; and where the base weights were scored ``base_rmse`` and
            ``skill_over_base``.
        forgetting: By variable and level that the base weights predict: ``before``, ``after`` and ``change``, as
            ``forgetting`` makes them.
        leads: By lead (``024h``), then by variable and level, the wind's speed among them: scores of every lead that
            was ever evaluated, as ``kit.verification.scoring.score_row`` lists them.
        regions: The same of each region but the whole, by its name.
        units: Unit of each variable and level.
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
    leads: Mapping[str, Mapping[str, ScoreRow]] = field(default_factory=dict)
    regions: Mapping[str, Mapping[str, Mapping[str, ScoreRow]]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
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
    """Score every lead of a checkpoint's roll-outs against persistence, the base weights and climatology.

    The sums behind the scores of a run's checkpoint are kept in the run folder, added to those of earlier evaluations;
    the scorecard of its best checkpoint is written there too, as ``scores.json``, and the headline numbers go into its
    MLflow run.

    Args:
        settings: Checkpoint, store, period (UTC), number of steps, regions, device and memory.

    Returns:
        Scores by variable and level in the variable's unit.

    Raises:
        KitError: the checkpoint, its store or the period cannot be used, or memory runs out.
        OSError: the run folder cannot be written to.
    """
    checkpoint = open_checkpoint(settings.checkpoint)
    run = run_folder_of(settings.checkpoint)
    with ExitStack() as stack:
        stack.enter_context(strictly(settings.registry.strict))
        folder = settings.out
        if folder is None and run is not None:
            folder = RunFolder(run).sums
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kit-evaluate-")))
        card = _Evaluation(settings, checkpoint).run(folder)
    best = RunFolder(checkpoint.path.absolute().parent.parent)
    # Figures of a run are drawn from the scorecard of its best checkpoint.
    if best.best == checkpoint.path.absolute() and best.config.exists():
        write_sealed(best.scores, card.to_dict())
    if run is not None:
        attach(run, metrics=headlines(card), files=[run / "scores.json"])
    return card


class _Evaluation:
    """One evaluation: forecasts, their sums, and a scorecard of all sums that are there by then."""

    def __init__(self, settings: EvaluateSettings, checkpoint: Checkpoint) -> None:
        self._settings = settings
        self._checkpoint = checkpoint
        self._conditions = Conditions(
            settings.data.store,
            settings.data.test,
            settings.device,
            settings.precision,
            settings.memory,
            settings.steps,
            settings.seed,
        )
        self._rain = RainCard()

    def run(self, folder: Path) -> Scorecard:
        """Forecast, sum up and score."""
        settings = self._settings
        out_of_memory = partial(self._conditions.out_of_memory, batch_size=settings.batch_size)
        with readable(out_of_memory) as watched:
            predictor = load_predictor(self._checkpoint, self._conditions)
            # Where memory runs out, the message names the module.
            watched.model = predictor.space.model
            space, pairs, store = predictor.space, predictor.pairs, predictor.store
            precision = predictor.precision
            seed = settings.seed if space.model.backbone.stochastic else None
            scoring = Scoring(pairs, self._regions(pairs), settings.batch_size)
            edges = EdgeBoard.of(pairs, self._checkpoint.spec.patch_size, may_be_missing=space.may_be_missing)
            made_of = self._made_of(store, precision, seed)
            path = folder / archive_name(made_of)
            with archiving(path, scoring.axes([MODEL, PERSISTENCE, BASE]), made_of) as writer:
                started = time.perf_counter()
                waited = sum_up(RollOuts(space), scoring, writer, observers=self._observers(scoring, edges))
                seconds = time.perf_counter() - started
                # The base weights need the room that this model has.
                del predictor, space
                watched.model = None
                gc.collect()
                if settings.base:
                    self._score_base(scoring, writer)
            archive = read_archive(path)
            table = score_table(archive)
            last = scoring.lead_hours(settings.steps)
            # Those of this evaluation alone: its start dates, its forecasts.
            names = [MODEL, PERSISTENCE, BASE] if settings.base else [MODEL, PERSISTENCE]
            of_last = score_lead(archive.of_lead(last, starts_of(pairs.times)).sel(forecast=names), 1).get(ALL, {})
            scores = {key: _old_row(row) for key, row in of_last.items() if key in scoring.channels}
        edge = None
        if edges is not None:
            edge = edges.results()
        return Scorecard(
            checkpoint=str(settings.checkpoint),
            store=str(store.path),
            synthetic=bool(store.attributes.get("synthetic")),
            period=str(pairs.period),
            samples=len(pairs),
            steps=settings.steps,
            lead_hours=last,
            samples_per_second=len(pairs) / seconds,
            data_wait_fraction=waited / seconds,
            edge=edge,
            rain=self._rain.results(),
            scores=scores,
            forgetting=forgetting(scores),
            leads=table[ALL],
            units=units_of(archive.coordinates["channel"], store),
            regions={name: leads for name, leads in table.items() if name != ALL},
            precision=precision,
            seed=seed,
        )

    def _regions(self, pairs: Pairs) -> Regions:
        latitude, longitude = pairs.selection.grid.scored_coordinates(pairs.store)
        land = None
        if "lsm" in pairs.store.static:
            window = pairs.selection.grid.window or (slice(None), slice(None))
            land = pairs.selection.grid.read_static(pairs.store, "lsm")[window]
        names = self._settings.regions
        # What is scored everywhere is what all results begin with.
        if names is not None and ALL not in names:
            names = (ALL, *names)
        return regions_on(names, latitude, longitude, land)

    def _made_of(self, store: Store, precision: str, seed: int | None) -> dict[str, Any]:
        """Describe what the sums are of: those of anything else are not added to them."""
        data = self._checkpoint.description["data"]
        return {
            "checkpoint": portable_name(self._checkpoint.path),
            "checkpoint_sha256": sha256_of_file(self._checkpoint.path / DESCRIPTION),
            "store_name": store.path.name,
            "store_fingerprint": store.fingerprint(),
            "grid": {"region": data["region"], "halo": data.get("halo", 0.0)},
            "precision": precision,
            "seed": seed,
        }

    def _observers(self, scoring: Scoring, edges: EdgeBoard | None) -> list[Observer]:
        """List what looks at predictions of the last lead beside the sums."""

        def look_at_rain(predicted: States, target: States, last: States) -> None:
            self._rain.update(*(cropped(states, scoring.window) for states in (predicted, target, last)))

        def look_at_edges(predicted: States, target: States, last: States) -> None:
            assert edges is not None
            edges.update(predicted, target, last, scoring.pairs.selection.levels)

        if edges is None:
            return [look_at_rain]
        return [look_at_rain, look_at_edges]

    def _score_base(self, scoring: Scoring, writer: ArchiveWriter) -> None:
        """Sum up forecasts of the weights that training started from, where they are to be had."""
        try:
            predictor = load_base_predictor(self._checkpoint, self._conditions)
        except (CheckpointError, SettingsError) as error:
            # Not there, or made for statics or levels that this checkpoint does without.
            _logger.warning("the base weights are not scored: %s", error)
            return
        if predictor is None:
            _logger.warning("the base weights are not scored: training started from random weights")
            return
        of_base = dataclasses.replace(scoring, pairs=predictor.pairs)
        sum_up(RollOuts(predictor.space), of_base, writer, BASE, references=False)


def headlines(card: Scorecard) -> dict[str, float | None]:
    """Pick the numbers of a scorecard that go to a page on which runs are compared.

    Returns:
        ``test/rmse/2t`` and ``test/skill/2t`` for each variable and level, precipitation, means over all variables and
        levels, and ``test/024h/rmse/2t`` of each lead (of many, those of ``HEADLINE_HOURS`` and the last).
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
    leads = list(card.leads)
    if len(leads) > _MANY_LEADS:
        wanted = {lead_name(hours) for hours in HEADLINE_HOURS}
        leads = [lead for lead in leads if lead in wanted or lead == leads[-1]]
    for lead in leads:
        for name, row in card.leads[lead].items():
            for kind in ("rmse", "acc"):
                if row.get(kind) is not None:
                    found[f"test/{lead}/{kind}/{name}"] = row[kind]
    return found


def _old_row(row: ScoreRow) -> ScoreRow:
    """Take the numbers that ``scores`` has had from the beginning."""
    return {name: row[name] for name in _ROW if name in row}


def units_of(channels: npt.NDArray[np.str_], store: Store) -> dict[str, str]:
    """Look up the unit of each channel; winds' speed has that of the wind."""
    found = {}
    for channel in map(str, channels):
        name = channel.rpartition("_")[0] if channel not in (*store.surface, "10ws", "100ws") else channel
        if name in (WIND_SPEED, "10ws", "100ws"):
            found[channel] = "m s-1"
        else:
            found[channel] = str(store.variable_attributes(name).get("units", ""))
    return found


def forgetting(scores: Mapping[str, ScoreRow]) -> dict[str, ScoreRow]:
    """Compare errors with those of the weights that training started from, on the same samples.

    Args:
        scores: Scores by variable and level; ``base_rmse`` among them where the base weights predict it.

    Returns:
        For each variable and level that both predict ``before`` and ``after``, the RMSE in its unit, and ``change``,
        the relative change: above 0 it got worse. None where there is no such number.
    """
    found: dict[str, ScoreRow] = {}
    for key, row in scores.items():
        if "base_rmse" in row:
            old, new, change = row["base_rmse"], row["rmse"], None
            if old and new is not None:
                change = new / old - 1
            found[key] = {"before": old, "after": new, "change": change}
    return found


class RainCard:
    """Scores of a model's precipitation, and of persistence: what fell in the step before falls again."""

    def __init__(self) -> None:
        self._model = RainBoard()
        self._persistence = RainBoard()

    def update(
        self,
        predicted: States,
        target: States,
        last: States,
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
