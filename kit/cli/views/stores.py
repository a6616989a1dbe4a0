"""Views of stores: checks on them, what building one takes, whether one is as it was written."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.cli.views.tables import bytes_text, show_facts
from kit.io.terminal import duration, error_console

_STATUS_COLOUR = {"passed": "green", "failed": "red", "skipped": "yellow"}
_SHOWN = 20
"""Files that are named; ``--json`` names all."""


def show_quality(result: Mapping[str, Any]) -> None:
    """Show the checks on a store."""
    table = Table("check", "status", "severity", "variable", "finding", title=str(result["store"]), title_style="bold")
    for check in result["checks"]:
        # What was accepted keeps the colour of what failed: it is still there.
        colour = _STATUS_COLOUR.get(check["status"], "default")
        status = check["status"]
        if check.get("accepted"):
            status = "accepted"
        finding = escape(str(check.get("detail") or ""))
        if check["status"] == "failed" and check.get("remedy"):
            finding += f"\n[dim]{escape(check['remedy'])}[/]"
        table.add_row(check["name"], f"[{colour}]{status}[/]", check["severity"], check.get("variable") or "", finding)
    out = error_console()
    out.print(table)
    out.print("[green]fit for use[/]" if result["passed"] else "[red]not fit for use[/]")


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
    verdict = "[green]as it was written[/]" if result["passed"] else f"[red]{len(problems)} problems[/]"
    out.print(f"{escape(result['store'])}: {verdict}; {result['files']} files, {bytes_text(result['bytes'])} read")
