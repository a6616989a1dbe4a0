"""MLflow's web pages over the runs of one store, on this machine only."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kit.io.errors import KitError
from kit.io.retry import poll
from kit.io.secrets import scrub
from kit.tracking.store import artifact_root, environment, resolve_uri, sqlite_path

_logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_WHERE = 'runs and their curves are under "Model training", at its top left'
_START_SECONDS = 120.0
_STOP_SECONDS = 10.0


def serve(uri: str | None, run_dir: Path, port: int) -> None:
    """Serve MLflow's pages until Ctrl-C or SIGTERM.

    Args:
        uri: Tracking store; ``None`` means ``MLFLOW_TRACKING_URI`` if set, else ``run_dir/mlflow.db``.
        run_dir: Parent of the run folders.
        port: Port on the loopback address; nothing else on the network reaches it.

    Raises:
        KitError: there is no store yet, the store is a server already, the port is taken, or MLflow fails.
    """
    address = resolve_uri(uri, run_dir)
    _check(address, port)
    page = f"http://{_HOST}:{port}"
    # The server's output is kept for the message of its failure, and off the screen otherwise.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output, _sigterm_interrupts():
        server = _start(address, run_dir, port, output)
        try:
            _wait_until_ready(server, page, output)
            _logger.info("MLflow shows %s at %s (Ctrl-C ends it); %s", scrub(address), page, _WHERE)
            code = server.wait()
        except KeyboardInterrupt:
            return
        finally:
            _stop(server)
        msg = f"the MLflow server ended by itself with exit status {code}:\n{_tail(output)}"
        raise KitError(msg)


def _check(address: str, port: int) -> None:
    """Check that there is a store whose pages can be served, and that the port is free."""
    if address.startswith(("http://", "https://")):
        msg = f"{scrub(address)} is an MLflow server already: open it in a browser."
        raise KitError(msg)
    database = sqlite_path(address)
    if database is not None and not database.is_file():
        msg = (
            f"There is no MLflow store at {database} yet. Run `kit finetune` first, or name the store with "
            "track.uri, or the folder that holds it with run.dir."
        )
        raise KitError(msg)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # A port whose last server has just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            msg = f"Port {port} on {_HOST} cannot be used ({error}). Choose another one with --port."
            raise KitError(msg) from error


def _start(address: str, run_dir: Path, port: int, output: IO[str]) -> subprocess.Popen[str]:
    """Start the server in a process group of its own, so that ending it ends its workers too."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    if root := artifact_root(address, run_dir):
        command += ["--default-artifact-root", root]
    # Other users of the machine see a command line, and a database's address may hold a password.
    store = {"MLFLOW_BACKEND_STORE_URI": address, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    variables = os.environ | environment() | store
    return subprocess.Popen(command, stdout=output, stderr=output, env=variables, text=True, start_new_session=True)


def _wait_until_ready(server: subprocess.Popen[str], page: str, output: IO[str]) -> None:
    # Without the proxies of the environment: the page is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_ready() -> bool:
        if server.poll() is not None:
            msg = f"the MLflow server did not start (exit status {server.returncode}):\n{_tail(output)}"
            raise KitError(msg)
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError), opener.open(f"{page}/health", timeout=5):
            return True
        return False

    if not poll(is_ready, every=0.2, limit=_START_SECONDS):
        msg = f"the MLflow server did not answer within {_START_SECONDS:.0f} s:\n{_tail(output)}"
        raise KitError(msg)


def _stop(server: subprocess.Popen[str]) -> None:
    # The whole group: the server starts workers of its own.
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
            return


def _tail(output: IO[str], lines: int = 15) -> str:
    output.seek(0)
    return scrub("\n".join(output.read().splitlines()[-lines:]))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the server as Ctrl-C does; only a main thread may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
