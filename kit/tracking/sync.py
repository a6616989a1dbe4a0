"""A run folder's records sent to a tracking store: what never arrived, or all of it to another store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.tracking.account import begin, read_account, send_results
from kit.tracking.attach import track_uri
from kit.tracking.records import recorded
from kit.tracking.store import reach, resolve_uri
from kit.train.run_folder import RunFolder

__all__ = ["sync"]


def sync(run: Path, uri: str | None = None) -> dict[str, Any]:
    """Send what a tracking store lacks of a run; sending it again changes nothing.

    A run that goes on in another process stays open, and what it has so far is sent.

    Args:
        run: the run folder.
        uri: a tracking store, where the run is made if it lacks it; by default the one that the run began in.

    Returns:
        ``run``, ``store``, ``mlflow_run_id``, ``values`` (how many were sent), ``status``.

    Raises:
        KitError: the folder is not that of a run, or the store is away or refuses.
    """
    folder = RunFolder(run.absolute())
    account = read_account(folder)
    chosen = uri or track_uri(folder.path)
    reach(resolve_uri(chosen, folder.path.parent), folder.path.parent)
    tracker = begin(folder, account, chosen, anywhere=uri is not None)
    values = tracker.reconcile(recorded(folder))
    send_results(tracker, folder, checkpoint=account.checkpoint and account.status == "FINISHED")
    if not tracker.finish(account.status, account.ended_ms):
        msg = f"{tracker.uri} did not take all of {run}; try again when it is well: kit sync {run}"
        raise KitError(msg)
    return {
        "run": str(run),
        "store": tracker.uri,
        "mlflow_run_id": tracker.run_id,
        "values": values,
        "status": account.status or "RUNNING",
    }
