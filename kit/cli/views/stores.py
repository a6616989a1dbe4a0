"""Views of stores: checks on them, what building one takes, whether one is as it was written."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.checks.results import meaning_texts
from kit.cli.views.tables import bytes_text, show_facts
from kit.io.terminal import duration, error_console

_FINDINGS = {"error": ("failed", "red"), "warning": ("warning", "yellow"), "info": ("note", "blue")}
"""How findings of each severity are shown, the worst first: words and colour."""
_SHOWN = 20
"""Files that are named; ``--json`` names all."""


def show_quality(result: Mapping[str, Any]) -> None:
    """Show the checks on a store: what was found, what does not apply, and how many passed."""
    table = Table("check", "result", "variable", "finding", title=str(result["store"]), title_style="bold")
    found = [check for check in result["checks"] if check["status"] == "failed"]
    for severity, (word, colour) in _FINDINGS.items():
        for check in found:
            if check["severity"] != severity:
                continue
            # What was accepted keeps the colour of what failed: it is still there.
            status = "accepted" if check["accepted"] else word
            finding = f"{escape(check['detail'])}\n[dim]{escape(check['remedy'])}[/]"
            table.add_row(check["name"], f"[{colour}]{status}[/]", check["variable"] or "", finding)
    passed = set()
    for check in result["checks"]:
        if check["status"] == "not-applicable":
            table.add_row(check["name"], "not applicable", "", escape(check["detail"]), style="dim")
        elif check["status"] == "passed":
            passed.add(check["name"])
    out = error_console()
    if table.row_count:
        out.print(table)
    _show_meanings(result["variables"])
    out.print(f"{len(passed)} checks passed (--json names them)")
    out.print("[green]fit for use[/]" if result["passed"] else "[red]not fit for use[/]")


def _show_meanings(variables: Mapping[str, Mapping[str, Any]]) -> None:
    """Show leads and windows, a line for all variables that have the same ones."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for name, stated in variables.items():
        names.setdefault(meaning_texts(stated), []).append(name)
    table = Table("variables", "lead", "window", "cell methods")
    for texts, alike in names.items():
        table.add_row(escape(", ".join(alike)), *map(escape, texts))
    if names:
        error_console().print(table)


def show_estimate(result: Mapping[str, Any]) -> None:
    """Show what a build will take."""
    verdict = "fits" if result["fits"] else "does not fit"
    facts = {
        "states": f"{result['states']:,}",
        "values": f"{result['gb_raw']:.4g} GB in float32",
        "on disk": "less than that; known once the data are here",
        "free": f"{result['gb_free']:.4g} GB: {verdict}",
        "requests": "not told by the source",
        "download": "not told by the source",
    }
    if result["requests"] is not None:
        facts["requests"] = f"{result['requests']:,}"
    if result["gb_download"] is not None:
        facts["download"] = f"{result['gb_download']:.4g} GB"
    # Where a slice of the data was at hand, it was read and compressed.
    if result["ratio"] is not None:
        facts["states"] += f" in {result['blocks']:,} blocks"
        facts["on disk"] = f"{result['gb_disk']:.4g} GB ({result['ratio']:.0%} of that, on the slice)"
        facts["time"] = f"{duration(3600 * result['hours'])} by {result['workers']} threads"
        facts["measured on"] = f"{result['slice_states']} states, {result['slice_seconds']:.3g} s in one thread"
    show_facts("A build would take (nothing is written)", facts)


def show_verification(result: Mapping[str, Any]) -> None:
    """Show which files are not as they were written."""
    out = error_console()
    problems = result["problems"]
    for problem in problems[:_SHOWN]:
        out.print(f"[red]{escape(problem['file'])}[/] {escape(problem['problem'])}", soft_wrap=True)
    if len(problems) > _SHOWN:
        out.print(f"and {len(problems) - _SHOWN} more; --json names all")
    verdict = (
        "[green]as it was written[/]"
        if result["passed"]
        else f"[red]{len(problems)} problem{'s' * (len(problems) > 1)}[/]"
    )
    path = result["path"] if "path" in result else result["store"]
    out.print(f"{escape(path)}: {verdict}; {result['files']} files, {bytes_text(result['bytes'])} read")
