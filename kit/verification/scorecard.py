"""Scorecards of checkpoints, beside persistence and the weights that training started from, and of forecasts."""

import dataclasses
import gc
import logging
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.checkpoint.run_folder import RunFolder
from kit.data.store.build import open_store
from kit.data.store.reader import Store
from kit.forecasting.predictor import Conditions, load_base_predictor, load_predictor
from kit.forecasting.writing import portable_name
from kit.io.errors import CheckpointError, SettingsError
from kit.io.hashes import sha256_of_file
from kit.io.sealed import write_sealed
from kit.memory.out_of_memory import readable
from kit.metrics.edges import EdgeBoard
from kit.models.weights.integrity import DESCRIPTION
from kit.registry.fetching import strictly
from kit.tracking.datasets import dataset_fields
from kit.tracking.run_records import attach, run_folder_of
from kit.verification.archive import ArchiveWriter, archive_name, archiving, read_archive, starts_of
from kit.verification.climatology import with_climatology
from kit.verification.evaluation import Observer, RollOuts, Scoring, cropped, regions_of, sum_up
from kit.verification.leakage import find_leakage
from kit.verification.mean_errors import ErrorMaps, maps_of
from kit.verification.rain_thresholds import with_thresholds
from kit.verification.regions import ALL
from kit.verification.results import RainCard, Scorecard, forgetting, headlines, old_row, units_of
from kit.verification.scoring import score_lead, score_table, spectra_table
from kit.verification.settings import EvaluateSettings
from kit.verification.sums import BASE, MODEL, PERSISTENCE, States

_logger = logging.getLogger(__name__)


def evaluate(settings: EvaluateSettings) -> Scorecard:
    """Score every lead of a checkpoint's roll-outs, or of a forecast in a file, against persistence and others.

    The sums behind the scores of a run's checkpoint are kept in the run folder, added to those of earlier evaluations;
    the scorecard of its best checkpoint is written there too, as ``scores.json``, and the headline numbers go into its
    MLflow run.

    Args:
        settings: Checkpoint or forecast, store, period (UTC), number of steps, regions, device and memory.

    Returns:
        Scores by variable and level in the variable's unit.

    Raises:
        KitError: the checkpoint or forecast, its store or the period cannot be used, or memory runs out.
        OSError: the run folder cannot be written to.
    """
    if settings.forecast_file is not None:
        # Imported here: of checkpoints nobody reads NetCDF.
        from kit.verification.file_scores import score_file

        return score_file(settings)
    assert settings.checkpoint is not None
    checkpoint = open_checkpoint(settings.checkpoint)
    run = run_folder_of(settings.checkpoint)
    with ExitStack() as stack:
        stack.enter_context(strictly(settings.registry.strict))
        folder = settings.out
        if folder is None and run is not None:
            folder = RunFolder(run).sums
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kit-evaluate-")))
            # Nobody will draw what is not kept.
            settings = settings.model_copy(update={"maps": None})
        card = _Evaluation(settings, checkpoint).run(folder)
    best = RunFolder(checkpoint.path.absolute().parent.parent)
    # Figures of a run are drawn from the scorecard of its best checkpoint.
    if best.best == checkpoint.path.absolute() and best.config.exists():
        write_sealed(best.scores, card.to_dict())
    if run is not None:
        # The name that the run knows its store by, and not that of a folder in the cache.
        place = settings.data.store or checkpoint.description["data"]["store"]
        dataset = dataset_fields(open_store(card.store), place, "test", card.period)
        files = [run / "scores.json"]
        attach(run, metrics=headlines(card), files=files, checkpoint=checkpoint.path.absolute(), dataset=dataset)
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
        with readable(out_of_memory) as watched, ExitStack() as stack:
            predictor = load_predictor(self._checkpoint, self._conditions)
            # Where memory runs out, the message names the module.
            watched.model = predictor.space.model
            space, pairs, store = predictor.space, predictor.pairs, predictor.store
            precision = predictor.precision
            seed = settings.seed if space.spec.stochastic else None
            scoring = Scoring(pairs, regions_of(pairs, settings.regions), settings.batch_size)
            scoring, of_rain = with_thresholds(scoring, settings.thresholds)
            self._rain = RainCard(scoring.thresholds_mm)
            usual = with_climatology(scoring, settings.climatology, settings.climatology_period)
            scoring, of_climatology = stack.enter_context(usual)
            edges = EdgeBoard.of(pairs, self._checkpoint.spec.patch_size, may_be_missing=space.may_be_missing)
            made_of = self._made_of(store, precision, seed) | of_climatology | of_rain
            path = folder / archive_name(made_of)
            maps = maps_of(scoring, 3 if settings.base else 2, settings.maps)
            axes = scoring.axes([MODEL, PERSISTENCE, BASE, *scoring.usual])
            synthetic = bool(store.attributes.get("synthetic"))
            # What a comparison asks of the data, and no name depends on.
            with archiving(path, axes, made_of | {"synthetic": synthetic}) as writer:
                started = time.perf_counter()
                observers = self._observers(scoring, edges)
                waited = sum_up(RollOuts(space), scoring, writer, observers=observers, maps=maps)
                seconds = time.perf_counter() - started
                # The base weights need the room that this model has.
                del predictor, space
                watched.model = None
                gc.collect()
                if settings.base:
                    self._score_base(scoring, writer, maps)
            if maps is not None:
                maps.write(folder, made_of)
            archive = read_archive(path)
            table = score_table(archive)
            last = scoring.lead_hours(settings.steps)
            # Those of this evaluation alone: its start dates, its forecasts.
            names = [MODEL, PERSISTENCE, BASE] if settings.base else [MODEL, PERSISTENCE]
            of_last = score_lead(archive.of_lead(last, starts_of(pairs.times)).sel(forecast=names), 1).get(ALL, {})
            scores = {key: old_row(row) for key, row in of_last.items() if key in scoring.channels}
        edge = None
        if edges is not None:
            edge = edges.results()
        return Scorecard(
            checkpoint=str(settings.checkpoint),
            store=str(store.path),
            synthetic=synthetic,
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
            spectra=spectra_table(archive) or None,
            neighbourhoods_km=scoring.neighbourhoods_km() or None,
            units=units_of(archive.coordinates["channel"], store),
            regions={name: leads for name, leads in table.items() if name != ALL},
            precision=precision,
            seed=seed,
            checkpoint_sha256=made_of["checkpoint_sha256"],
            leakage=find_leakage(self._checkpoint.description, scoring, synthetic=synthetic),
        )

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

    def _score_base(self, scoring: Scoring, writer: ArchiveWriter, maps: ErrorMaps | None) -> None:
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
        sum_up(RollOuts(predictor.space), of_base, writer, BASE, maps=maps, references=False)
