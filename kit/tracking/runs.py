"""Experiments and runs in a store: found, or made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kit.errors import KitError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["MissingRunError", "get_run", "make_run"]

_KEY_TAG = "kit.run_key"
# Without it MLflow's page opens with what it has for chat applications.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


class MissingRunError(KitError):
    """The MLflow run to go on with is not in the store, or was deleted there."""


def make_run(
    client: MlflowClient,
    experiment: str,
    artifacts: str | None,
    name: str,
    run_key: str | None,
    started_ms: int | None = None,
) -> Run:
    """Make a run, or find the one that was made under the same key.

    Args:
        client: of the store.
        experiment: its name; made when the store lacks it.
        artifacts: where a new experiment's artifacts go; None leaves that to the server.
        name: of the run.
        run_key: marks the run.
        started_ms: when it began, in milliseconds since 1970-01-01 UTC; by default now.

    Raises:
        KitError: the experiment was deleted.
        MlflowException: the store does not answer.
    """
    experiment_id = _experiment(client, experiment, artifacts)
    tags = {_KEY_TAG: run_key} if run_key else {}
    found = _find_run(client, experiment_id, run_key)
    return found or client.create_run(experiment_id, start_time=started_ms, run_name=name, tags=tags)


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of an experiment, making it if need be; two processes may do so at once."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=_EXPERIMENT_TAGS))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        msg = (
            f"MLflow experiment {name!r} was deleted. Restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or set track.experiment to another name."
        )
        raise KitError(msg)
    return str(found.experiment_id)


def _find_run(client: MlflowClient, experiment_id: str, run_key: str | None) -> Run | None:
    if run_key is None:
        return None
    runs = client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{run_key}'", max_results=1)
    return runs[0] if runs else None


def get_run(client: MlflowClient, run_id: str, address: str) -> Run:
    """Find a run by its id.

    Raises:
        MissingRunError: the store lacks it, or it was deleted.
        MlflowException: the store does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        msg = (
            f"MLflow run {run_id} is not in {address}. Point track.uri or MLFLOW_TRACKING_URI at the store that "
            "the run began in."
        )
        raise MissingRunError(msg) from error
    if run.info.lifecycle_stage != "active":
        msg = f"MLflow run {run_id} in {address} was deleted. Restore it with `mlflow runs restore --run-id {run_id}`."
        raise MissingRunError(msg)
    return run
