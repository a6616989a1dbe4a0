"""MLflow servers for tests: one that can be stopped and come back, and one that never answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kit.tracking.store import environment

__all__ = ["Server", "free_port", "silence"]


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """``mlflow server`` on loopback, which serves artifacts too.

    Args:
        folder: of its database and artifacts.
        database: an empty one, to begin with.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder / 'server.db'}"
        shutil.copy(database, folder / "server.db")
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again at the same address."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", self.store, "--workers", "1", "--serve-artifacts"]
        command += ["--artifacts-destination", (self.folder / "artifacts").as_uri()]
        variables = os.environ | environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=variables, stdout=quiet, stderr=quiet, start_new_session=True)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            with suppress(urllib.error.URLError, OSError), opener.open(f"{self.uri}/health", timeout=5):
                return
            assert self._process.poll() is None, "mlflow server did not start"
            time.sleep(0.1)
        msg = "mlflow server does not answer"
        raise TimeoutError(msg)

    def signal(self, number: int) -> None:
        """Send a signal to the server and all its workers; after SIGKILL it is gone."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Lose it."""
        if self._process is not None:
            self.signal(9)
            self._process.wait(30)


@contextmanager
def silence() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
