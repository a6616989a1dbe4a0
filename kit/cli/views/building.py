"""What people see of building and verifying stores; on standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kit.cli.views.console import bytes_text, show_facts
from kit.io.terminal import duration, error_console

__all__ = ["BuildProgress", "build_progress", "show_estimate", "show_verification"]

_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""
_SHOWN = 20
"""Files that are named; ``--json`` names all."""


class BuildProgress:
    """Shows how a build goes: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, bar: Progress | None) -> None:
        self._out = error_console()
        self._bar = bar
        self._blocks = self._before = 0
        self._began = self._told = -math.inf

    def begin(self, blocks: int, done: int) -> None:
        """Told once: blocks in all, and those that were there."""
        self._blocks, self._before = blocks, done
        self._began = self._told = time.monotonic()
        if done:
            self.say(f"goes on: {done} of {blocks} blocks were there")
        if self._bar is not None:
            self._bar.add_task("building", total=blocks, completed=done, facts="")

    def advance(self, done: int, size: int) -> None:
        """Told after a block: blocks done, by whomever, and bytes of values that this process has written."""
        now = time.monotonic()
        passed = max(now - self._began, 1e-9)
        rate = f"{bytes_text(size / passed)}/s"
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.update(task, completed=done, facts=rate)
        elif now - self._told >= _EVERY:
            self._told = now
            left = (self._blocks - done) * passed / max(1, done - self._before)
            self.say(f"block {done}/{self._blocks}  {rate}  {left / 60:.0f} min left")

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        (self._bar.console if self._bar else self._out).print(escape(text), soft_wrap=True)


@contextmanager
def build_progress() -> Iterator[BuildProgress]:
    """Show the progress of a build while the block runs."""
    out = error_console()
    if not out.is_terminal:
        yield BuildProgress(None)
        return
    columns = (TextColumn("building"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=out) as bar:
        yield BuildProgress(bar)


def show_estimate(result: Mapping[str, Any]) -> None:
    """Show what a build will take."""
    measured = result["ratio"] is not None
    facts = {
        "states": f"{result['states']:,}" + (f" in {result['blocks']:,} blocks" if measured else ""),
        "values": f"{result['gb_raw']:.4g} GB in float32",
        "on disk": f"{result['gb_disk']:.4g} GB ({result['ratio']:.0%} of that, on the slice)"
        if measured
        else "less than that; known once the data are here",
        "free": f"{result['gb_free']:.4g} GB: {'fits' if result['fits'] else 'does not fit'}",
        "requests": "not told by the source" if result["requests"] is None else f"{result['requests']:,}",
        "download": "not told by the source" if result["gb_download"] is None else f"{result['gb_download']:.4g} GB",
    }
    if measured:
        facts |= {
            "time": f"{duration(3600 * result['hours'])} by {result['workers']} threads",
            "measured on": f"{result['slice_states']} states, {result['slice_seconds']:.3g} s in one thread",
        }
    show_facts("A build would take (nothing is written)", facts)


def show_verification(result: Mapping[str, Any]) -> None:
    """Show which files are not as they were written."""
    out = error_console()
    for problem in result["problems"][:_SHOWN]:
        out.print(f"[red]{escape(problem['file'])}[/] {escape(problem['problem'])}", soft_wrap=True)
    if len(result["problems"]) > _SHOWN:
        out.print(f"and {len(result['problems']) - _SHOWN} more; --json names all")
    verdict = "[green]as it was written[/]" if result["passed"] else f"[red]{len(result['problems'])} problems[/]"
    out.print(f"{escape(result['store'])}: {verdict}; {result['files']} files, {bytes_text(result['bytes'])} read")
