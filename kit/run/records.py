"""Provenance and MLflow run of a run: opened before the first step, closed however it ends."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.io.secrets import without_user
from kit.plots.render import save_loss_curves
from kit.run.description import dataset_of, labels
from kit.run.quality import Quality, write_page
from kit.settings import Settings
from kit.tracking import provenance
from kit.tracking.params import flatten
from kit.tracking.run_records import Account, begin, send_results, with_first_params
from kit.tracking.system import visible_gpus, watching
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

    @contextmanager
    def watching_machine(self) -> Iterator[None]:
        """Sample the machine while the block runs."""
        gpus = visible_gpus() if self.job.trainer.device.type == "cuda" else []
        with watching(self.folder, self.tracker, self.job.settings.track.system_seconds, gpus):
            yield

    def close(self, status: RunStatus) -> None:
        """Give MLflow what the run leaves behind, and end its MLflow run.

        Args:
            status: How the run ended.
        """
        try:
            replace(self.account, status=status, ended_ms=time.time_ns() // 10**6).write(self.folder)
            if any(MetricsLog(self.folder.metrics).records()):
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
    """Return settings that are fit to be kept: an address of a server without its password."""
    dump = settings.model_dump(mode="json")
    if dump["track"]["uri"]:
        dump["track"]["uri"] = without_user(dump["track"]["uri"])
    return dump


def open_records(
    job: Job,
    folder: RunFolder,
    quality: Quality,
    recipe: str | None,
    trains: dict[str, Any],
    kept: list[MetricRecord],
) -> RunRecords:
    """Write configuration, checks and provenance, and open the MLflow run, or go on with it.

    Args:
        job: The run.
        folder: Its folder.
        quality: The checks on its data.
        recipe: Name of its recipe, which names the experiment.
        trains: Counts of what trains, as parameters of the MLflow run.
        kept: Metrics of earlier steps, of which MLflow is sent what it lacks.

    Raises:
        KitError: the tracking store refuses the run.
    """
    settings, dump = job.settings, public_settings(job.settings)
    data = {"store": settings.data.store, "sha256": job.store.fingerprint()}
    if settings.data.accept:
        data["accepted"] = ",".join(settings.data.accept)
    base_weights = None
    if job.weights is not None:
        base_weights = job.weights.base
    made_of = provenance.collect(settings=dump, data=data, base_weights=base_weights)
    folder.write_config(dump)
    folder.write_quality(quality.report.as_dict())
    write_page(quality, folder.quality_page)
    # The key is on the disk before MLflow hears of the run, so that a kill in between leaves no second run there.
    record = folder.add_provenance(made_of)
    account = Account(
        experiment=settings.track.experiment or recipe or "kit",
        run_name=folder.path.name,
        params=flatten(dump | {"trains": trains}),
        tags=provenance.tags(made_of) | labels(job, quality.report, folder),
        dataset=dataset_of(job),
        checkpoint=settings.track.checkpoint,
        started_ms=time.time_ns() // 10**6,
    )
    account = with_first_params(folder, account)
    account.write(folder)
    tracker = begin(folder, account, settings.track.uri)
    folder.write_provenance({**record, "mlflow_run_id": tracker.run_id})
    tracker.reconcile(kept)
    return RunRecords(folder, job, account, tracker)
