"""Later results of a run, such as its scores: kept in its folder, so that they reach a tracking store that is away."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from kit.checkpoint.run_folder import RunFolder, load_side_file, read_side_file
from kit.io.documents import DocumentError, parse_json
from kit.io.errors import CheckpointError, KitError
from kit.io.hashes import sha256_of_file
from kit.io.sealed import write_sealed
from kit.models.weights.integrity import DESCRIPTION, read_description
from kit.tracking.datasets import Fields, dataset_inputs
from kit.tracking.params import fit_value, valid_key
from kit.tracking.store import store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_logger = logging.getLogger(__name__)

CHANGED = "kit.changed"
"""Tag that holds the settings that are not the defaults, as JSON."""
_CHECKPOINT, _HASH = "kit.checkpoint", "kit.checkpoint_sha256"
_METRICS_PER_REQUEST = 1000  # MLflow's limit
_NOT_IN_NAMES = str.maketrans(dict.fromkeys("/:.%\"'", "-"))


@dataclass(frozen=True)
class LaterResult:
    """Something that was found out about a run after it.

    Attributes:
        time_ms: When, in milliseconds since 1970-01-01 UTC.
        metrics: Values by name.
        files: Files for the root of the artifacts, wherever they lie.
        checkpoint: Name of the checkpoint that the metrics are of, such as ``best``; None of the run as a whole.
        checkpoint_sha256: Hash of its ``kit.json``, by which it is known later.
        dataset: Data set that the metrics are over.
    """

    time_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[str] = ()
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    dataset: Fields | None = None


def result_of(
    metrics: Mapping[str, float | None], files: Sequence[Path], checkpoint: Path | None, dataset: Fields | None
) -> LaterResult:
    """Describe a result that is there now; metrics without a value are left out."""
    return LaterResult(
        time_ms=time.time_ns() // 10**6,
        metrics={valid_key(name): value for name, value in metrics.items() if value is not None},
        files=[str(file.absolute()) for file in files],
        checkpoint=None if checkpoint is None else checkpoint.name,
        checkpoint_sha256=None if checkpoint is None else sha256_of_file(checkpoint / DESCRIPTION),
        dataset=dataset,
    )


def keep(folder: RunFolder, result: LaterResult) -> None:
    """Write a result into the run folder.

    Raises:
        OSError: the disk is full, or refuses.
    """
    # A file for each: evaluations that run beside each other do not take turns.
    folder.results.mkdir(exist_ok=True)
    write_sealed(folder.results / f"{result.time_ms}-{uuid.uuid4().hex[:8]}.json", asdict(result))


def kept(folder: RunFolder) -> list[LaterResult]:
    """Read the results of a run, in order; what is damaged is left out, and said."""
    found = []
    names = {one.name for one in fields(LaterResult)}
    for file in sorted(folder.results.glob("*.json")):
        content = read_side_file(file, names, "what it says is not sent")
        if content is not None:
            found.append(LaterResult(**{name: content[name] for name in names}))
    return found


def send(client: MlflowClient, run_id: str, folder: RunFolder, result: LaterResult) -> None:
    """Send a result to the MLflow run; sending it again changes nothing.

    Raises:
        KitError: the store is away, or refuses.
    """
    from mlflow.entities import Metric

    with store_errors(f"MLflow run {run_id} does not take more"):
        run = client.get_run(run_id)
        dataset, model_id = result.dataset, None
        if dataset is not None:
            known = run.inputs.dataset_inputs if run.inputs else ()
            inputs = dataset_inputs([dataset], known)
            if inputs:
                client.log_inputs(run_id, inputs)
        if result.checkpoint is not None and result.checkpoint_sha256 is not None:
            model_id = logged_model(client, run, folder, result.checkpoint, result.checkpoint_sha256)
        named = {} if dataset is None else {"dataset_name": dataset["name"], "dataset_digest": dataset["digest"]}
        # MLflow takes a metric of a run twice, and refuses one of a model.
        sent = sent_already(client, model_id, result.time_ms)
        points = [
            Metric(name, value, result.time_ms, 0, model_id=model_id, run_id=run_id, **named)
            for name, value in result.metrics.items()
            if name not in sent
        ]
        for start in range(0, len(points), _METRICS_PER_REQUEST):
            client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_REQUEST])
        for file in filter(Path.is_file, map(Path, result.files)):
            client.log_artifact(run_id, str(file))


def sent_already(client: MlflowClient, model_id: str | None, time_ms: int) -> set[str]:
    """Name the metrics that a logged model has of a moment, in milliseconds since 1970-01-01 UTC."""
    if model_id is None:
        return set()
    metrics = client.get_logged_model(model_id).metrics or []
    return {metric.key for metric in metrics if metric.timestamp == time_ms}


def log_checkpoint(client: MlflowClient, run_id: str, folder: RunFolder, checkpoint: Path) -> None:
    """Make a checkpoint of a run known as a model, unless it is.

    Raises:
        KitError: the store is away, or refuses.
    """
    with store_errors(f"MLflow run {run_id} does not take the model {checkpoint.name}"):
        run = client.get_run(run_id)
        logged_model(client, run, folder, checkpoint.name, sha256_of_file(checkpoint / DESCRIPTION))


def logged_model(client: MlflowClient, run: Run, folder: RunFolder, name: str, sha256: str) -> str | None:
    """Find the logged model that is a checkpoint, or make it.

    Args:
        client: Client of the store.
        run: MLflow run that the checkpoint is of.
        folder: Folder of the run.
        name: Name of the checkpoint.
        sha256: Hash of its ``kit.json``.

    Returns:
        Id of the model; None where the store is of a version that has no models.

    Raises:
        MlflowException: the store does not answer.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    experiment = run.info.experiment_id
    try:
        held = client.search_logged_models([experiment], f"tags.`{_HASH}` = '{sha256}'")
    except MlflowException as error:
        if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
            raise
        _logger.info("the MLflow store has no logged models")
        return None
    for model in held:
        if model.source_run_id == run.info.run_id:
            return str(model.model_id)
    params, step = _facts(run, folder.last.parent / name, sha256)
    made = client.create_logged_model(
        experiment,
        name=f"{run.info.run_name}-{name}".translate(_NOT_IN_NAMES),
        source_run_id=run.info.run_id,
        tags={_CHECKPOINT: name, _HASH: sha256, "kit.artifact": f"runs:/{run.info.run_id}/checkpoint"},
        params=params,
        model_type="aurora",
    )
    client.log_outputs(run.info.run_id, [LoggedModelOutput(made.model_id, step)])
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)


