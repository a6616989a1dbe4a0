"""What people see: results as tables, and the progress of training; always on standard error."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kit.io.terminal import error_console

__all__ = [
    "bytes_text",
    "loading",
    "log_to_screen",
    "show_bench",
    "show_examination",
    "show_facts",
    "show_files",
    "show_plan",
    "show_report",
    "show_scores",
    "show_training",
]

_LOG_EVERY = 10.0
"""Seconds between progress lines where there is no terminal."""
_STATUS_COLOUR = {"passed": "green", "failed": "red", "skipped": "yellow"}
_SCORES = (("rmse", "RMSE"), ("mae", "MAE"), ("bias", "bias"), ("persistence_rmse", "persistence RMSE"))


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say that something slow is being imported, and how long it took."""
    out = error_console()
    out.print(f"[dim]loading {what} ...[/]", end="" if out.is_terminal else "\n")
    started = time.perf_counter()
    yield
    if out.is_terminal:
        out.print(f"[dim] {time.perf_counter() - started:.1f} s[/]")


class _Screen(logging.Handler):
    """Prints log records, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        colour = "yellow" if record.levelno >= logging.WARNING else "default"
        error_console().print(f"[{colour}]{escape(self.format(record))}[/]")


def log_to_screen(level: int = logging.WARNING) -> None:
    """Show what the kit logs from this level on; the run folder's log has the rest."""
    logger = logging.getLogger("kit")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Screen)]
    handler = _Screen(level)
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.INFO))


def show_training(result: Mapping[str, Any]) -> None:
    """Show what a fine-tuning came to, and what to do next."""
    facts = {
        "run": result.get("run"),
        "device": result.get("device"),
        "steps": result.get("steps"),
        "training loss": _change(result.get("loss", {}), "first", "last"),
        "validation loss": _change(result.get("valid", {}), "before", "after"),
        "trained": f"{result.get('trainable_parameters', 0):,} of {result.get('total_parameters', 0):,} parameters",
        "speed": f"{_number(result.get('step_seconds'))} s/step, {_number(result.get('samples_per_second'))} samples/s",
        "peak memory": f"{_number(result.get('peak_memory_gib'))} GiB",
        "checkpoint": result.get("checkpoint"),
    }
    show_facts("Interrupted" if result.get("interrupted") else "Fine-tuned", facts)
    if result.get("checkpoint"):
        error_console().print(
            f"next: kit evaluate --checkpoint {result['checkpoint']}\n"
            f"      kit plot --run {result.get('run')}\n"
            "      kit ui",
            markup=False,
            soft_wrap=True,
        )


def show_scores(result: Mapping[str, Any]) -> None:
    """Show a scorecard: one row for each variable and level."""
    hours, samples = result.get("lead_hours"), result.get("samples")
    synthetic = "; synthetic data" if result.get("synthetic") else ""
    heading = f"{result.get('checkpoint')}: {samples} predictions, {_number(hours)} h ahead{synthetic}"
    table = Table("variable")
    for _, title in (*_SCORES, ("skill", "skill")):
        table.add_column(title, justify="right")
    scores: Mapping[str, Mapping[str, Any]] = result.get("scores", {})
    before: Mapping[str, Mapping[str, Any]] = result.get("forgetting", {})
    if before:
        table.add_column("base RMSE", justify="right")
        table.add_column("change", justify="right")
    for variable, row in scores.items():
        skill = row.get("skill")
        colour = "green" if isinstance(skill, float) and skill > 0 else "red"
        cells = [_number(row.get(key)) for key, _ in _SCORES]
        change = _forgetting(before.get(variable, {})) if before else []
        table.add_row(variable, *cells, f"[{colour}]{_number(skill, 3)}[/]", *change)
    out = error_console()
    out.print(f"[bold]{escape(heading)}[/]", soft_wrap=True)
    out.print(table)
    _show_rain(out, result.get("rain", {}))
    skills = [row["skill"] for row in scores.values() if isinstance(row.get("skill"), float)]
    skills = [skill for skill in skills if not math.isnan(skill)]
    if skills:
        better = sum(skill > 0 for skill in skills)
        out.print(f"better than persistence in {better} of {len(skills)}; mean skill {sum(skills) / len(skills):.3f}")
    changes = [row["change"] for row in before.values() if row.get("change") is not None]
    if changes:
        worse = sum(change > 0 for change in changes)
        out.print(f"worse than the base weights in {worse} of {len(changes)}; greatest change {max(changes):+.1%}")
    show_edge(result)


