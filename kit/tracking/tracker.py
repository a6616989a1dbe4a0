"""One MLflow run, each metric in it exactly once, whatever happens to the process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kit.errors import KitError
from kit.tracking.outbox import Outbox, Point
from kit.tracking.params import fit_value, flatten, valid_key
from kit.tracking.scrub import scrub
from kit.tracking.store import artifact_root, connect, resolve_uri, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["MissingRunError", "Record", "RunStatus", "Tracker"]

_logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

_FLUSH_SECONDS = 5.0
_PARAMS_PER_REQUEST = 100
_MAX_TAG = 8000
_KEY_TAG = "kit.run_key"
# Without it MLflow's page opens with what it has for chat applications.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


class MissingRunError(KitError):
    """The MLflow run to go on with is not in the store, or was deleted there."""


class Record(NamedTuple):
    """What one line of ``metrics.jsonl`` holds."""

    step: int
    metrics: Mapping[str, float]
    time_ms: int
    """Milliseconds since 1970-01-01 UTC."""


class Tracker:
    """Writes one MLflow run. Make one with ``start``.

    Once started, trouble with the store never ends a training run: it is a warning, values wait in memory,
    and ``reconcile`` sends at the next resume what never arrived. The caller writes a record to
    ``metrics.jsonl`` before it calls ``log``, so that the file always holds at least what MLflow holds.
    """

    def __init__(self, client: MlflowClient, run: Run, uri: str) -> None:
        self._client = client
        self.run_id: str = run.info.run_id
        """MLflow's id of the run."""
        self.uri = scrub(uri)
        """The store's address, without credentials: fit for the screen."""
        self._names: dict[str, str] = {}
        self._stored: dict[str, frozenset[int]] = {}
        self._outbox = Outbox(self._send, _FLUSH_SECONDS)

    @classmethod
    def start(
        cls,
        *,
        uri: str | None,
        run_dir: Path,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        run_id: str | None = None,
        run_key: str | None = None,
    ) -> Tracker:
        """Start a run, or go on with one.

        Args:
            uri: tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``run_dir/mlflow.db``.
            run_dir: parent of the run folders.
            experiment: made when the store lacks it.
            run_name: shown in MLflow; need not be unique.
            params: the resolved settings, nested or flat; secrets are left out. A parameter that a reopened
                run has already keeps its first value.
            tags: set anew at every start.
            run_id: go on with this run.
            run_key: a random text that the caller wrote into the run folder before its first call. Without
                ``run_id``, the run of the experiment that carries this key is taken up, if there is one: a
                process killed between the making of the run and the saving of its id leaves no second run.

        Raises:
            MissingRunError: the store lacks run ``run_id``.
            KitError: the store cannot be opened or refuses the run.
        """
        address = resolve_uri(uri, run_dir)
        client = connect(address, run_dir)
        key_tag = {_KEY_TAG: run_key} if run_key else {}
        with store_errors(f"cannot start a run in the MLflow store {scrub(address)}"):
            if run_id is not None:
                run, is_new = _get_run(client, run_id, scrub(address)), False
            else:
                experiment_id = _experiment(client, experiment, artifact_root(address, run_dir))
                found = _find_run(client, experiment_id, run_key)
                run = found or client.create_run(experiment_id, run_name=run_name, tags=key_tag)
                is_new = found is None
            tracker = cls(client, run, address)
            tracker._describe(params, tags, run.data.params)
            if not is_new:
                tracker._take_up(run)
        return tracker

    def log(self, step: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """Record the metrics of a step, unless MLflow has them from before a crash.

        Takes microseconds: sending happens in the background, every few seconds. NaN stays NaN; MLflow
        shows an infinite value as the largest finite one.

        Args:
            step: optimiser step, counted through all resumes.
            metrics: value per name, such as ``loss/2t``.
            time_ms: milliseconds since 1970-01-01 UTC.
        """
        self._outbox.put(self._points(step, metrics, time_ms))

    def reconcile(self, records: Iterable[Record]) -> int:
        """Send what an earlier process recorded but MLflow never got; return how many values that were.

        Call it once after ``start``, with all records left in ``metrics.jsonl`` after it was cut back to the
        checkpoint. Steps that are computed again afterwards are skipped by ``log`` where MLflow has them.

        Args:
            records: in the order of the file.
        """
        seen: set[tuple[str, int]] = set()
        missing: list[Point] = []
        for record in records:
            for point in self._points(*record):
                if (point.key, point.step) not in seen:
                    seen.add((point.key, point.step))
                    missing.append(point)
        self._outbox.put(missing)
        self.flush()
        return len(missing)

    def flush(self) -> bool:
        """Send everything that waits and return whether the store took it; for checkpoints and the end."""
        return self._outbox.flush()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or the contents of a folder, into ``folder`` of the run's artifacts."""
        upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        try:
            with store_errors(f"MLflow did not take the artifact {path}"):
                upload(self.run_id, str(path), folder)
        except KitError as error:
            _logger.warning("%s; the file itself is unharmed", error)

    def finish(self, status: RunStatus) -> None:
        """Send what waits and close the run; a later ``start`` with its id opens it again."""
        if not self.flush():
            left = len(self._outbox)
            _logger.warning(
                "%d values never reached %s; metrics.jsonl has them, a resumed run sends them", left, self.uri
            )
        try:
            with store_errors(f"cannot close MLflow run {self.run_id} at {self.uri}"):
                self._client.set_terminated(self.run_id, status)
        except KitError as error:
            _logger.warning("%s", error)

    def _points(self, step: int, metrics: Mapping[str, float], time_ms: int) -> Iterator[Point]:
        for name, value in metrics.items():
            key = self._names.get(name)
            if key is None:
                key = self._names.setdefault(name, valid_key(name))
            if step not in self._stored.get(key, ()):
                yield Point(key, step, float(value), time_ms)

    def _send(self, points: Sequence[Point]) -> None:
        """Store points; sending the same ones again is harmless, because MLflow drops exact repetitions."""
        from mlflow.entities import Metric

        with store_errors(f"the MLflow store {self.uri} does not take metrics"):
            metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in points]
            self._client.log_batch(self.run_id, metrics=metrics)

    def _describe(self, params: Mapping[str, object], tags: Mapping[str, str], known: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        named = {valid_key(key): fit_value(value) for key, value in flatten(params).items()}
        differing = sorted(key for key, value in named.items() if known.get(key, value) != value)
        if differing:
            _logger.info("MLflow run %s keeps its first values of %s", self.run_id, ", ".join(differing))
        labels = [RunTag(valid_key(key), scrub(value)[:_MAX_TAG]) for key, value in tags.items()]
        self._client.log_batch(self.run_id, tags=labels)
        fresh = iter([Param(key, value) for key, value in named.items() if key not in known])
        while batch := list(islice(fresh, _PARAMS_PER_REQUEST)):
            self._client.log_batch(self.run_id, params=batch)

    def _take_up(self, run: Run) -> None:
        """Open the run again and learn which steps it has."""
        self._client.update_run(self.run_id, status="RUNNING")
        same: dict[frozenset[int], frozenset[int]] = {}  # most metrics have the same steps: keep one set of them
        for key in run.data.metrics:
            steps = frozenset(point.step for point in self._client.get_metric_history(self.run_id, key))
            self._stored[key] = same.setdefault(steps, steps)


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


def _get_run(client: MlflowClient, run_id: str, address: str) -> Run:
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
