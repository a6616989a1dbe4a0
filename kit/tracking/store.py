"""MLflow stores: their addresses, clients, experiments, runs and files, without MLflow's own noise."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kit.io.atomic import publish
from kit.io.errors import KitError
from kit.io.locks import LockHandle, take
from kit.io.retry import poll
from kit.io.secrets import remember, scrub

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_LOCK_SECONDS = 120
_REMOTE = ("http://", "https://", "databricks")
_ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    # The end of a run prints its address otherwise, with the password that track.uri may hold.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# MLflow itself keeps trying for minutes; our buffer outlives a store that is away for a while.
_UNLESS_SET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

_DATABASES = ("postgresql", "mysql", "mssql")
"""Databases that MLflow knows beside SQLite."""
_FORM = "DATABASE://USER:PASSWORD@HOST/NAME, with / @ : # ? % in the password written as %2F %40 %3A %23 %3F %25"
# Packages to install whose name is not that of their module.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}

# Words of urllib3, requests and MLflow, and what they mean to a person.
_MEANINGS = {
    "NewConnectionError": "nothing listens there",
    "NameResolutionError": "there is no machine of that name",
    "Read timed out": "it does not answer",
    "ConnectTimeoutError": "it does not answer",
    "Connection reset by peer": "it broke the connection off",
    "RemoteDisconnected": "it broke the connection off",
    "error code 401": "it refuses without a user's name and password (401)",
    "error code 403": "it refuses this user (403)",
}


def resolve_uri(uri: str | None, run_dir: Path) -> str:
    """Return the tracking URI in force.

    Args:
        uri: Setting ``track.uri``; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else the default.
        run_dir: Parent of the run folders; the default store is ``mlflow.db`` in it.
    """
    address = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{run_dir.absolute() / 'mlflow.db'}"
    remember(address)
    return address


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of an SQLite URI, or ``None`` for any other URI."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def check_driver(uri: str) -> None:
    """Check that the package is installed through which a database is spoken to; other addresses need none.

    Raises:
        KitError: it is missing, or there is no such package; names it.
    """
    if uri.partition(":")[0].partition("+")[0] not in _DATABASES:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    msg = None
    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        module = error.name or str(error)
        package = _PACKAGES.get(module, module)
        msg = f'{scrub(uri)}: needs the package {package}, which is not installed: pip install "{package}"'
    except ArgumentError as error:
        msg = f"{scrub(uri)}: not the address of a database ({scrub(str(error))}); expected {_FORM}"
    if msg is not None:
        # Without what it came from, which repeats the address.
        raise KitError(msg)


def artifact_root(uri: str, run_dir: Path) -> str | None:
    """Return the address of artifacts: in the database's folder, else in ``run_dir``; ``None`` if a server decides."""
    if uri.startswith(_REMOTE):
        return None
    folder = (sqlite_path(uri) or run_dir.absolute() / "mlflow.db").parent
    return (folder / "mlartifacts").as_uri()


def environment() -> dict[str, str]:
    """Return the variables MLflow must see before it is imported: no telemetry, no logging of its own."""
    return {name: value for name, value in _UNLESS_SET.items() if name not in os.environ} | _ALWAYS


def connect(uri: str, run_dir: Path) -> MlflowClient:
    """Open a client on a store, creating the database of an SQLite store that does not exist yet.

    Importing MLflow takes 3 s, a new database another 3 s.

    Raises:
        KitError: the store cannot be reached, a package for it is missing, or its database was written by another
            version of MLflow.
    """
    check_driver(uri)
    # MLflow, its migrations and its dependencies' deprecations stay off the user's screen; what fails is raised.
    os.environ.update(environment())
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        database = sqlite_path(uri)
        with store_errors(f"cannot open the MLflow store {scrub(uri)}"):
            if database is not None and not database.exists():
                _create_database(database, artifact_root(uri, run_dir) or "")
            return MlflowClient(uri)


