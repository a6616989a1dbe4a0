"""One MLflow run, each metric in it exactly once, whatever happens to the process or to the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kit.io.errors import KitError
from kit.io.secrets import scrub
from kit.tracking.artifacts import link_into, local_folder
from kit.tracking.outbox import Outbox, Point
from kit.tracking.params import fit_value, flatten, valid_key
from kit.tracking.store import MissingRunError, artifact_root, connect, get_run, make_run, resolve_uri, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["MissingRunError", "MetricRecord", "RunStatus", "Tracker"]

_logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

_FLUSH_SECONDS = 5.0
_CLOSE_SECONDS = 30.0
"""How long the end of a run waits for a store that does not answer."""
_PARAMS_PER_REQUEST = 100
_MANY = 50_000
_MAX_TAG = 8000
_NOTE = "mlflow.note.content"


class MetricRecord(NamedTuple):
    """What one line of ``metrics.jsonl`` holds."""

    step: int
    metrics: Mapping[str, float]
    time_ms: int
    """Milliseconds since 1970-01-01 UTC."""


class _Description(NamedTuple):
    params: Mapping[str, object]
    tags: Mapping[str, str]
    dataset: Mapping[str, str] | None


class Tracker:
    """Writes one MLflow run. Make one with ``start``.

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
        dataset: Mapping[str, str] | None = None,
        run_id: str | None = None,
        run_key: str | None = None,
        folder: Path | None = None,
        started_ms: int | None = None,
    ) -> Tracker:
        """Start a run, or go on with one.

        Args:
            uri: tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``run_dir/mlflow.db``.
            run_dir: parent of the run folders.
            experiment: made when the store lacks it.
            run_name: shown in MLflow; need not be unique.
            params: the resolved settings, nested or flat; secrets are left out. A parameter that a reopened
                run has already keeps its first value.
            tags: set anew at every start, but for the description, which a person may have changed.
            dataset: what the run reads: MLflow's fields of a data set.
            run_id: go on with this run. A store that is away is a warning then: everything waits until it answers.
            run_key: a random text that the caller wrote into the run folder before its first call. Without
                ``run_id``, the run of the experiment that carries this key is taken up, if there is one: a
                process killed between the making of the run and the saving of its id leaves no second run.
            folder: the run folder, from which ``kit sync`` can send what does not arrive.
            started_ms: when a new run began, in milliseconds since 1970-01-01 UTC; by default now.

        Raises:
            MissingRunError: the store lacks run ``run_id``.
            KitError: the store cannot be opened or refuses the run.
        """
        address = resolve_uri(uri, run_dir)
        client = connect(address, run_dir)
        description = _Description(params, tags, dataset)
        if run_id is not None:
            tracker = cls(client, run_id, address, description, folder)
            tracker._try_to_join()
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
            step: optimiser step, counted through all resumes.
            metrics: value per name, such as ``loss/2t``.
            time_ms: milliseconds since 1970-01-01 UTC.
        """
        self._outbox.put(self._points(step, metrics, time_ms))

    def reconcile(self, records: Iterable[MetricRecord]) -> int:
        """Send what an earlier process recorded but MLflow never got; return how many values that were.

        Call it once after ``start``, with all records left in ``metrics.jsonl`` after it was cut back to the
        checkpoint. Steps that are computed again afterwards are skipped by ``log`` where MLflow has them.

        Args:
            records: in the order of the file.
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
            path: what to copy.
            folder: where to; by default the artifacts' root.
            link: in a store on this disk, make hard links instead; for large files that never change.
        """
        if not self._lost:
            try:
                with store_errors(f"MLflow did not take the artifact {path}"):
                    self._put(path, folder, link=link)
                return
            except KitError as error:
                _logger.warning("%s; the file itself is unharmed", error)
                self._lost = not self._within(lambda: self._client.get_run(self.run_id))
        self._unsent.append(folder or path.name)

    def _put(self, path: Path, folder: str | None, *, link: bool) -> None:
        if link and self._artifacts is not None:
            link_into(path, self._artifacts / (folder or ""))
            return
        upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        upload(self.run_id, str(path), folder)

    def settle(self) -> None:
        """Send what waits before the artifacts of a run that ends; without an answer, they are not tried."""
        self._lost = not self.flush(_CLOSE_SECONDS)

    def finish(self, status: RunStatus | None, ended_ms: int | None = None) -> bool:
        """Send what waits and close the run; a later ``start`` with its id opens it again.

        Args:
            status: how it ended; None leaves it open.
            ended_ms: when, in milliseconds since 1970-01-01 UTC; by default now.

        Returns:
            Whether the store has everything.
        """
        if not self._lost:
            self.settle()
        if not self._lost and status is not None:
            self._lost = not self._within(lambda: self._client.set_terminated(self.run_id, status, ended_ms))
        values = len(self._outbox) + self._outbox.left_out
        missing = [f"{values:,} values"] if values else []
        missing += [", ".join(self._unsent)] if self._unsent else []
        missing += ["how it ended"] if self._lost and not missing else []
        if missing:
            where = f"{self._folder} has them; kit sync {self._folder} sends them" if self._folder else "they are lost"
            _logger.warning("%s never got of run %s: %s; %s", self.uri, self.run_id, " and ".join(missing), where)
        return not missing

    def _within(self, call: Callable[[], object]) -> bool:
        """Whether the store did what it was asked for in time."""
        done: list[bool] = []

        def ask() -> None:
            try:
                with store_errors(f"the MLflow store {self.uri} does not take run {self.run_id}"):
                    call()
                done.append(True)
            except KitError as error:
                _logger.warning("%s", error)

        thread = threading.Thread(target=ask, name="tracking", daemon=True)
        thread.start()
        thread.join(_CLOSE_SECONDS)
        return bool(done)

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
            if not self._joined:
                self._join(get_run(self._client, self.run_id, self.uri))
            # Those that were put before it was known what the run has.
            new = [point for point in points if point.step not in self._stored.get(point.key, ())]
            metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in new]
            self._client.log_batch(self.run_id, metrics=metrics)

    def _try_to_join(self) -> None:
        try:
            with store_errors(f"the MLflow store {self.uri} is away"):
                self._join(get_run(self._client, self.run_id, self.uri))
        except MissingRunError:
            raise
        except KitError as error:
            _logger.warning("%s; the run goes on, and what there is to tell waits", error)

    def _join(self, run: Run) -> None:
        """Say what the run is, and learn which steps it has."""
        self._describe(run)
        if run.data.metrics or run.info.status != "RUNNING":
            self._take_up(run)
        self._artifacts = local_folder(run.info.artifact_uri)
        self._joined = True

    def _describe(self, run: Run) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param, RunTag

        params, tags, dataset = self._description
        known = run.data.params
        named = {valid_key(key): fit_value(value) for key, value in flatten(params).items()}
        differing = sorted(key for key, value in named.items() if known.get(key, value) != value)
        if differing:
            _logger.info("MLflow run %s keeps its first values of %s", self.run_id, ", ".join(differing))
        kept = {_NOTE} & run.data.tags.keys()
        labels = [RunTag(valid_key(key), scrub(tags[key])[:_MAX_TAG]) for key in tags if key not in kept]
        self._client.log_batch(self.run_id, tags=labels)
        fresh = iter([Param(key, value) for key, value in named.items() if key not in known])
        while batch := list(islice(fresh, _PARAMS_PER_REQUEST)):
            self._client.log_batch(self.run_id, params=batch)
        if dataset and not (run.inputs and run.inputs.dataset_inputs):
            self._client.log_inputs(self.run_id, [DatasetInput(Dataset(**dataset))])

    def _take_up(self, run: Run) -> None:
        """Open the run again and learn which steps it has."""
        self._client.update_run(self.run_id, status="RUNNING")
        same: dict[frozenset[int], frozenset[int]] = {}  # most metrics have the same steps: keep one set of them
        for key in run.data.metrics:
            steps = frozenset(point.step for point in self._client.get_metric_history(self.run_id, key))
            self._stored[key] = same.setdefault(steps, steps)
