"""Views of what a run came to, and of what one would need."""

import math
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.checkpoint.uses import scoring_commands
from kit.cli.views.tables import number, show_facts, show_text
from kit.io.terminal import error_console
from kit.metrics.epochs import EpochLosses


def show_training(result: Mapping[str, Any]) -> None:
    """Show what a fine-tuning came to, and what to do next."""
    loss, valid = result.get("loss", {}), result.get("valid", {})
    training = "-"
    if loss.get("first_epoch") is not None:
        training = str(EpochLosses(loss["first_epoch"], loss["last_epoch"], math.floor(result["epochs"])))
    precision = result.get("precision", {})
    facts = {
        "run": result.get("run"),
        "device": result.get("device"),
        "precision": f"{precision.get('train')}, validated in {precision.get('valid')}",
        "steps": result.get("steps"),
        "training loss": training,
        "validation loss": f"{number(valid.get('before'))} -> {number(valid.get('after'))}",
        "trained": f"{result.get('trainable_parameters', 0):,} of {result.get('total_parameters', 0):,} parameters",
        "speed": f"{number(result.get('step_seconds'))} s/step, {number(result.get('samples_per_second'))} samples/s",
        "peak memory": f"{number(result.get('peak_memory_gib'))} GiB",
        "checkpoint": result.get("checkpoint"),
    }
    show_facts("Interrupted" if result.get("interrupted") else "Fine-tuned", facts)
    if result.get("checkpoint"):
        scoring = scoring_commands(result["checkpoint"], result.get("draws"), result.get("operator"))
        following = (scoring[0], f"kit plot --run {result.get('run')}", "kit ui")
        show_text("next: " + "\n      ".join(following))


def show_plan(result: Mapping[str, Any]) -> None:
    """Show what a run would need, and which cards have it."""
    rows, columns = result["grid"]
    purpose = "a forecast" if result["forecast"] else f"adapt.method {result['method']}"
    what = result["variant"]
    if result["draws"] is not None:
        verb = "learns" if result["draws"] == "mean" else "draws"
        what = f"{result['network']} that {verb} the {result['draws']}"
        purpose = "a forecast" if result["forecast"] else "training"
    heading = f"{what}, {rows} x {columns}, {len(result['levels'])} levels, {purpose}"
    table = Table(title=heading, title_style="bold", title_justify="left", show_header=False, box=None)
    table.add_column("name", style="dim", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("note", overflow="fold")
    peak = result["peak_at"]
    table.add_row("peak of the GPU", f"{result['peak_gib']:.2f} GiB", escape(f"in {peak['module']}, {peak['phase']}"))
    for name, size in result["breakdown"].items():
        note = ""
        if name == "activations" and result["workspace_gib"] >= 0.01:
            note = f"{result['workspace_gib']:.2f} GiB of it is the workspace of one kernel"
        table.add_row(f"  {name}", f"{size:.2f} GiB", note)
    table.add_row("and in reserve", f"{result['reserve_gib']:.2f} GiB", "CUDA itself, and what its allocator loses")
    table.add_row("host", f"{result['host_gib']:.2f} GiB", "what is offloaded, batches, a replay buffer")
    table.add_row("parameters", f"{result['total_parameters']:,}", f"{result['trainable_parameters']:,} train")
    table.add_row("arithmetic", f"{result['flops_per_step'] / 1e12:.4g} TFLOP", "a step, recomputation included")
    if result["card"]:
        table.add_row(f"on {result['card']}", f"{number(result['step_seconds'], 3)} s/step", "an estimate")
    out = error_console()
    out.print(table)
    fitting = [name for name, card in result["cards"].items() if card["fits"]]
    out.print(f"[bold]fits[/] {escape(', '.join(fitting) or 'none of the cards that the kit knows')}", soft_wrap=True)
    remarks = {"not exact": result["inexact"], "note": result["notes"]}
    # Where every card has room, nobody needs advice.
    if len(fitting) < len(result["cards"]):
        remarks["to lower the peak"] = result["advice"]
    for title, lines in remarks.items():
        for line in lines:
            out.print(f"[bold]{title}:[/] {escape(line)}", soft_wrap=True)
