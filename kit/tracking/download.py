"""Runs that only a tracking store has: their small files, and files added to them."""

import json
import re
from pathlib import Path

from kit.io.atomic import write_atomically
from kit.io.documents import MAX_BYTES
from kit.io.errors import KitError
from kit.io.secrets import scrub
from kit.tracking.store import connect, get_run, reach, resolve_uri, sqlite_path, store_errors

RUN_ID = re.compile(r"[0-9a-f]{32}")
"""Form of the ids that MLflow gives to runs."""
_FILES = ("config.toml", "provenance.json", "scores.json", "tracking.json", "trains.json", "qa.json")


def download_run(run_id: str, uri: str | None, run_dir: Path, folder: Path) -> str:
    """Fetch what a tracking store has of a run into an empty folder, as a run folder has it; no weights.

    Args:
        run_id: Id of the MLflow run.
        uri: Setting ``track.uri``.
        run_dir: Parent of the run folders.
        folder: Folder to write into.

    Returns:
        Name of the run.

    Raises:
        KitError: the store is away, or lacks the run.
    """
    address = resolve_uri(uri, run_dir)
    database = sqlite_path(address)
    # Connecting would make an empty database.
    if database is not None and not database.is_file():
        msg = f"{run_id}: there is no MLflow store {database} to look it up in; name one with --track.uri"
        raise KitError(msg)
    reach(address, run_dir)
    client = connect(address, run_dir)
    with store_errors(f"MLflow run {run_id} cannot be read from {scrub(address)}"):
        found = get_run(client, run_id, scrub(address))
        for artifact in client.list_artifacts(run_id):
            if artifact.path in _FILES and (artifact.file_size or 0) <= MAX_BYTES:
                client.download_artifacts(run_id, artifact.path, str(folder))
        lines = []
        for kind in ("train", "valid"):
            for metric in client.get_metric_history(run_id, f"{kind}/loss"):
                line = {"step": metric.step, "time_ms": metric.timestamp, "kind": kind, "loss": metric.value}
                lines.append(json.dumps(line) + "\n")
    write_atomically(folder / "metrics.jsonl", "".join(lines))
    return str(found.info.run_name)


def add_artifact(run_id: str, uri: str | None, run_dir: Path, file: Path) -> None:
    """Add a file to the artifacts of an MLflow run.

    Raises:
        KitError: the store is away, or refuses.
    """
    address = resolve_uri(uri, run_dir)
    client = connect(address, run_dir)
    with store_errors(f"MLflow run {run_id} does not take {file.name}"):
        client.log_artifact(run_id, str(file))