def _forgetting(row: Mapping[str, Any]) -> list[str]:
    """The error of the base weights, and how it changed; nothing for what they cannot predict."""
    change = row.get("change")
    told = "-" if change is None else f"[{'red' if change > 0 else 'green'}]{change:+.1%}[/]"
    return [_number(row.get("before")), told]


def show_edge(result: Mapping[str, Any]) -> None:
    """Show errors by distance from the edge, relative to persistence there: a mean over variables and levels."""
    if not result.get("edge"):
        return
    table = Table("grid points from the edge", title="Errors by distance from the edge", title_justify="left")
    for title in ("points", "scored", "RMSE / persistence RMSE, mean"):
        table.add_column(title, justify="right")
    for ring in result["edge"]:
        pairs = [(ring["rmse"][key], rmse) for key, rmse in ring["persistence_rmse"].items()]
        ratios = [error / rmse for error, rmse in pairs if error is not None and rmse]
        mean = _number(sum(ratios) / len(ratios), 3) if ratios else "-"
        table.add_row(f"{ring['distance']} and more", f"{ring['points']:,}", f"{ring['scored']:.0%}", mean)
    error_console().print(table)


def _show_rain(out: Console, rain: Mapping[str, Mapping[str, float]]) -> None:
    """Show scores of precipitation, such as ``tp_csi_1mm``, if there are any."""
    if not rain:
        return
    table = Table("precipitation")
    for title in rain:
        table.add_column(title, justify="right")
    for name in dict.fromkeys(key for scores in rain.values() for key in scores):
        table.add_row(name, *(_number(scores.get(name), 3) for scores in rain.values()))
    out.print(table)


