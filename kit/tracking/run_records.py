"""Records of a run for tracking stores: its account at the start, its logs, its later results, and their sync."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from kit.checkpoint.run_folder import MetricsLog, RunFolder, load_side_file
from kit.io.documents import DocumentError, read_toml
from kit.io.errors import CheckpointError, KitError
from kit.io.sealed import write_sealed
from kit.models.weights.integrity import verified_description
from kit.tracking.datasets import Fields
from kit.tracking.results import CHANGED, keep, kept, log_checkpoint, result_of, run_id_of, send
from kit.tracking.store import MissingRunError, connect, reach, resolve_uri, store_errors
from kit.tracking.tracker import MetricRecord, RunStatus, Tracker

_logger = logging.getLogger(__name__)

_ANEW = "go on with the run, which writes it anew, also where all steps are taken: --train.resume auto"


@dataclass(frozen=True)
class Account:
    """Description of a run that MLflow shows with its metrics and its artifacts.

    Attributes:
        experiment: Name of the experiment that the run belongs to.
        run_name: Name of the run.
        params: Flattened settings, without secrets.
        tags: Versions, hashes, the description.
        dataset: Data set that the run trains on, in MLflow's fields.
        checkpoint: Whether the best checkpoint is to be among the artifacts.
        started_ms: Start of the run in milliseconds since 1970-01-01 UTC.
        status: Outcome of the run; None while it runs.
        ended_ms: End of the run in milliseconds since 1970-01-01 UTC.
        datasets: Data sets that it trains, validates and tests on, each with its ``context``; empty in accounts of
            earlier versions.
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
    datasets: Sequence[Fields] = ()

    def write(self, folder: RunFolder) -> None:
        """Write the account into the run folder."""
        write_sealed(folder.tracking, asdict(self))


def read_account(folder: RunFolder) -> Account:
    """Read the account of a run from its folder.

    Raises:
        KitError: the folder is not that of a run, or its run never got so far.
    """
    if not folder.tracking.is_file():
        msg = f"{folder.path}: expected the folder of a run, with {folder.tracking.name}; name one, such as runs/first"
        raise KitError(msg)
    try:
        return _load_account(folder)
    except DocumentError as error:
        msg = f"{error}; {_ANEW}"
        raise KitError(msg) from error


def _load_account(folder: RunFolder) -> Account:
    names = {field.name for field in fields(Account)}
    content = load_side_file(folder.tracking, names - {"datasets"})
    return Account(**{name: content[name] for name in names & content.keys()})


def begin(folder: RunFolder, account: Account, uri: str | None, *, anywhere: bool = False) -> Tracker:
    """Begin a run in a tracking store, or go on with it there.

    Args:
        folder: Folder of the run.
        account: Account of the run; of a run that goes on, MLflow keeps the first one's parameters.
        uri: Tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``mlflow.db`` in the folder of runs.
        anywhere: Whether to make the run in a store that lacks it.

    Raises:
        KitError: the store refuses the run.
    """
    try:
        record = load_side_file(folder.provenance, {"run_key"})
    except DocumentError as error:
        msg = f"{error}, so that its MLflow run is not known; {_ANEW}"
        raise KitError(msg) from error
    facts: dict[str, Any] = {
        "run_dir": folder.path.parent, "experiment": account.experiment, "run_name": account.run_name,
        "params": account.params, "tags": account.tags, "folder": folder.path,
        "datasets": account.datasets or [account.dataset],
        "run_key": record["run_key"], "started_ms": account.started_ms,
    }  # fmt: skip
    # The id finds the run in the store that it began in; in another store the key does, once `kit sync` has made it.
    try:
        return Tracker.start(uri=uri, run_id=record.get("mlflow_run_id"), **facts)
    except MissingRunError:
        if not anywhere:
            raise
        return Tracker.start(uri=uri, **facts)


def with_first_params(folder: RunFolder, account: Account) -> Account:
    """Give a run that goes on its first parameters and its first start, as MLflow keeps them."""
    if not folder.tracking.is_file():
        return account
    try:
        before = _load_account(folder)
    except DocumentError as error:
        _logger.warning("%s; it is written anew, with the settings of now as parameters", error)
        return account
    if before.run_name != account.run_name:
        anew = "it is written anew, with the settings of now as parameters"
        _logger.warning("%s is that of run %s; %s", folder.tracking, before.run_name, anew)
        return account
    tags = dict(account.tags)
    if CHANGED in before.tags:
        tags[CHANGED] = before.tags[CHANGED]
    return replace(account, params={**account.params, **before.params}, tags=tags, started_ms=before.started_ms)


def send_results(tracker: Tracker, folder: RunFolder, *, checkpoint: bool) -> None:
    """Send the files that a run leaves behind, as far as they are there.

    Args:
        tracker: Tracker of the run.
        folder: Folder of the run.
        checkpoint: Whether to send the best checkpoint too.
    """
    # Metrics first: a store that does not answer is then waited for once, not for each file.
    tracker.flush_at_end()
    files = (
        folder.config, folder.provenance, folder.quality, folder.quality_page, folder.trains,
        folder.activations, folder.scores, folder.report, folder.log,
    )  # fmt: skip
    for path in files:
        if path.exists():
            tracker.artifact(path)
    if folder.figures.is_dir():
        tracker.artifact(folder.figures, "figures")
    if folder.best.exists() and is_best_whole(folder):
        tracker.add(partial(log_checkpoint, run_id=tracker.run_id, folder=folder, checkpoint=folder.best))
        if checkpoint:
            tracker.artifact(folder.best, "checkpoint", link=True)