def reach(uri: str, run_dir: Path) -> None:
    """Check that a server answers, before a run spends any time; a database is opened when it is needed.

    Raises:
        KitError: the server does not answer, or refuses; the package that a database needs is missing.
    """
    check_driver(uri)
    if not uri.startswith(_REMOTE):
        return
    client = connect(uri, run_dir)
    local = f"sqlite:///{run_dir / 'mlflow.db'}"
    try:
        with store_errors(f"cannot reach the MLflow server {scrub(uri)}"):
            client.search_experiments(max_results=1)
    except KitError as error:
        msg = (
            f"{error}. Start it, correct track.uri or MLFLOW_TRACKING_URI, or record here with --track.uri {local}: "
            "kit sync sends runs to a server later. MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are for a "
            "server that asks who you are."
        )
        raise KitError(msg) from error


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn MLflow's failures into a ``KitError`` that begins with ``what``."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # an HTTP status of an artifact is an OSError
        # SQLAlchemy appends the whole statement and its values.
        reason = str(error).partition("\n[SQL:")[0]
        reason = next((meaning for words, meaning in _MEANINGS.items() if words in str(error)), reason)
        msg = f"{what}: {scrub(reason).removesuffix('.')}"
        raise KitError(msg) from error


def _create_database(database: Path, artifacts: str) -> None:
    """Create a database under another name, then rename it: a kill leaves either none or a whole one.

    MLflow makes its tables in some seventy migrations; one that is cut short cannot be taken up again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    file = database.with_name(f"{database.name}.lock")
    lock: LockHandle | None = None

    def is_locked() -> bool:
        nonlocal lock
        lock = take(file)
        return lock is not None

    if not poll(is_locked, every=0.05, limit=_LOCK_SECONDS) or lock is None:
        msg = (
            f"{file} has been locked for {_LOCK_SECONDS} s by another process that creates the MLflow database. "
            "Wait for it or end it, then start again."
        )
        raise KitError(msg)
    try:
        # Another process may have been faster.
        if not database.exists():
            draft = database.with_name(f"{database.name}.creating")
            draft.unlink(missing_ok=True)
            _logger.info("creating the MLflow database %s", database)
            store = SqlAlchemyStore(f"{_SQLITE}{draft}", artifacts)  # type: ignore[no-untyped-call]
            store.engine.dispose()
            publish(draft, database)
    finally:
        lock.release()


# Experiments and runs in a store: found, or made.

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
        client: Client of the store.
        experiment: Name of the experiment; made when the store lacks it.
        artifacts: Place of a new experiment's artifacts; None leaves that to the server.
        name: Name of the run.
        run_key: Text that marks the run.
        started_ms: Start of the run in milliseconds since 1970-01-01 UTC; by default now.

    Raises:
        KitError: the experiment was deleted.
        MlflowException: the store does not answer.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            made = client.create_experiment(experiment, artifact_location=artifacts, tags=_EXPERIMENT_TAGS)
            found = client.get_experiment(made)
        except MlflowException:
            # Another process may have made it meanwhile.
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        msg = (
            f"MLflow experiment {experiment!r} was deleted. Restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or set track.experiment to another name."
        )
        raise KitError(msg)
    tags = {}
    if run_key is not None:
        tags[_KEY_TAG] = run_key
        runs = client.search_runs([found.experiment_id], f"tags.`{_KEY_TAG}` = '{run_key}'", max_results=1)
        if runs:
            return runs[0]
    return client.create_run(found.experiment_id, start_time=started_ms, run_name=name, tags=tags)


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


# Artifacts in a store on this machine.


def local_folder(uri: str) -> Path | None:
    """Return the folder of a run's artifacts, or ``None`` where they are not on this machine."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    return Path(url2pathname(parts.path))


def link_into(source: Path, target: Path) -> None:
    """Make the files of a folder appear in another one, without taking room twice.

    A hard link stays whole when the run folder is deleted, and costs nothing; between two disks, or where a disk has
    no such links, files are copied. A checkpoint's files are never written to again: a new one has new files.

    Args:
        source: File or folder.
        target: Folder that is to hold it, or its contents.

    Raises:
        OSError: the disk is full, or refuses.
    """
    base, files = source.parent, [source]
    if source.is_dir():
        base, files = source, sorted(filter(Path.is_file, source.rglob("*")))
    for file in files:
        place = target / file.relative_to(base)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.part")
        part.unlink(missing_ok=True)
        try:
            try:
                os.link(file, part)
            except OSError:
                shutil.copyfile(file, part)
            publish(part, place)
        finally:
            # rename(2) does nothing where both names are links of one file: the first name stays, too.
            part.unlink(missing_ok=True)
