"""What a tracking store is told of a run at its start; kept in the run folder, so that any store can be told later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kit.checkpoint.run_folder import MetricsLog, RunFolder
from kit.io.atomic import write_atomically
from kit.io.errors import KitError
from kit.tracking.artifacts import track_uri
from kit.tracking.store import MissingRunError, reach, resolve_uri
from kit.tracking.tracker import MetricRecord, RunStatus, Tracker

__all__ = [
    "Account",
    "begin",
    "dataset",
    "first_told",
    "note",
    "numbers",
    "peaks",
    "read_account",
    "recorded",
    "send_results",
    "sync",
    "system_values",
]

_MAX_DIGEST = 36  # MLflow's limit, in characters


@dataclass(frozen=True)
class Account:
    """What MLflow shows of a run beside its metrics and its artifacts.

    Attributes:
        experiment: that it belongs to.
        run_name: its name.
        params: flattened settings, without secrets.
        tags: versions, hashes, the description.
        dataset: what it reads, as ``dataset`` has it.
        checkpoint: whether the best checkpoint is to be among the artifacts.
        started_ms: when it began, in milliseconds since 1970-01-01 UTC.
        status: how it ended; None while it runs.
        ended_ms: when.
    """

    experiment: str
    run_name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    dataset: Mapping[str, str]
    checkpoint: bool
    started_ms: int
    status: RunStatus | None = None
    ended_ms: int | None = None

    def write(self, folder: RunFolder) -> None:
        """Keep it in the run folder."""
        write_atomically(folder.tracking, json.dumps(asdict(self), indent=2) + "\n")


def read_account(folder: RunFolder) -> Account:
    """Read it.

    Raises:
        KitError: the folder is not that of a run, or its run never got so far.
    """
    if not folder.tracking.is_file():
        msg = f"{folder.path}: expected the folder of a run, with {folder.tracking.name}; name one, such as runs/first"
        raise KitError(msg)
    return Account(**json.loads(folder.tracking.read_text(encoding="utf-8")))


def begin(folder: RunFolder, account: Account, uri: str | None, *, anywhere: bool = False) -> Tracker:
    """Begin a run in a tracking store, or go on with it there.

    Args:
        folder: of the run; a run that goes on keeps what it was first told to be.
        account: of the run.
        uri: tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``mlflow.db`` beside the run folder.
        anywhere: make the run in a store that lacks it.

    Raises:
        KitError: the store refuses the run.
    """
    record = folder.read_provenance()
    facts: dict[str, Any] = {
        "run_dir": folder.path.parent, "experiment": account.experiment, "run_name": account.run_name,
        "params": account.params, "tags": account.tags, "dataset": account.dataset, "folder": folder.path,
    }  # fmt: skip
    try:
        return Tracker.start(uri=uri, run_id=record.get("mlflow_run_id"), **facts, **_own(account, record))
    except MissingRunError:
        if not anywhere:
            raise
        return Tracker.start(uri=uri, **facts, **_own(account, record))


def _own(account: Account, record: Mapping[str, Any]) -> dict[str, Any]:
    return {"run_key": record["run_key"], "started_ms": account.started_ms}


def first_told(folder: RunFolder, account: Account) -> Account:
    """The account of a run that goes on: parameters keep their first values, as MLflow keeps them."""
    if not folder.tracking.is_file():
        return account
    before = read_account(folder)
    return replace(account, params={**account.params, **before.params}, started_ms=before.started_ms)


def send_results(tracker: Tracker, folder: RunFolder, *, checkpoint: bool) -> None:
    """Give MLflow what a run leaves behind, as far as it is there.

    Args:
        tracker: of the run.
        folder: its folder.
        checkpoint: the best checkpoint too.
    """
    tracker.settle()
    files = (
        folder.config, folder.provenance, folder.quality, folder.quality_page, folder.trains,
        folder.activations, folder.scores, folder.log,
    )  # fmt: skip
    for path in files:
        if path.exists():
            tracker.artifact(path)
    if folder.figures.is_dir():
        tracker.artifact(folder.figures, "figures")
    if checkpoint and folder.best.exists():
        tracker.artifact(folder.best, "checkpoint", link=True)


def dataset(name: str, digest: str, variables: Sequence[str], profile: Mapping[str, object]) -> dict[str, str]:
    """Describe a store as MLflow's pages show what a run reads.

    Args:
        name: as the settings have it.
        digest: the store's fingerprint, of which MLflow keeps 36 characters.
        variables: their names.
        profile: numbers and words about it.
    """
    columns = [{"type": "float", "name": variable, "required": True} for variable in variables]
    return {
        "name": name,
        "digest": digest[:_MAX_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": name, "sha256": digest}),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(profile),
    }


def note(sentences: Mapping[str, str]) -> str:
    """Write the description that MLflow's page of a run opens with, in Markdown."""
    return "\n".join(f"- **{name}**: {text}" for name, text in sentences.items() if text)


# The lines of a run folder's logs, under MLflow's names.

_NO_METRICS = ("step", "time_ms", "kind")


def recorded(folder: RunFolder) -> Iterator[MetricRecord]:
    """All that a run has recorded: steps and validations, activations, samples of the machine."""
    for log, named in ((folder.metrics, numbers), (folder.activations, peaks), (folder.system, system_values)):
        for line in MetricsLog(log).records():
            yield MetricRecord(line["step"], named(line), line["time_ms"])


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a line of ``metrics.jsonl``: ``train/loss``."""
    kind = line["kind"]
    return {f"{kind}/{key}": value for key, value in line.items() if key not in _NO_METRICS}


def peaks(line: Mapping[str, Any]) -> dict[str, float]:
    """Largest magnitudes of a line of ``activations.jsonl``; what is no number is left out."""
    found = {f"activation/{name}/max": seen["max"] for name, seen in line["modules"].items()}
    return {name: value for name, value in found.items() if value is not None}


def system_values(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``system.jsonl``, under the names that MLflow's page of system metrics shows."""
    return {f"system/{key}": value for key, value in line.items() if key not in _NO_METRICS}


# A run folder's records sent to a tracking store: what never arrived, or all of it to another store.


def sync(run: Path, uri: str | None = None) -> dict[str, Any]:
    """Send what a tracking store lacks of a run; sending it again changes nothing.

    A run that goes on in another process stays open, and what it has so far is sent.

    Args:
        run: the run folder.
        uri: a tracking store, where the run is made if it lacks it; by default the one that the run began in.

    Returns:
        ``run``, ``store``, ``mlflow_run_id``, ``values`` (how many were sent), ``status``.

    Raises:
        KitError: the folder is not that of a run, or the store is away or refuses.
    """
    folder = RunFolder(run.absolute())
    account = read_account(folder)
    chosen = uri or track_uri(folder.path)
    reach(resolve_uri(chosen, folder.path.parent), folder.path.parent)
    tracker = begin(folder, account, chosen, anywhere=uri is not None)
    values = tracker.reconcile(recorded(folder))
    send_results(tracker, folder, checkpoint=account.checkpoint and account.status == "FINISHED")
    if not tracker.finish(account.status, account.ended_ms):
        msg = f"{tracker.uri} did not take all of {run}; try again when it is well: kit sync {run}"
        raise KitError(msg)
    return {
        "run": str(run),
        "store": tracker.uri,
        "mlflow_run_id": tracker.run_id,
        "values": values,
        "status": account.status or "RUNNING",
    }