def show_plan(result: Mapping[str, Any]) -> None:
    """Show what a run would need, and which cards have it."""
    rows, columns = result["grid"]
    what = "a forecast" if result["forecast"] else f"adapt.method {result['method']}"
    heading = f"{result['variant']}, {rows} x {columns}, {len(result['levels'])} levels, {what}"
    table = Table(title=heading, title_style="bold", title_justify="left", show_header=False, box=None)
    table.add_column("name", style="dim", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("note", overflow="fold")
    at = result["peak_at"]
    table.add_row("peak of the GPU", f"{result['peak_gib']:.2f} GiB", escape(f"in {at['module']}, {at['phase']}"))
    for name, size in result["breakdown"].items():
        own = result["workspace_gib"] if name == "activations" else 0
        note = f"{own:.2f} GiB of it is the workspace of one kernel" if own >= 0.01 else ""
        table.add_row(f"  {name}", f"{size:.2f} GiB", note)
    table.add_row("and in reserve", f"{result['reserve_gib']:.2f} GiB", "CUDA itself, and what its allocator loses")
    table.add_row("host", f"{result['host_gib']:.2f} GiB", "what is offloaded, batches, a replay buffer")
    table.add_row("parameters", f"{result['total_parameters']:,}", f"{result['trainable_parameters']:,} train")
    table.add_row("arithmetic", f"{result['flops_per_step'] / 1e12:.4g} TFLOP", "a step, recomputation included")
    if result["card"]:
        table.add_row(f"on {result['card']}", f"{_number(result['step_seconds'], 3)} s/step", "an estimate")
    out = error_console()
    out.print(table)
    fitting = [name for name, card in result["cards"].items() if card["fits"]]
    out.print(f"[bold]fits[/] {escape(', '.join(fitting) or 'none of the cards that the kit knows')}", soft_wrap=True)
    # Where every card has room, nobody needs advice.
    wanted = result["advice"] if len(fitting) < len(result["cards"]) else ()
    for title, lines in (("not exact", result["inexact"]), ("note", result["notes"]), ("to lower the peak", wanted)):
        for line in lines:
            out.print(f"[bold]{title}:[/] {escape(line)}", soft_wrap=True)


def show_bench(result: Mapping[str, Any]) -> None:
    """Show the rows of benchmarks, and where their page is."""
    table = Table("suite", "what")
    for title in ("value", "upstream's", "ratio", "must", "aim"):
        table.add_column(title, justify="right")
    table.add_column("exact")
    colours = {"aim": "green", "must": "yellow", "missed": "red"}
    for row in result["rows"]:
        numbers = [_number(row.get(key), 3) for key in ("baseline", "ratio", "must", "aim")]
        colour = colours.get(row.get("verdict", ""), "default")
        value = f"[{colour}]{_number(row['value'], 3)} {row['unit']}[/]"
        exact = {True: "yes", False: "no"}.get(row["exact"], "-")
        table.add_row(row["suite"], escape(row["name"]), value, *numbers, exact)
    out = error_console()
    out.print(table)
    out.print(f"page: {result['page']}, results: {result['results']}", markup=False, soft_wrap=True)


def show_report(result: Mapping[str, Any]) -> None:
    """Show the checks on a store."""
    table = Table(title=str(result["store"]), title_style="bold")
    for title in ("check", "status", "severity", "variable", "finding"):
        table.add_column(title)
    for check in result["checks"]:
        colour = _STATUS_COLOUR.get(check["status"], "default")
        remedy = f"\n[dim]{escape(check['remedy'])}[/]" if check["status"] == "failed" and check.get("remedy") else ""
        status = f"[{colour}]{'accepted' if check.get('accepted') else check['status']}[/]"
        finding = escape(str(check.get("detail") or "")) + remedy
        table.add_row(check["name"], status, check["severity"], check.get("variable") or "", finding)
    out = error_console()
    out.print(table)
    out.print("[green]fit for use[/]" if result["passed"] else "[red]not fit for use[/]")


def show_examination(result: Mapping[str, Any]) -> None:
    """Show what the doctor found; what wants doing stands last."""
    colours = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}
    table = Table("what", "status", "finding", box=None)
    rank = list(colours)
    for check in sorted(result["checks"], key=lambda check: (0, 1, 2, 0)[rank.index(check["status"])]):
        colour = colours[check["status"]]
        remedy = f"\n[dim]remedy: {escape(check['remedy'])}[/]" if check["remedy"] else ""
        table.add_row(check["name"], f"[{colour}]{check['status']}[/]", escape(check["detail"]) + remedy)
    out = error_console()
    out.print(table)
    counts = result["counts"]
    verdict = "[green]ready[/]" if result["passed"] else "[red]not ready[/]"
    out.print(f"{verdict}: {counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")


def show_files(result: Mapping[str, Any]) -> None:
    """Show the files that were written."""
    out = error_console()
    for file in result.get("files", ()):
        out.print(str(file), markup=False, soft_wrap=True)


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Show names and values."""
    table = Table(title=title, title_style="bold", show_header=False, box=None)
    table.add_column("name", style="dim", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in facts.items():
        table.add_row(name, escape(_text(value)))
    error_console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(part) for part in value) or "none"
    return str(value)


def _change(pair: Mapping[str, Any], first: str, last: str) -> str:
    return f"{_number(pair.get(first))} -> {_number(pair.get(last))}"


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if isinstance(value, int | float) else "-"


def bytes_text(size: float) -> str:
    """Write a number of bytes with a unit that a person can read."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"
