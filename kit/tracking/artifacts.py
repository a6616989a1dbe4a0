"""Artifacts of MLflow runs: later results put into a run, and hard links in a store on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kit.io.atomic import publish
from kit.io.documents import read_json, read_toml
from kit.io.errors import KitError
from kit.tracking.params import valid_key
from kit.tracking.store import connect, resolve_uri, store_errors

__all__ = ["attach", "link_into", "local_folder", "run_folder_of", "track_uri"]

_logger = logging.getLogger(__name__)

_METRICS_PER_REQUEST = 1000  # MLflow's limit


def run_folder_of(checkpoint: Path) -> Path | None:
    """Find the run folder that a checkpoint lies in; None where it lies elsewhere."""
    folder = checkpoint.absolute().parent.parent
    if (folder / "provenance.json").is_file() and (folder / "config.toml").is_file():
        return folder
    return None


def track_uri(run: Path) -> str | None:
    """Read the setting ``track.uri`` of a run folder."""
    found: str | None = read_toml(run / "config.toml").get("track", {}).get("uri")
    return found


def attach(
    run: Path,
    *,
    metrics: Mapping[str, float | None] | None = None,
    figures: Iterable[Path] = (),
    files: Iterable[Path] = (),
) -> None:
    """Add metrics and files to the MLflow run of a run folder.

    A store that is away is a warning: the files in the run folder are the result.

    Args:
        run: Run folder.
        metrics: Values by name; None is left out.
        figures: Files that go to the artifacts' folder ``figures``.
        files: Files that go beside it; one that is not there is left out.
    """
    run = run.absolute()
    try:
        run_id = read_json(run / "provenance.json").get("mlflow_run_id")
        if run_id is None:
            msg = f"{run}: the run has no MLflow run yet"
            raise KitError(msg)
        client = connect(resolve_uri(track_uri(run), run.parent), run.parent)
        from mlflow.entities import Metric

        now = time.time_ns() // 10**6
        values = metrics or {}
        points = [Metric(valid_key(name), value, now, 0) for name, value in values.items() if value is not None]
        with store_errors(f"MLflow run {run_id} does not take more"):
            for start in range(0, len(points), _METRICS_PER_REQUEST):
                client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_REQUEST])
            for figure in figures:
                client.log_artifact(run_id, str(figure), "figures")
            for file in filter(Path.exists, files):
                client.log_artifact(run_id, str(file))
    except KitError as error:
        _logger.warning("not recorded in MLflow: %s", error)


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
