"""MLflow's web pages over the runs of one store, on this machine and for its owner only.

The server runs in this very process: it ends with it, whatever ends it, and neither the token nor the password of a
database is on a command line, in a file or in another process's environment.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kit.io.documents import DocumentError, parse_json
from kit.io.errors import KitError
from kit.tracking.guard import Guard
from kit.tracking.results import CHANGED
from kit.tracking.store import artifact_root, check_driver, connect, resolve_uri, sqlite_path, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient
    from starlette.types import ASGIApp

_HOST = "127.0.0.1"
_STOP_SECONDS = 2
_EXPERIMENTS = "/#/experiments?workflowType=machine_learning"
"""Place on MLflow's page with the list of experiments."""
_PAGE = 'MLflowLocalStorage-1.1-ExperimentPage-["{}"]-ReactComponentState'
_HEADLINES = ("test/mean_skill", "test/mean_change_from_base", "valid/loss", "train/step_seconds")
"""Metrics that stand first in tables of runs."""
_MOST_PARAMETERS = 4
_MOST_RUNS = 100
"""Newest runs whose parameters are looked at."""


def serve(uri: str | None, run_dir: Path, port: int, show: Callable[[str, str], None]) -> None:
    """Serve MLflow's pages until Ctrl-C or SIGTERM.

    Args:
        uri: Tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``run_dir/mlflow.db``.
        run_dir: Parent of the run folders.
        port: Port on the loopback address; nothing else on the network reaches it.
        show: Called with the store's address and the page's, once it answers; the page's has the token, which lets
            anybody in: it is for the screen alone.

    Raises:
        KitError: there is no store yet, the store is a server already, the port is taken, or MLflow cannot open it.
    """
    address = resolve_uri(uri, run_dir)
    _check_store(address)
    with _listening(port) as listener:
        client = connect(address, run_dir)
        mlflow, index = _application(address, artifact_root(address, run_dir) or "")
        import uvicorn

        # 256 bits, of the system's own randomness.
        token = secrets.token_urlsafe()
        guard = Guard(mlflow, token, port, index, lambda: landing(client), lambda: columns(client))
        # No log: its lines would hold the addresses that were asked for. The client's address is the connection's,
        # and not what a header says.
        config = uvicorn.Config(
            guard, log_config=None, access_log=False, lifespan="off", ws="none", proxy_headers=False,
            server_header=False, timeout_graceful_shutdown=_STOP_SECONDS,
        )  # fmt: skip
        server = uvicorn.Server(config)
        show(address, f"http://{_HOST}:{port}/?token={token}")
        with suppress(KeyboardInterrupt), _closing_terminal_ends(server.handle_exit):
            server.run([listener])


def landing(client: MlflowClient) -> str:
    """Return the place on MLflow's page that compares the runs of the experiment with the newest training run."""
    from mlflow.exceptions import MlflowException

    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        newest = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    except MlflowException:
        # The page itself says what is wrong with the store.
        return _EXPERIMENTS
    if not newest:
        return _EXPERIMENTS
    return f"/#/experiments/{newest[0].info.experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


def columns(client: MlflowClient) -> dict[str, str]:
    """Choose the columns that the tables of runs begin with: headline metrics, and few parameters that differ.

    Returns:
        For each experiment the state of its page, in the form in which MLflow's page keeps it (MLflow 3.17).
    """
    from mlflow.exceptions import MlflowException

    found = {}
    try:
        for experiment in client.search_experiments():
            runs = client.search_runs([experiment.experiment_id], max_results=_MOST_RUNS)
            chosen = [f"metrics.`{name}`" for name in _HEADLINES if any(name in run.data.metrics for run in runs)]
            chosen += [f"params.`{name}`" for name in _differing(runs)]
            if chosen:
                state = {"selectedColumns": ["attributes.`Models`", *chosen]}
                found[_PAGE.format(experiment.experiment_id)] = json.dumps(state)
    except MlflowException:
        # The page itself says what is wrong with the store.
        return {}
    return found


def _differing(runs: Sequence[Run]) -> list[str]:
    """Name the parameters that some runs changed and that are not the same in all, those of the newest run first."""
    names: dict[str, None] = {}
    for run in runs:
        with suppress(DocumentError):
            changed = parse_json(run.data.tags.get(CHANGED, "{}"))
            names |= dict.fromkeys(changed if isinstance(changed, dict) else ())
    return [name for name in names if len({run.data.params.get(name) for run in runs}) > 1][:_MOST_PARAMETERS]


def _check_store(address: str) -> None:
    """Check that there is a store whose pages can be served."""
    if address.startswith(("http://", "https://")):
        msg = f"{address} is an MLflow server already: open it in a browser."
        raise KitError(msg)
    check_driver(address)
    database = sqlite_path(address)
    if database is not None and not database.is_file():
        msg = (
            f"There is no MLflow store at {database} yet. Run `kit finetune` first, or name the store with "
            "track.uri, or the folder that holds it with run.dir."
        )
        raise KitError(msg)


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """Take the port, before the seconds that MLflow needs to start."""
    # With its protocol named: asyncio turns Nagle's algorithm off for such sockets alone, and with it each answer takes
    # 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        # A port whose last server has just ended is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
            listener.listen()
        except (OSError, OverflowError) as error:
            msg = f"Port {port} on {_HOST} cannot be used ({error}). Choose another one with --port."
            raise KitError(msg) from error
        yield listener


@contextmanager
def _closing_terminal_ends(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """End the server with its terminal as uvicorn itself ends with SIGINT and SIGTERM; only a main thread may do so."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGHUP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _application(address: str, artifacts: str) -> tuple[ASGIApp, str]:
    """Load MLflow's server over a store.

    Args:
        address: Address of the store.
        artifacts: Address of the artifacts of new experiments.

    Returns:
        Its application, and the HTML of its page.

    Raises:
        KitError: MLflow cannot open the store.
    """
    # What `mlflow server` hands to its workers, in its own words; they have to be there before the import.
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": address,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.server import REL_STATIC_DIR, handlers
        from mlflow.server.fastapi_app import app
    # What goes wrong in a request is answered with, and stays off the screen.
    for name in ("uvicorn", "asyncio", "huey"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with store_errors("MLflow cannot open its store"):
        handlers.initialize_backend_stores(address, address, artifacts)
    page = Path(handlers.__file__).parent / REL_STATIC_DIR / "index.html"
    return app, page.read_text(encoding="utf-8")
