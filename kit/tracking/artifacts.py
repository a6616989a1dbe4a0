"""Later results of a run, such as its scores and figures, put into its MLflow run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kit.io.errors import KitError
from kit.tracking.params import valid_key
from kit.tracking.store import connect, resolve_uri, store_errors

__all__ = ["attach", "link_into", "local_folder", "run_folder_of", "track_uri"]

_logger = logging.getLogger(__name__)


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or None where it lies elsewhere."""
    folder = checkpoint.absolute().parent.parent
    return folder if (folder / "provenance.json").is_file() and (folder / "config.toml").is_file() else None


def track_uri(run: Path) -> str | None:
    """The setting ``track.uri`` of a run folder."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    found: str | None = config.get("track", {}).get("uri")
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
        run: the run folder.
        metrics: values by name; None is left out.
        figures: files that go to the artifacts' folder ``figures``.
        files: files that go beside it; one that is not there is left out.
    """
    placed = [*((path, "figures") for path in figures), *((path, None) for path in files if path.exists())]
    try:
        _attach(run.absolute(), metrics or {}, placed)
    except KitError as error:
        _logger.warning("not recorded in MLflow: %s", error)


def _attach(run: Path, metrics: Mapping[str, float | None], files: Iterable[tuple[Path, str | None]]) -> None:
    run_id = json.loads((run / "provenance.json").read_text(encoding="utf-8")).get("mlflow_run_id")
    if run_id is None:
        msg = f"{run}: the run has no MLflow run yet"
        raise KitError(msg)
    client = connect(resolve_uri(track_uri(run), run.parent), run.parent)
    from mlflow.entities import Metric

    moment = time.time_ns() // 10**6
    points = [Metric(valid_key(name), value, moment, 0) for name, value in metrics.items() if value is not None]
    with store_errors(f"MLflow run {run_id} does not take more"):
        for start in range(0, len(points), 1000):
            client.log_batch(run_id, metrics=points[start : start + 1000])
        for path, folder in files:
            client.log_artifact(run_id, str(path), folder)


# Artifacts in a store on this machine: hard links, so that a checkpoint takes its room once.


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
        source: a file or a folder.
        target: the folder that is to hold it, or its contents.

    Raises:
        OSError: the disk is full, or refuses.
    """
    files = [file for file in sorted(source.rglob("*")) if file.is_file()] if source.is_dir() else [source]
    base = source if source.is_dir() else source.parent
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
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)  # renaming a link onto another one of the same file leaves both
