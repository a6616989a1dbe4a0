"""What the tracking page says of a run before anything else: description, source, data set."""

import platform
from pathlib import Path

from kit.adapt import trainable
from kit.checkpoint.run_folder import RunFolder
from kit.checks.results import QualityReport
from kit.tracking.run_records import dataset, note
from kit.train.build import Job


def labels(job: Job, report: QualityReport, folder: RunFolder) -> dict[str, str]:
    """Tags that MLflow's pages show in places of their own, and whether the data are real.

    Args:
        job: what runs.
        report: of the checks on its data.
        folder: of the run.
    """
    synthetic = bool(job.store.attributes.get("synthetic"))
    trains, total = trainable.count(job.model)
    base = "random weights" if job.weights is None else job.weights.base["name"]
    checks = f"{len(report.checks)} checks, {len(report.failed('warning'))} of them warn (qa.html)"
    data = job.settings.data
    told = {
        "model": f"{job.spec.variant}, from {base}",
        "trains": f"{job.settings.adapt.method}: {trains:,} of {total:,} parameters",
        "data": f"{data.store}{', **synthetic**' if synthetic else ''}, {data.train}; {checks}",
        "steps": f"{job.schedule.steps:,} on {job.trainer.device.type}",
        "folder": f"`{folder.path}` on {platform.node()}",
    }
    return {
        "mlflow.note.content": note(told),
        "mlflow.source.name": "kit finetune",
        "mlflow.source.type": "LOCAL",
        "kit.synthetic": str(synthetic).lower(),
    }


def dataset_of(job: Job) -> dict[str, str]:
    """The store, as MLflow's pages show a data set."""
    data, store = job.settings.data, job.store
    profile = {
        "states": len(store.times),
        "grid": " x ".join(map(str, store.shape)),
        "levels": len(store.levels),
        "synthetic": bool(store.attributes.get("synthetic")),
        "licence": store.attributes.get("licence"),
        **{name: str(getattr(data, name)) for name in ("train", "valid", "test")},
    }
    return dataset(Path(str(data.store)).name, store.fingerprint(), [*store.surface, *store.atmospheric], profile)
