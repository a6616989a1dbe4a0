"""What a run was made of, and what it took: facts that its folder and its checkpoint record."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from kit.checkpoint.run_folder import MetricsLog, RunFolder, read_side_file
from kit.io.documents import DocumentError, read_toml
from kit.metrics.epochs import epoch_losses
from kit.settings import Settings
from kit.tracking.params import flatten
from kit.verification.subjects import Subject

_WITHOUT = "it is left out"


def recorded_settings(subject: Subject) -> dict[str, str]:
    """Return the settings of a run, flat, without secrets; empty where none are recorded."""
    settings = subject.description.get("settings")
    if not isinstance(settings, Mapping) and subject.folder is not None:
        try:
            settings = read_toml(subject.folder.config)
        except (OSError, DocumentError):
            settings = None
    if not isinstance(settings, Mapping):
        return {}
    # A setting that is newer than the run has the default that does what was done before.
    return flatten(Settings().model_dump(mode="json")) | flatten(settings)


def recorded_provenance(subject: Subject) -> dict[str, Any]:
    """Return what a run was made of, as ``provenance.json`` holds it; empty where it does not lie in a run."""
    return _side_file(subject.folder, "provenance")


def loss_records(folder: RunFolder | None) -> list[dict[str, Any]]:
    """Read what a run recorded of its losses; damaged lines are left out, and said."""
    return [] if folder is None else _records(folder)


def _records(folder: RunFolder) -> list[dict[str, Any]]:
    lines, bad = MetricsLog(folder.metrics).scan()
    if not bad:
        return lines
    return MetricsLog(folder.metrics).records()


def _side_file(folder: RunFolder | None, name: str) -> dict[str, Any]:
    file = None if folder is None else getattr(folder, name)
    if file is None or not file.is_file():
        return {}
    return read_side_file(file, set(), _WITHOUT) or {}


def run_facts(subject: Subject) -> dict[str, Any]:
    """Collect what is known of one of those that are compared.

    Returns:
        ``name``, ``kind``, ``path``, ``mlflow_run_id``; ``method``, ``trainable_parameters`` and ``total_parameters``;
        ``steps``, ``epochs``, ``train_loss`` (means of the first and last epoch), ``valid_loss`` (before, best);
        ``peak_memory_gib``, ``step_seconds`` (median), ``train_seconds`` (all steps), ``device``; ``kit``, ``commit``,
        ``lock_sha256``, ``store``, ``store_sha256``, ``base``, ``base_sha256``, ``checkpoint_sha256``. None stands for
        what is not recorded.
    """
    provenance = recorded_provenance(subject)
    trains, account = _side_file(subject.folder, "trains"), _side_file(subject.folder, "tracking")
    stages = subject.description.get("lineage")
    stage: Mapping[str, Any] = stages[-1] if isinstance(stages, list) and stages else {}
    settings = recorded_settings(subject)
    base, validation = stage.get("base") or {}, subject.description.get("validation") or {}
    made_of = provenance.get("data") or {}
    facts: dict[str, Any] = {
        "name": subject.name,
        "kind": subject.kind,
        "path": str(subject.path) if subject.mlflow_run_id is None else None,
        "mlflow_run_id": subject.mlflow_run_id or provenance.get("mlflow_run_id"),
        "status": account.get("status"),
        "method": stage.get("method") or settings.get("adapt.method"),
        "trainable_parameters": trains.get("trainable_parameters"),
        "total_parameters": trains.get("total_parameters"),
        "device": settings.get("train.device"),
        "gpus": [gpu.get("name") for gpu in provenance.get("gpus") or []] or None,
        **_measured(loss_records(subject.folder)),
        "valid_loss": {"before": validation.get("before"), "best": validation.get("best")},
        "kit": provenance.get("kit") or stage.get("kit_version"),
        "commit": (provenance.get("git") or {}).get("commit"),
        "lock_sha256": provenance.get("lock_sha256"),
        "store": made_of.get("store") or stage.get("store"),
        "store_sha256": made_of.get("sha256") or stage.get("store_sha256"),
        "base": base.get("name"),
        "base_sha256": base.get("sha256"),
    }
    if subject.archives:
        attributes = subject.archives[0].attributes
        for name in ("checkpoint", "checkpoint_sha256"):
            facts[name] = attributes.get(name)
    return facts


def _measured(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise what was measured while a run trained."""
    steps = [record for record in records if record.get("kind") == "train"]
    seconds = [record["step_seconds"] for record in steps if "step_seconds" in record]
    peaks = [record["peak_memory_gib"] for record in steps if "peak_memory_gib" in record]
    epochs = [record["epoch"] for record in steps if "epoch" in record]
    losses = epoch_losses(steps)
    return {
        "steps": max((record["step"] for record in steps), default=None),
        "epochs": max(epochs, default=None),
        "train_loss": None if losses is None else {"first_epoch": losses.first, "last_epoch": losses.last},
        "peak_memory_gib": max(peaks, default=None),
        "step_seconds": median(seconds) if seconds else None,
        "train_seconds": sum(seconds) if seconds else None,
    }


def differing(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Find what is not the same everywhere, by key: one value for each table, None where it has none."""
    found = {}
    for key in sorted({key for table in tables for key in table}):
        values = [table.get(key) for table in tables]
        if any(value != values[0] for value in values):
            found[key] = values
    return found
