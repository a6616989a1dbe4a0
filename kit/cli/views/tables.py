"""Numbers, texts and tables that the views of several results share; all is shown on standard error."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.io.terminal import error_console


def number(value: Any, digits: int = 4) -> str:
    """Write a number to some significant digits; a hyphen for what is none."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.{digits}g}"


def bytes_text(size: float) -> str:
    """Write a number of bytes with a unit that a person can read."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def add_number_columns(table: Table, titles: Iterable[str]) -> None:
    """Add columns whose cells stand to the right."""
    for title in titles:
        table.add_column(title, justify="right")


def show_text(text: str) -> None:
    """Show a text as it is: paths may hold brackets, and are not broken, so that they can be copied."""
    error_console().print(text, markup=False, soft_wrap=True)


def show_files(result: Mapping[str, Any]) -> None:
    """Show the files that were written."""
    for file in result.get("files", ()):
        show_text(str(file))


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Show names and values."""
    table = Table(title=title, title_style="bold", show_header=False, box=None)
    table.add_column("name", style="dim", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in facts.items():
        text = str(value)
        if isinstance(value, Mapping):
            text = "\n".join(f"{key} {part}" for key, part in value.items())
        elif isinstance(value, Sequence) and not isinstance(value, str):
            # Sentences hold commas themselves.
            texts = [str(part) for part in value]
            text = ("\n" if any(" " in part for part in texts) else ", ").join(texts) or "none"
        # Names of files may hold brackets, which rich would take for markup.
        table.add_row(name, escape(text))
    error_console().print(table)
