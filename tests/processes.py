"""Python processes of their own that have imported PyTorch and Aurora at their start.

The import takes a processor many seconds, and a suite starts tens of processes. These are forked, as
``multiprocessing`` does it, from one clean server that has imported the kit and has done nothing else: nothing of the
tests' own process reaches them but its variables and its folder. A test of how a process begins (imports, ``python
-m``, variables that are read when it is loaded) starts a Python anew instead.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kit.tracking.store import environment

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

__all__ = ["Python", "run"]

# With what a run imports only when it comes to it.
_IMPORTED = (
    "kit.cli.commands.runs",
    "kit.run.finetune",
    "kit.verification.scorecard",
    "mlflow.store.tracking.sqlalchemy_store",
)
_server = multiprocessing.get_context("forkserver")


class Python:
    """A process that runs some code as ``python -c CODE ARGUMENTS`` does.

    Args:
        code: of the main module.
        arguments: from ``sys.argv[1]`` on.
        output: a file that takes standard output; standard error goes to one beside it, with the suffix ``.err``.
        variables: of the environment, beside the present ones.
    """

    def __init__(
        self, code: str, *arguments: str, output: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        _start_server()
        given = (code, arguments, output, {**os.environ, **(variables or {})}, Path.cwd())
        # As a daemon, so that a test that fails leaves nothing to wait for.
        self._process: ForkServerProcess = _server.Process(target=_main, args=given, daemon=True)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit status, the negative number of a signal that ended it, or ``None`` if it still runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 250) -> int:
        """Wait for the end, and return as ``poll`` does."""
        self._process.join(seconds)
        status = self.poll()
        assert status is not None, f"it still runs after {seconds:g} s"
        return status

    def send_signal(self, signum: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signum)


def run(code: str, *arguments: str, variables: Mapping[str, str], folder: Path) -> str:
    """Run code in a process that must end well, and return what it prints.

    Args:
        code: of the main module.
        arguments: from ``sys.argv[1]`` on.
        variables: of the environment, beside the present ones.
        folder: where its output is kept.
    """
    output = folder / "stdout.txt"
    status = Python(code, *arguments, output=output, variables=variables).wait()
    assert status == 0, output.with_suffix(".err").read_text(encoding="utf-8")
    return output.read_text(encoding="utf-8")


def _start_server() -> None:
    """Start it if it does not run; MLflow reads some variables when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        _server.set_forkserver_preload([*_IMPORTED])
        forkserver.ensure_running()


def _main(
    code: str, arguments: tuple[str, ...], output: Path | None, variables: Mapping[str, str], folder: Path
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    os.chdir(folder)
    if output is not None:
        for descriptor, path in ((1, output), (2, output.with_suffix(".err"))):
            with path.open("wb") as file:
                os.dup2(file.fileno(), descriptor)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})  # noqa: S102