def is_best_whole(folder: RunFolder) -> bool:
    """Check whether the best checkpoint of a run is as it was written, and say so if it is not."""
    try:
        verified_description(folder.best)
    except (OSError, CheckpointError) as error:
        _logger.warning("the run's best checkpoint is damaged, until validation improves on it: %s", error)
        return False
    return True


# The lines of a run folder's logs, under MLflow's names.

_NO_METRICS = ("step", "time_ms", "kind")


def recorded(folder: RunFolder) -> Iterator[MetricRecord]:
    """Read all that a run has recorded: steps and validations, activations, samples of the machine."""
    for log, named in ((folder.metrics, numbers), (folder.activations, peaks), (folder.system, system_values)):
        for line in MetricsLog(log).records():
            yield MetricRecord(line["step"], named(line), line["time_ms"])


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Name the metrics of a line of ``metrics.jsonl``, such as ``train/loss``."""
    return _prefixed(f"{line['kind']}/", line)


def peaks(line: Mapping[str, Any]) -> dict[str, float]:
    """Name the largest magnitudes of a line of ``activations.jsonl``; what is no number is left out."""
    found = {f"activation/{name}/max": statistics["max"] for name, statistics in line["modules"].items()}
    return {name: value for name, value in found.items() if value is not None}


def system_values(line: Mapping[str, Any]) -> dict[str, float]:
    """Name the values of a line of ``system.jsonl`` as MLflow's page of system metrics does."""
    return _prefixed("system/", line)


def _prefixed(prefix: str, line: Mapping[str, Any]) -> dict[str, float]:
    return {f"{prefix}{key}": value for key, value in line.items() if key not in _NO_METRICS}


# A run folder's records sent to a tracking store: what never arrived, or all of it to another store.


def sync(run: Path, uri: str | None = None) -> dict[str, Any]:
    """Send what a tracking store lacks of a run; sending it again changes nothing.

    A run that goes on in another process stays open, and what it has so far is sent.

    Args:
        run: Run folder.
        uri: Tracking store, where the run is made if it lacks it; by default the one that the run began in.

    Returns:
        ``run``, ``store``, ``mlflow_run_id``, ``values`` (how many were sent), ``status``.

    Raises:
        KitError: the folder is not that of a run, or the store is away or refuses.
    """
    # Without PyTorch: all that MLflow is to have of a run is in its folder.
    folder = RunFolder(run.absolute())
    account = read_account(folder)
    chosen = uri or track_uri(folder.path)
    reach(resolve_uri(chosen, folder.path.parent), folder.path.parent)
    tracker = begin(folder, account, chosen, anywhere=uri is not None)
    values = tracker.reconcile(recorded(folder))
    send_results(tracker, folder, checkpoint=account.checkpoint and account.status == "FINISHED")
    for result in kept(folder):
        tracker.add(partial(send, run_id=tracker.run_id, folder=folder, result=result))
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


# Later results of a run, such as its scores and figures, put into its MLflow run.


def run_folder_of(checkpoint: Path) -> Path | None:
    """Find the run folder that a checkpoint lies in; None where it lies elsewhere.

    What is gone of ``config.toml`` is written anew.
    """
    folder = RunFolder(checkpoint.absolute().parent.parent)
    # Any of them may be gone, and has to be told then.
    if checkpoint.absolute().parent != folder.last.parent or not folder.has_begun:
        return None
    folder.restore_config()
    return folder.path


def track_uri(run: Path) -> str | None:
    """Read the setting ``track.uri`` of a run folder.

    Raises:
        KitError: its ``config.toml`` cannot be read, or written anew from a checkpoint.
    """
    folder = RunFolder(run)
    folder.restore_config()
    try:
        found: str | None = read_toml(folder.config).get("track", {}).get("uri")
    except (OSError, DocumentError) as error:
        msg = f"{folder.config}: cannot be read ({error}); {_ANEW}"
        raise KitError(msg) from error
    return found


def attach(
    run: Path,
    *,
    metrics: Mapping[str, float | None] | None = None,
    figures: Sequence[Path] = (),
    files: Sequence[Path] = (),
    checkpoint: Path | None = None,
    dataset: Fields | None = None,
) -> None:
    """Add metrics and files to the MLflow run of a run folder.

    A store that is away is a warning: what it was to be told is kept in the run folder, and ``sync`` sends it.

    Args:
        run: Run folder.
        metrics: Values by name; None is left out.
        figures: Files in the run's figures, which go to the artifacts' folder ``figures``.
        files: Files that go to the artifacts' root; one that is not there is left out.
        checkpoint: Checkpoint that the metrics are of; it is a model of its own in MLflow, which has them too.
        dataset: Data set that the metrics are over, in MLflow's fields.
    """
    folder = RunFolder(run.absolute())
    try:
        run_id = run_id_of(folder)
        if run_id is None:
            return
        result = result_of(metrics or {}, [file for file in files if file.exists()], checkpoint, dataset)
        if result.metrics or any(folder.path not in file.absolute().parents for file in files):
            keep(folder, result)
        client = connect(resolve_uri(track_uri(folder.path), folder.path.parent), folder.path.parent)
        send(client, run_id, folder, result)
        with store_errors(f"MLflow run {run_id} does not take more"):
            for figure in figures:
                client.log_artifact(run_id, str(figure), "figures")
    except (KitError, OSError) as error:
        _logger.warning("not recorded in MLflow: %s; kit sync %s sends it later", error, run)
