"""Writer of one MLflow run: each metric in it exactly once, whatever happens to the process or to the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kit.io.errors import KitError
from kit.io.secrets import scrub
from kit.tracking.datasets import Fields, dataset_inputs
from kit.tracking.outbox import Outbox, Point, in_time
from kit.tracking.params import fit_value, flatten, valid_key
from kit.tracking.store import (
    MissingRunError,
    artifact_root,
    connect,
    get_run,
    link_into,
    local_folder,
    make_run,
    resolve_uri,
    store_errors,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

_FLUSH_SECONDS = 5.0
_CLOSE_SECONDS = 30.0
"""How long the end of a run waits for a store that does not answer."""
_PARAMS_PER_REQUEST = 100  # MLflow's limit
_MANY = 50_000
"""Points that wait while many records are read, before they are sent."""
_MAX_TAG = 8000  # MLflow's limit, in characters
_NOTE = "mlflow.note.content"
_LATER = "models and later scores"


class MetricRecord(NamedTuple):
    """Metrics of one step, as a line of ``metrics.jsonl`` holds them."""

    step: int
    metrics: Mapping[str, float]
    time_ms: int
    """Milliseconds since 1970-01-01 UTC."""


class _Description(NamedTuple):
    """Facts that the store is to have of a run."""

    params: Mapping[str, object]
    tags: Mapping[str, str]
    datasets: Sequence[Fields]


class Tracker:
    """Writer of one MLflow run. Make one with ``start``.

    Once started, trouble with the store never ends a training run: it is a warning, values wait in memory,
    and ``reconcile`` sends at the next resume what never arrived. The caller writes a record to
    ``metrics.jsonl`` before it calls ``log``, so that the file always holds at least what MLflow holds.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, uri: str, description: _Description, folder: Path | None
    ) -> None:
        self._client = client
        self.run_id = run_id
        """MLflow's id of the run."""
        self.uri = scrub(uri)
        """The store's address, without credentials: fit for the screen."""
        self._description = description
        self._folder = folder
        self._joined = False
        self._artifacts: Path | None = None
        self._lost = False
        self._unsent: list[str] = []
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
        datasets: Sequence[Fields] = (),
        run_id: str | None = None,
        run_key: str | None = None,
        folder: Path | None = None,
        started_ms: int | None = None,
    ) -> Tracker:
        """Start a run, or go on with one.

        Args:
            uri: Tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``run_dir/mlflow.db``.
            run_dir: Parent of the run folders.
            experiment: Name of the experiment; made when the store lacks it.
            run_name: Name that MLflow shows; need not be unique.
            params: Resolved settings, nested or flat; secrets are left out. A parameter that a reopened
                run has already keeps its first value.
            tags: Tags, set at every start, but for the description, which a person may have changed.
            datasets: Data sets that the run reads, in MLflow's fields.
            run_id: Run to go on with. A store that is away is a warning then: everything waits until it answers.
            run_key: Random text that the caller wrote into the run folder before its first call. Without
                ``run_id``, the run of the experiment that carries this key is taken up, if there is one: a
                process killed between the making of the run and the saving of its id leaves no second run.
            folder: Run folder, from which ``kit sync`` can send what does not arrive.
            started_ms: Start of a new run in milliseconds since 1970-01-01 UTC; by default now.

        Raises:
            MissingRunError: the store lacks run ``run_id``.
            KitError: the store cannot be opened or refuses the run.
        """
        # A run that goes on may start without its store; a new one has no id without it.
        address = resolve_uri(uri, run_dir)
        client = connect(address, run_dir)
        description = _Description(params, tags, datasets)
        if run_id is not None:
            tracker = cls(client, run_id, address, description, folder)
            try:
                with store_errors(f"the MLflow store {tracker.uri} is away"):
                    tracker._join(get_run(client, run_id, tracker.uri))
            except MissingRunError:
                raise
            except KitError as error:
                _logger.warning("%s; the run goes on, and what there is to tell waits", error)
            return tracker
        with store_errors(f"cannot start a run in the MLflow store {scrub(address)}"):
            root = artifact_root(address, run_dir)
            run = make_run(client, experiment, root, run_name, run_key, started_ms)
            tracker = cls(client, run.info.run_id, address, description, folder)
            tracker._join(run)
        return tracker

    def log(self, step: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """Record the metrics of a step, unless MLflow has them from before a crash.

        Takes microseconds: sending happens in the background, every few seconds. NaN stays NaN; MLflow
        shows an infinite value as the largest finite one.

        Args:
            step: Optimiser step, counted through all resumes.
            metrics: Value per name, such as ``loss/2t``.
            time_ms: Milliseconds since 1970-01-01 UTC.
        """
        self._outbox.put(self._points(step, metrics, time_ms))

    def reconcile(self, records: Iterable[MetricRecord]) -> int:
        """Send what an earlier process recorded but MLflow never got; return how many values that were.

        Call it once after ``start``, with all records left in ``metrics.jsonl`` after it was cut back to the
        checkpoint. Steps that are computed again afterwards are skipped by ``log`` where MLflow has them.

        Args:
            records: Records in the order of the file.
        """
        seen: set[tuple[str, int]] = set()
        sending = self._joined
        for record in records:
            missing = [point for point in self._points(*record) if (point.key, point.step) not in seen]
            seen.update((point.key, point.step) for point in missing)
            self._outbox.put(missing)
            if sending and len(self._outbox) >= _MANY:
                sending = self.flush()
        if sending:
            self.flush()
        return len(seen)

    def flush(self, seconds: float | None = None) -> bool:
        """Send everything that waits, for at most so many seconds; return whether the store took it."""
        return self._outbox.flush(seconds)

    def send_soon(self) -> None:
        """Send what waits, in the background; for checkpoints, which wait for no server."""
        self._outbox.send_soon()

    def artifact(self, path: Path, folder: str | None = None, *, link: bool = False) -> None:
        """Copy a file, or the contents of a folder, into ``folder`` of the run's artifacts.

        Once the store does not answer, no further one is tried: the end of a run waits for it once, not for each file.

        Args:
            path: File, or folder.
            folder: Folder among the artifacts; by default their root.
            link: Whether to make hard links where the store is on this disk; for large files that never change.
        """
        if not self._lost:
            try:
                with store_errors(f"MLflow did not take the artifact {path}"):
                    if link and self._artifacts is not None:
                        link_into(path, self._artifacts / (folder or ""))
                    elif path.is_dir():
                        self._client.log_artifacts(self.run_id, str(path), folder)
                    else:
                        self._client.log_artifact(self.run_id, str(path), folder)
                return
            except KitError as error:
                _logger.warning("%s; the file itself is unharmed", error)
                # Refused or away? Only a store that answers is asked to take the next file.
                self._lost = not self._within(lambda: self._client.get_run(self.run_id))
        self._unsent.append(folder or path.name)

    def add(self, call: Callable[[MlflowClient], None]) -> None:
        """Tell the store something more of the run, unless it does not answer; a failure is a warning.

        Args:
            call: Function that is given the client; raises ``KitError`` where the store refuses.
        """
        if not self._lost:
            if self._within(lambda: call(self._client)):
                return
            # Refused or away? Only a store that answers is asked to take the next one.
            self._lost = not self._within(lambda: self._client.get_run(self.run_id))
        if _LATER not in self._unsent:
            self._unsent.append(_LATER)

    def flush_at_end(self) -> None:
        """Send what waits before the files of a run that ends; without an answer, the files are not tried."""
        self._lost = not self.flush(_CLOSE_SECONDS)

    def finish(self, status: RunStatus | None, ended_ms: int | None = None) -> bool:
        """Send what waits and close the run; a later ``start`` with its id opens it again.

        Args:
            status: Outcome of the run; None leaves it open.
            ended_ms: End of the run in milliseconds since 1970-01-01 UTC; by default now.

        Returns:
            Whether the store has everything.
        """
        if not self._lost:
            self.flush_at_end()
        if not self._lost and status is not None:
            self._lost = not self._within(lambda: self._client.set_terminated(self.run_id, status, ended_ms))
        missing: list[str] = []
        values = len(self._outbox) + self._outbox.left_out
        if values:
            missing.append(f"{values:,} values")
        if self._unsent:
            missing.append(", ".join(self._unsent))
        if self._lost and not missing:
            missing.append("how it ended")
        if not missing:
            return True
        where = f"{self._folder} has them; kit sync {self._folder} sends them" if self._folder else "they are lost"
        _logger.warning("%s never got of run %s: %s; %s", self.uri, self.run_id, " and ".join(missing), where)
        return False

    def _within(self, call: Callable[[], object]) -> bool:
        """Call the store; return whether it did in time what it was asked for."""

        def ask() -> bool:
            try:
                with store_errors(f"the MLflow store {self.uri} does not take run {self.run_id}"):
                    call()
            except KitError as error:
                _logger.warning("%s", error)
                return False
            return True

        return in_time(ask, _CLOSE_SECONDS)

    def _points(self, step: int, metrics: Mapping[str, float], time_ms: int) -> Iterator[Point]:
        for name, value in metrics.items():
            # Valid names are kept: a run logs the same ones at every step.
            if name not in self._names:
                self._names[name] = valid_key(name)
            key = self._names[name]
            if step not in self._stored.get(key, ()):
                yield Point(key, step, float(value), time_ms)

    def _send(self, points: Sequence[Point]) -> None:
        """Store points; sending the same ones again is harmless, because MLflow drops exact repetitions."""
        from mlflow.entities import Metric

        with store_errors(f"the MLflow store {self.uri} does not take metrics"):
            if not self._joined:
                self._join(get_run(self._client, self.run_id, self.uri))
            # Points may have been put before it was known which steps the run has.
            new = [point for point in points if point.step not in self._stored.get(point.key, ())]
            metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in new]
            self._client.log_batch(self.run_id, metrics=metrics)

    def _join(self, run: Run) -> None:
        """Describe the run to the store, open it again, and learn which steps it has."""
        self._describe(run)
        # A new run has no history to ask for.
        if run.data.metrics or run.info.status != "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
            # Most metrics have the same steps: one set of them is kept.
            same: dict[frozenset[int], frozenset[int]] = {}
            for key in run.data.metrics:
                steps = frozenset(point.step for point in self._client.get_metric_history(self.run_id, key))
                self._stored[key] = same.setdefault(steps, steps)
        self._artifacts = local_folder(run.info.artifact_uri)
        self._joined = True

    def _describe(self, run: Run) -> None:
        from mlflow.entities import Param, RunTag

        params, tags, datasets = self._description
        # A person may have rewritten the description on MLflow's page.
        kept = {_NOTE} & run.data.tags.keys()
        labels = [RunTag(valid_key(key), scrub(tags[key])[:_MAX_TAG]) for key in tags if key not in kept]
        known = run.data.params
        values = {valid_key(key): fit_value(text) for key, text in flatten(params).items()}
        fresh = [Param(name, value) for name, value in values.items() if name not in known]
        # MLflow refuses to change a parameter.
        differing = [name for name, value in values.items() if known.get(name, value) != value]
        if differing:
            _logger.info("MLflow run %s keeps its first values of %s", self.run_id, ", ".join(sorted(differing)))
        self._client.log_batch(self.run_id, tags=labels)
        for start in range(0, len(fresh), _PARAMS_PER_REQUEST):
            self._client.log_batch(self.run_id, params=fresh[start : start + _PARAMS_PER_REQUEST])
        inputs = dataset_inputs(datasets, run.inputs.dataset_inputs if run.inputs else ())
        if inputs:
            self._client.log_inputs(self.run_id, inputs)
