"""Views of comparisons and of reports."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.cli.views.tables import add_number_columns, number, show_facts, show_text
from kit.io.terminal import duration, error_console

_MOST = 40
"""Rows of a table that is shown; the page and the JSON have all of them."""
_USUAL = ("z_500", "t_850", "q_700", "2t", "10ws", "msl", "tp")


def show_comparison(result: Mapping[str, Any]) -> None:
    """Show what differs between runs, what they took, and which scores differ."""
    names = [run["name"] for run in result["runs"]]
    _show_differences("Settings that differ", result["settings"], names)
    _show_differences("Code, machine and data that differ", result["provenance"], names)
    _show_runs(result["runs"])
    if result["scores"]:
        _show_scores(result, names)
    for run in result["runs"]:
        if run.get("test_dates_seen") == "yes":
            show_text(f"warning: {run['name']} saw dates that are scored here: {_seen(run['leakage'])}")
    for note in result["notes"]:
        error_console().print(f"[bold]note:[/] {escape(note)}", soft_wrap=True)
    if "html" in result:
        show_text(f"page: {result['html']}")


def _seen(leakage: Sequence[Mapping[str, Any]]) -> str:
    """List the stages of training that saw some of the dates."""
    stages = []
    for row in leakage:
        counts = [row[name] for name in ("start", "inputs", "targets")]
        if any(isinstance(count, int) and count > 0 for count in counts):
            starts, inputs, targets = counts
            stages.append(f"{row['stage']}, {row['split']} ({starts} starts, {inputs} inputs, {targets} targets)")
    return "; ".join(stages)


def _columns(table: Table, names: Sequence[str]) -> None:
    table.add_column("", style="dim", no_wrap=True)
    for name in names:
        table.add_column(escape(name), overflow="fold")


def _show_differences(title: str, values: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    if not values:
        error_console().print(f"[bold]{title}:[/] none")
        return
    table = Table(title=title, title_style="bold", title_justify="left", box=None)
    _columns(table, names)
    for key, of_runs in list(values.items())[:_MOST]:
        table.add_row(escape(key), *["-" if value is None else escape(str(value)) for value in of_runs])
    error_console().print(table)
    if len(values) > _MOST:
        show_text(f"and {len(values) - _MOST} more: --json, --out")


def _show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="What trained, memory and time", title_style="bold", title_justify="left", box=None)
    _columns(table, [run["name"] for run in runs])
    rows: dict[str, list[str]] = {}
    for run in runs:
        trained = "-"
        if run["trainable_parameters"] is not None:
            trained = f"{run['method']}: {run['trainable_parameters']:,} of {run['total_parameters']:,}"
        seconds = run["train_seconds"]
        loss = run["valid_loss"]
        facts = {
            "trains": trained,
            "steps": number(run["steps"], 6),
            "peak memory": "-" if run["peak_memory_gib"] is None else f"{number(run['peak_memory_gib'])} GiB",
            "a step": "-" if run["step_seconds"] is None else f"{number(run['step_seconds'], 3)} s",
            "all steps": "-" if seconds is None else duration(seconds),
            "validation loss": f"{number(loss['before'])} -> {number(loss['best'])}",
            "scored dates seen": run.get("test_dates_seen", "-"),
        }
        for name, text in facts.items():
            rows.setdefault(name, []).append(text)
    for name, texts in rows.items():
        table.add_row(name, *map(escape, texts))
    error_console().print(table)


def _show_scores(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Show the scores of everything together that people ask for first, and how many differences are significant."""
    rows = [row for row in result["scores"] if row["region"] == "all"] or result["scores"]
    variables = {row["variable"] for row in rows}
    usual = [name for name in _USUAL if name in variables]
    if len(variables) > _MOST // 2 and usual:
        rows = sorted((row for row in rows if row["variable"] in usual), key=lambda row: usual.index(row["variable"]))
    dates = result["dates"]
    title = "Scores"
    if dates is not None:
        title += f" on {dates['count']} common start dates, {dates['first']} to {dates['last']} UTC"
    table = Table(title=title, title_style="bold", title_justify="left")
    for heading in ("variable", "lead", "score", "compared"):
        table.add_column(heading)
    add_number_columns(table, (*map(escape, names), "difference", "95 % interval"))
    table.add_column("significant")
    for row in rows[:_MOST]:
        interval, sure = "-", "-"
        if row["low"] is not None:
            interval = f"{number(row['low'], 3)} to {number(row['high'], 3)}"
            sure = "yes" if row["significant"] else "no"
        cells = [row["variable"], row["lead"], row["score"], row["run"], *map(number, row["values"])]
        table.add_row(*map(escape, cells), number(row["difference"], 3), interval, sure)
    out = error_console()
    out.print(table)
    if len(rows) < len(result["scores"]) or len(rows) > _MOST:
        out.print(f"{min(len(rows), _MOST)} of {len(result['scores'])} comparisons are shown; all: --json, --out")
    tests = result["tests"]
    if tests["count"]:
        out.print(
            f"{tests['significant']} of {tests['count']} differences are significant; about "
            f"{number(tests['by_chance'], 3)} would be called so by chance"
        )
    elif dates is not None:
        out.print(f"too few start dates ({dates['count']}) for intervals and significance")


def show_report(result: Mapping[str, Any]) -> None:
    """Show where a report was written, and what it lacks."""
    show_facts("Report", {"run": result["run"], "page": result["html"]})
    for line in result["missing"]:
        error_console().print(f"[bold]not there:[/] {escape(line)}", soft_wrap=True)
