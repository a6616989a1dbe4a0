"""MLflow servers for tests: one that can be stopped and come back, and one that never answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kit.tracking.store import environment

__all__ = ["Gate", "Server", "free_port", "silence"]


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
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--workers", "1", "--serve-artifacts"]
        command += ["--artifacts-destination", (self.folder / "artifacts").as_uri()]
        variables = os.environ | environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=variables, stdout=quiet, stderr=quiet, start_new_session=True)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # It imports a lot, on machines with other work too.
        for _ in range(2400):
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


class Gate:
    """An address through which a server is reached until it is shut: then nothing listens there, as when it is gone.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._listener: socket.socket | None = None
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        """Let connections through."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Break all connections, and take no more."""
        for each in [self._listener, *self._sockets]:
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                outer = listener.accept()[0]
                inner = socket.create_connection(("127.0.0.1", self._behind))
                self._sockets += [outer, inner]
                for pair in ((outer, inner), (inner, outer)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def silence() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
