"""Provenance and MLflow run of a run: opened before the first step, closed however it ends."""

import json
import logging
import platform
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kit.adapt import trainable
from kit.checkpoint.run_folder import MetricsLog, RunFolder, read_side_file
from kit.checks.results import QualityReport
from kit.io.atomic import remove_leftovers
from kit.io.sealed import write_sealed
from kit.io.secrets import scrub, scrub_all, without_user
from kit.plots.render import save_loss_curves
from kit.run.quality import Quality, write_page
from kit.run.resume import MemoryHistory
from kit.settings import Settings
from kit.tracking import provenance
from kit.tracking.datasets import split_fields
from kit.tracking.params import flatten
from kit.tracking.results import CHANGED
from kit.tracking.run_records import Account, begin, is_best_whole, send_results, with_first_params
from kit.tracking.tracker import MetricRecord, RunStatus, Tracker
from kit.train.build import Job

_logger = logging.getLogger(__name__)


@dataclass
class RunRecords:
    """What is known of a run outside its folder.

    Attributes:
        folder: Folder of the run.
        job: The run.
        account: What MLflow shows of it beside metrics and artifacts.
        tracker: MLflow run.
    """

    folder: RunFolder
    job: Job
    account: Account
    tracker: Tracker

    def close(self, status: RunStatus) -> None:
        """Give MLflow what the run leaves behind, and end its MLflow run.

        Args:
            status: Outcome of the run.
        """
        try:
            replace(self.account, status=status, ended_ms=time.time_ns() // 10**6).write(self.folder)
            if MetricsLog(self.folder.metrics).scan()[0]:
                synthetic = bool(self.job.store.attributes.get("synthetic"))
                save_loss_curves(self.folder, self.folder.figures, synthetic=synthetic)
            checkpoint = self.account.checkpoint and status == "FINISHED"
            send_results(self.tracker, self.folder, checkpoint=checkpoint)
        except OSError as error:
            # What was learned is in the checkpoints; a full disk shall not be reported twice.
            _logger.warning("what the run leaves behind was not all drawn and recorded: %s", error)
        finally:
            self.tracker.finish(status)
        _logger.info("run %s: %s, MLflow run %s", self.folder.path, status.lower(), self.tracker.run_id)


def public_settings(settings: Settings) -> dict[str, Any]:
    """Return settings that are fit to be kept: addresses without their passwords and keys."""
    dump = settings.model_dump(mode="json")
    for section in dump.values():
        for name, value in section.items():
            # Names and paths stay as they are, whatever word they share with a password.
            if isinstance(value, str) and "://" in value:
                section[name] = without_user(value)
    return dump


def open_records(
    job: Job,
    folder: RunFolder,
    quality: Quality,
    recipe: str | None,
    trains: dict[str, Any],
    kept: list[MetricRecord],
    history: MemoryHistory,
    recorded: Mapping[str, Any] | None,
    changed: Mapping[str, str],
) -> RunRecords:
    """Write configuration, checks and provenance, and open the MLflow run, or go on with it.

    Args:
        job: The run.
        folder: Its folder.
        quality: The checks on its data.
        recipe: Name of its recipe, which names the experiment.
        trains: Counts of what trains, as parameters of the MLflow run.
        kept: Metrics of earlier steps, of which MLflow is sent what it lacks.
        history: Memory settings that were changed in the middle of the run.
        recorded: Provenance as the checkpoint holds it that the run goes on from.
        changed: Settings that are not the defaults, as ``changed_settings`` lists them; a run that goes on keeps its
            first ones.

    Raises:
        KitError: the tracking store refuses the run.
    """
    settings, dump = job.settings, public_settings(job.settings)
    data = {"store": scrub(settings.data.store), "sha256": job.store.fingerprint()}
    if settings.data.accept:
        data["accepted"] = ",".join(settings.data.accept)
    read = job.operator or job.weights
    base_weights = None if read is None else read.base
    made_of = provenance.collect(settings=dump, data=data, base_weights=base_weights)
    for place in (folder.path, folder.figures):
        remove_leftovers(place)
    folder.write_config(dump)
    write_sealed(folder.quality, quality.report.as_dict())
    write_page(quality, folder.quality_page)
    record: dict[str, Any] = {"run_key": uuid.uuid4().hex, **made_of}
    earlier = _earlier_provenance(folder, recorded)
    if folder.best.exists():
        is_best_whole(folder)
    if earlier is not None:
        # What the run was made of at first stays.
        record = earlier
        if history.newest is not None:
            made_of["memory_change"] = history.newest
        record.setdefault("resumed", []).append(made_of)
    # The key is on the disk before MLflow hears of the run, so that a kill in between leaves no second run there.
    write_sealed(folder.provenance, record)
    periods = {"training": settings.data.train, "validation": settings.data.valid, "test": settings.data.test}
    datasets = split_fields(job.store, settings.data.store, periods)
    account = Account(
        experiment=settings.track.experiment or recipe or "kit",
        run_name=folder.path.name,
        params=flatten(dump | {"trains": trains}),
        tags=scrub_all(provenance.tags(made_of) | _labels(job, quality.report, folder, history, changed)),
        dataset=datasets[0],
        datasets=datasets,
        checkpoint=settings.track.checkpoint,
        started_ms=time.time_ns() // 10**6,
    )
    account = with_first_params(folder, account)
    account.write(folder)
    tracker = begin(folder, account, settings.track.uri)
    write_sealed(folder.provenance, {**record, "mlflow_run_id": tracker.run_id})
    tracker.reconcile(kept)
    return RunRecords(folder, job, account, tracker)


def _earlier_provenance(folder: RunFolder, recorded: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a run that goes on was made of at first: by its folder, or else by its checkpoint."""
    if recorded is None and not folder.provenance.exists():
        return None
    without = "it is written anew, and the run gets another MLflow run"
    if recorded is not None:
        without = "it is written anew from the checkpoint"
    earlier = read_side_file(folder.provenance, {"run_key"}, without)
    if recorded is None:
        return earlier
    if earlier is not None and earlier["run_key"] != recorded["run_key"]:
        # A copy of another run's, whose MLflow run would get this one's numbers.
        _logger.warning("%s is that of another run; %s", folder.provenance, without)
        earlier = None
    return dict(recorded) if earlier is None else earlier


def changed_settings(asked: Settings) -> dict[str, str]:
    """List the settings of a run that are not the defaults, but for its name and where it is recorded.

    Args:
        asked: Settings before data and weights decide what is left open.
    """
    ours, defaults = (flatten(public_settings(settings)) for settings in (asked, Settings()))
    elsewhere = ("run.", "track.", "registry.", "train.resume")
    return {key: text for key, text in ours.items() if text != defaults.get(key) and not key.startswith(elsewhere)}


def _model_of(job: Job) -> str:
    """Say in a few words what trains, and from which weights."""
    if job.run.step.diffusion is not None:
        settings = job.run.step.diffusion.settings
        operator = "" if job.operator is None else f", of the operator {job.operator.base['name']}"
        verb = "learns" if settings.of == "mean" else "draws"
        return f"{settings.network} that {verb} the {settings.of}{operator}"
    base = "random weights" if job.weights is None else job.weights.base["name"]
    return f"{job.spec.variant}, from {base}"


def _labels(
    job: Job, report: QualityReport, folder: RunFolder, history: MemoryHistory, changed: Mapping[str, str]
) -> dict[str, str]:
    """Return tags that MLflow's pages show in places of their own, and whether the data are real."""
    synthetic = bool(job.store.attributes.get("synthetic"))
    trains, total = trainable.count(job.model)
    passed, lacking = report.named("passed"), report.named("not-applicable")
    checks = f"{len(passed)} checks passed, {len(lacking)} not applicable, {len(report.failed('warning'))} warnings"
    checks += " (qa.html)"
    data = job.settings.data
    # The description that MLflow's page of a run opens with, in Markdown.
    lines = (
        f"- **model**: {_model_of(job)}",
        f"- **trains**: {job.settings.adapt.method}: {trains:,} of {total:,} parameters",
        f"- **data**: {data.store}{', **synthetic**' if synthetic else ''}, {data.train}; {checks}",
        f"- **not the defaults**: {', '.join(f'{key} {text}' for key, text in changed.items()) or 'none'}",
        f"- **steps**: {job.schedule.steps:,} on {job.trainer.device.type}",
        f"- **folder**: `{folder.path}` on {platform.node()}",
    )
    return {
        "mlflow.note.content": "\n".join(lines),
        "mlflow.source.name": "kit finetune",
        "mlflow.source.type": "LOCAL",
        "kit.synthetic": str(synthetic).lower(),
        CHANGED: json.dumps(changed),
        "kit.checks.passed": ",".join(passed),
        "kit.checks.not-applicable": ",".join(lacking),
        **({"kit.memory-changes": "\n".join(history.lines())} if history.changes else {}),
    }
