"""Views of the registry: its list, files that were fetched with their licences, hashes that were recorded."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.cli.views.tables import bytes_text, show_text
from kit.io.terminal import error_console
from kit.registry.entry import HUB, host_of


def show_entries(result: Mapping[str, Any]) -> None:
    """Show the registry's entries."""
    table = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
    table.add_column("name", style="bold", overflow="fold")
    table.add_column("what", overflow="fold", ratio=1)
    for entry in result["entries"]:
        if entry["size"] is not None:
            size = bytes_text(entry["size"])
        elif entry["fetched"]:
            size = "size unknown"
        else:
            size = "read in parts, where it is"
        # Where there are several addresses, they hold the same file, and the first one is tried first.
        urls = [entry["url"]] if isinstance(entry["url"], str) else entry["url"]
        marks = [entry["kind"], size, f"{host_of(urls[0])} ({entry['scheme']})"]
        if entry["cached"]:
            marks.append("[green]here[/]")
        if entry["fetched"] and not entry["pinned"]:
            if any(url.startswith(f"{HUB}:") for url in urls):
                marks.append("no hash yet: the hub's own is verified and recorded at the first use")
            else:
                marks.append("[yellow]no hash: kit data pin[/]")
        if entry["synthetic"]:
            marks.append("[yellow]synthetic[/]")
        facts = f"[dim]{', '.join(marks)}; {escape(entry['licence'])}[/]"
        table.add_row(entry["name"], f"{escape(entry['description'])}\n{facts}")
    error_console().print(table)


def show_fetched(result: Mapping[str, Any]) -> None:
    """Show where files are, and under which licence they were handed out."""
    licences: dict[str, list[str]] = {}
    for file in result["files"]:
        show_text(f"{file['name']}: {file['path']}")
        licences.setdefault(file["licence"], []).append(file["name"])
    for licence, names in licences.items():
        # Where all files have one licence, it need not say whose it is.
        heading = "licence and credit"
        if len(names) < len(result["files"]):
            heading += f" ({', '.join(names)})"
        show_text(f"{heading}: {licence}")


def show_pins(result: Mapping[str, Any]) -> None:
    """Show the hashes that were recorded, and where."""
    for pin in result["pins"]:
        # Of small files the hub records git's object id alone.
        value = f"SHA-256 {pin['sha256']}" if pin["sha256"] else f"git object id {pin['git_blob']}"
        if pin["size"] is not None:
            value += f", {pin['size']} bytes"
        if pin["new"]:
            show_text(f"{pin['name']}: recorded {value}, from {pin['source']}")
        else:
            show_text(f"{pin['name']}: has a hash already, left as it is: {value}")
    if any(pin["new"] for pin in result["pins"]):
        show_text(f"in {result['registry']}")
