"""Progress of imports, builds and downloads, and what the kit logs; on standard error.

On a terminal a bar, elsewhere a line now and then: a log that is read later has no use for a bar.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kit.cli.views.tables import bytes_text
from kit.io.progress import ProgressCallback
from kit.io.secrets import MaskedFormatter
from kit.io.terminal import error_console

_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def loading(libraries: str) -> Iterator[None]:
    """Say that something slow is being imported, and how long it took."""
    out = error_console()
    if not out.is_terminal:
        out.print(f"[dim]loading {libraries} ...[/]")
        yield
        return
    # The time is added to the same line.
    out.print(f"[dim]loading {libraries} ...[/]", end="")
    started = time.perf_counter()
    yield
    out.print(f"[dim] {time.perf_counter() - started:.1f} s[/]")


class _Screen(logging.Handler):
    """Prints log records, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        colour = "yellow" if record.levelno >= logging.WARNING else "default"
        error_console().print(f"[{colour}]{escape(self.format(record))}[/]")


def log_to_screen(level: int = logging.WARNING) -> None:
    """Show what the kit logs from this level on; the run folder's log has the rest."""
    logger = logging.getLogger("kit")
    # A command may lower the level that was set before it: no record is shown twice.
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Screen)]
    screen = _Screen(level)
    # Before it is laid out: a line's end could break a secret into two.
    screen.setFormatter(MaskedFormatter())
    logger.addHandler(screen)
    logger.setLevel(min(level, logging.INFO))


class BuildProgress:
    """Progress of a build, by blocks of the store."""

    def __init__(self, out: Console, bar: Progress | None) -> None:
        self._out = out
        self._bar = bar
        self._blocks = self._before = 0
        self._began = self._printed = -math.inf

    def begin(self, blocks: int, done: int) -> None:
        """Start, once, with the number of blocks in all and of those that were there."""
        self._blocks, self._before = blocks, done
        self._began = self._printed = time.monotonic()
        if done:
            self.say(f"goes on: {done} of {blocks} blocks were there")
        if self._bar is not None:
            self._bar.add_task("building", total=blocks, completed=done, facts="")

    def advance(self, done: int, size: int) -> None:
        """Count a block.

        Args:
            done: Number of blocks done, by whomever.
            size: Number of bytes of values that this process has written.
        """
        now = time.monotonic()
        # A clock may not have moved since the beginning.
        passed = max(now - self._began, 1e-9)
        rate = f"{bytes_text(size / passed)}/s"
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.update(task, completed=done, facts=rate)
        elif now - self._printed >= _EVERY:
            self._printed = now
            # By the blocks of this run alone: those that were there took no time of it.
            left = (self._blocks - done) * passed / max(1, done - self._before)
            self.say(f"block {done}/{self._blocks}  {rate}  {left / 60:.0f} min left")

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._out.print(escape(text), soft_wrap=True)


@contextmanager
def build_progress() -> Iterator[BuildProgress]:
    """Show the progress of a build while the block runs."""
    out = error_console()
    if not out.is_terminal:
        yield BuildProgress(out, None)
        return
    columns = (TextColumn("building"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=out) as bar:
        yield BuildProgress(out, bar)


class DownloadProgress(ProgressCallback):
    """Progress of a download, by bytes."""

    def __init__(self) -> None:
        self._out = error_console()
        self._bar: Progress | None = None
        self._name, self._total, self._printed = "", 0, 0.0

    def started(self, name: str, host: str, done: int, total: int | None) -> None:
        """Begin a bar, or go on with it after a cut."""
        self._name, self._total, self._printed = name, total or 0, time.monotonic()
        if not self._out.is_terminal:
            size = "size unknown" if total is None else bytes_text(total)
            text = f"fetching {name} ({size}) from {host}"
            if done:
                text += f", from {bytes_text(done)} on"
            self.said(text)
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._out)
            self._bar.add_task(escape(name), total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def advanced(self, done: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif time.monotonic() - self._printed >= _EVERY:
            self._printed = time.monotonic()
            text = f"{self._name}: {bytes_text(done)}"
            # Some servers do not say how much there is to come.
            if self._total:
                text += f" ({done / self._total:.0%})"
            self.said(text)

    def said(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._out.print(text, markup=False, soft_wrap=True)

    def ended(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