def _facts(run: Run, checkpoint: Path, sha256: str) -> tuple[dict[str, str], int]:
    """Choose the few parameters that tell a model from others, and the step that it is of.

    A checkpoint that training has replaced meanwhile says nothing of its step.
    """
    try:
        changed = parse_json(run.data.tags.get(CHANGED, "{}"))
    except DocumentError:
        changed = {}
    params = {"adapt.method": run.data.params.get("adapt.method", "unknown"), **changed}
    step = 0
    try:
        if sha256_of_file(checkpoint / DESCRIPTION) == sha256:
            description = read_description(checkpoint)
            step = int(description["lineage"][-1]["steps"])
            base = description.get("base") or {}
            params["base"] = str(base.get("name", "random weights"))
    except (OSError, CheckpointError, LookupError, TypeError, ValueError):
        _logger.info("%s: no longer says of which step it is", checkpoint)
    return {valid_key(str(key)): fit_value(str(value)) for key, value in params.items()}, step


def run_id_of(folder: RunFolder) -> str | None:
    """Return the id of the MLflow run of a run folder; None where none is recorded, which is said.

    Raises:
        KitError: the run has no MLflow run yet.
    """
    try:
        record = load_side_file(folder.provenance, set())
    except DocumentError as error:
        _logger.warning("%s; nothing is recorded in MLflow", error)
        return None
    run_id = record.get("mlflow_run_id")
    if run_id is None:
        msg = f"{folder.path}: the run has no MLflow run yet"
        raise KitError(msg)
    return str(run_id)
