"""Views of the doctor's examination and of benchmarks."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.cli.views.tables import add_number_columns, number, show_text
from kit.io.secrets import scrub
from kit.io.terminal import error_console


def show_examination(result: Mapping[str, Any]) -> None:
    """Show what the doctor found; what wants doing stands last."""
    colours = {"ok": "green", "skipped": "dim", "warning": "yellow", "error": "red"}
    ranks = {"ok": 0, "skipped": 0, "warning": 1, "error": 2}
    table = Table("what", "status", "finding", box=None)
    # A terminal shows the end of what was printed, so that the worst comes last.
    for check in sorted(result["checks"], key=lambda check: ranks[check["status"]]):
        finding = escape(check["detail"])
        if check["remedy"]:
            finding += f"\n[dim]remedy: {escape(check['remedy'])}[/]"
        table.add_row(check["name"], f"[{colours[check['status']]}]{check['status']}[/]", finding)
    out = error_console()
    out.print(table)
    counts = result["counts"]
    verdict = "[green]ready[/]" if result["passed"] else "[red]not ready[/]"
    out.print(f"{verdict}: {counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")


def show_bench(result: Mapping[str, Any]) -> None:
    """Show the rows of benchmarks, and where their page is."""
    table = Table("suite", "what")
    add_number_columns(table, ("value", "upstream's", "ratio", "must", "aim"))
    table.add_column("exact")
    colours = {"aim": "green", "must": "yellow", "missed": "red"}
    exactness = {True: "yes", False: "no"}
    for row in result["rows"]:
        colour = colours.get(row.get("verdict", ""), "default")
        value = f"[{colour}]{number(row['value'], 3)} {row['unit']}[/]"
        others = [number(row.get(key), 3) for key in ("baseline", "ratio", "must", "aim")]
        table.add_row(row["suite"], escape(row["name"]), value, *others, exactness.get(row["exact"], "-"))
    error_console().print(table)
    show_text(f"page: {result['page']}, results: {result['results']}")


def show_page(store: str, page: str) -> None:
    """Show where MLflow's page is; its address lets anybody in, and is shown nowhere else."""
    text = f"MLflow shows {scrub(store)}, to you alone, at\n    {page}\nCtrl-C ends it"
    error_console(masked=False).print(escape(text), soft_wrap=True)
