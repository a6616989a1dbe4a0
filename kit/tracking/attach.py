"""Later results of a run, such as its scores and figures, put into its MLflow run."""

from __future__ import annotations

import json
import logging
import time
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from kit.errors import KitError
from kit.tracking.params import valid_key
from kit.tracking.store import connect, resolve_uri, store_errors

__all__ = ["attach", "run_folder_of", "track_uri"]

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
