"""What people see of the registry: its list, the progress of downloads, hashes and licences; on standard error."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from kit.cli.views.console import bytes_text
from kit.io.progress import ProgressCallback
from kit.io.terminal import error_console
from kit.registry.entry import host_of

__all__ = ["DownloadProgress", "show_entries", "show_fetched", "show_pins"]

_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""


class DownloadProgress(ProgressCallback):
    """Shows where a download is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._out = error_console()
        self._bar: Progress | None = None
        self._name, self._total, self._told = "", 0, 0.0

    def started(self, name: str, host: str, done: int, total: int | None) -> None:
        """Begin a bar, or go on with it after a cut."""
        self._name, self._total, self._told = name, total or 0, time.monotonic()
        if self._out.is_terminal and self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self._bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._out)
            self._bar.add_task(escape(name), total=total)
            self._bar.start()
        elif self._bar is None:
            size = "size unknown" if total is None else bytes_text(total)
            at = f", from {bytes_text(done)} on" if done else ""
            self._print(f"fetching {name} ({size}) from {host}{at}")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def advanced(self, done: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            share = f" ({done / self._total:.0%})" if self._total else ""
            self._print(f"{self._name}: {bytes_text(done)}{share}")

    def said(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._print(text)

    def ended(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        (self._bar.console if self._bar else self._out).print(text, markup=False, soft_wrap=True)


def show_entries(entries: Sequence[Mapping[str, Any]]) -> None:
    """Show the registry's entries."""
    table = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
    table.add_column("name", style="bold", overflow="fold")
    table.add_column("what", overflow="fold", ratio=1)
    for entry in entries:
        unsized = "size unknown" if entry["fetched"] else "read in parts, where it is"
        size = unsized if entry["size"] is None else bytes_text(entry["size"])
        origin = entry["url"] if isinstance(entry["url"], str) else entry["url"][0]
        marks = [entry["kind"], size, f"{host_of(origin)} ({entry['scheme']})"]
        marks += ["[green]here[/]"] if entry["cached"] else []
        marks += [] if entry["pinned"] or not entry["fetched"] else ["[yellow]no hash: kit data pin[/]"]
        marks += ["[yellow]synthetic[/]"] if entry["synthetic"] else []
        facts = ", ".join(marks)
        table.add_row(entry["name"], f"{escape(entry['description'])}\n[dim]{facts}; {escape(entry['licence'])}[/]")
    error_console().print(table)


def show_fetched(files: Sequence[Mapping[str, Any]]) -> None:
    """Show where files are, and under which licence they were handed out."""
    out = error_console()
    for file in files:
        out.print(f"{file['name']}: {file['path']}", markup=False, soft_wrap=True)
    for licence in dict.fromkeys(file["licence"] for file in files):
        names = [file["name"] for file in files if file["licence"] == licence]
        whose = "" if len(names) == len(files) else f" ({', '.join(names)})"
        out.print(f"licence and credit{whose}: {licence}", markup=False, soft_wrap=True)


def show_pins(result: Mapping[str, Any]) -> None:
    """Show the hashes that were recorded, and where."""
    out = error_console()
    for pin in result["pins"]:
        kind, value = ("SHA-256", pin["sha256"]) if pin["sha256"] else ("git object id", pin["git_blob"])
        size = "" if pin["size"] is None else f", {pin['size']} bytes"
        told = f"recorded {kind}" if pin["new"] else f"has a hash already, left as it is: {kind}"
        source = f", from {pin['source']}" if pin["new"] else ""
        out.print(f"{pin['name']}: {told} {value}{size}{source}", markup=False, soft_wrap=True)
    if any(pin["new"] for pin in result["pins"]):
        out.print(f"in {result['registry']}", markup=False, soft_wrap=True)
