"""The MLflow store that a run would record to: of this MLflow's version and not locked, or a server that answers."""

import importlib.util
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from kit.doctor.diagnosis import Diagnosis, error, ok, skipped, warning
from kit.doctor.network import Reply, reach
from kit.io.secrets import scrub
from kit.tracking.settings import TrackSettings
from kit.tracking.store import resolve_uri, sqlite_path

_NAME = "mlflow"
_REVISION = re.compile(r"^(down_revision|revision)\s*(?::[^=]*)?=\s*[\"']([0-9a-z]+)[\"']", re.MULTILINE)


@dataclass(frozen=True)
class Database:
    """An SQLite store.

    Attributes:
        path: File of the database.
        exists: Whether it is there; the first run makes it.
        trouble: Why it cannot be read; empty if it can.
        schema: Revision of its tables; None if they are not MLflow's.
        newest: Revision that the installed MLflow has; None if that cannot be told.
        locked: Whether a process has kept others from writing for a second.
    """

    path: Path
    exists: bool = True
    trouble: str = ""
    schema: str | None = None
    newest: str | None = None
    locked: bool = False


def examine_tracking(settings: TrackSettings, run_dir: Path) -> Diagnosis:
    """Look at the store that is configured.

    Args:
        settings: Address of the store; by default a database in the folder of runs.
        run_dir: Folder of runs.
    """
    uri = resolve_uri(settings.uri, run_dir)
    if database := sqlite_path(uri):
        return check_database(probe_database(database))
    if uri.startswith(("http://", "https://")):
        return check_server(uri, reach(f"{uri.rstrip('/')}/health", "GET"))
    return skipped(_NAME, f"{scrub(uri)}: neither SQLite nor an HTTP server; not looked at")


def probe_database(path: Path) -> Database:
    """Read a database's revision, and try to lock it as a writer would; changes nothing."""
    if not path.exists():
        return Database(path, exists=False)
    newest = newest_schema()
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=1.0, isolation_level=None)
    except sqlite3.Error as failure:
        return Database(path, trouble=str(failure), newest=newest)
    try:
        rows = connection.execute("select version_num from alembic_version").fetchall()
        # A writer's lock, without a change; SQLite waits for it for as long as the timeout says.
        connection.execute("begin immediate")
        connection.execute("rollback")
    except sqlite3.DatabaseError as failure:
        # No table of revisions: tables of something else.
        if "no such table" in str(failure):
            return Database(path, newest=newest)
        if isinstance(failure, sqlite3.OperationalError) and "locked" in str(failure):
            return Database(path, schema=newest, newest=newest, locked=True)
        return Database(path, trouble=str(failure), newest=newest)
    finally:
        connection.close()
    schema = str(rows[0][0]) if rows else None
    return Database(path, schema=schema, newest=newest)


def newest_schema() -> str | None:
    """Read the newest revision of MLflow's tables off the installed migrations."""
    # Importing MLflow takes 3 s.
    found = importlib.util.find_spec("mlflow")
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / "store" / "db_migrations" / "versions"
    revisions, earlier = set(), set()
    for file in folder.glob("*.py"):
        named = dict(_REVISION.findall(file.read_text(encoding="utf-8")))
        revisions.add(named.get("revision"))
        earlier.add(named.get("down_revision"))
    # The newest is the one that none comes after.
    last = revisions - earlier - {None}
    return last.pop() if len(last) == 1 else None


def check_database(database: Database) -> Diagnosis:
    """Decide whether a run can record there."""
    where = f"{database.path}"
    facts = {"schema": database.schema, "expected": database.newest}
    elsewhere = "name another one with --track.uri"
    if not database.exists:
        return ok(_NAME, f"{where}: the first run makes it", **facts)
    if database.trouble:
        remedy = f"move the file away (the next run makes a new one), mend its permissions, or {elsewhere}"
        return error(_NAME, f"{where} cannot be read and written: {database.trouble}", remedy, **facts)
    if database.locked:
        remedy = "wait for the process that writes to it, or end it; a run goes on and buffers meanwhile"
        return warning(_NAME, f"{where} is locked by another process", remedy, **facts)
    if database.schema is None:
        return error(_NAME, f"{where} is a database, but not MLflow's", elsewhere, **facts)
    if database.newest is not None and database.schema != database.newest:
        detail = f"{where} was written by another version of MLflow (tables {database.schema}, not {database.newest})"
        remedy = f"if that was an older one: back the file up, then mlflow db upgrade sqlite:///{where}; or {elsewhere}"
        return error(_NAME, detail, remedy, **facts)
    return ok(_NAME, f"{where} can be read and written", **facts)


def check_server(uri: str, reply: Reply) -> Diagnosis:
    """Decide whether a tracking server is there; a run needs it at its start."""
    shown, facts = scrub(uri), {"code": reply.code}
    # A server that does not answer at the start is most likely a wrong address, so that a run does not start without
    # it.
    if reply.code is None:
        remedy = "see the address (--track.uri or MLFLOW_TRACKING_URI), the network and proxies; a run cannot start"
        return error(_NAME, f"{shown} does not answer: {reply.message}", f"{remedy} without it", **facts)
    if reply.code in (401, 403):
        remedy = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, as it asks"
        return warning(_NAME, f"{shown} answers, and wants to know who asks ({reply.code})", remedy, **facts)
    if reply.code >= 500:
        return error(_NAME, f"{shown} answers with {reply.code}", "have the server looked at", **facts)
    if reply.code != 200:
        detail = f"{shown} answers, but has no page /health ({reply.code}): not an MLflow server, or behind a prefix"
        return warning(_NAME, detail, "see the address (--track.uri or MLFLOW_TRACKING_URI)", **facts)
    return ok(_NAME, f"{shown} answers", **facts)
