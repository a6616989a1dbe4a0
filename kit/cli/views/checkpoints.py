"""Views of what a checkpoint is worth: scores, forgetting, precipitation, errors near the edge."""

import math
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.cli.views.tables import add_number_columns, number
from kit.io.terminal import error_console

_SCORES = {"rmse": "RMSE", "mae": "MAE", "bias": "bias", "persistence_rmse": "persistence RMSE"}


def show_scores(result: Mapping[str, Any]) -> None:
    """Show a scorecard: one row for each variable and level."""
    scores: Mapping[str, Mapping[str, Any]] = result.get("scores", {})
    before: Mapping[str, Mapping[str, Any]] = result.get("forgetting", {})
    table = Table("variable")
    add_number_columns(table, (*_SCORES.values(), "skill"))
    if before:
        add_number_columns(table, ("base RMSE", "change"))
    skills, better = [], 0
    for variable, row in scores.items():
        skill = row.get("skill")
        colour = "red"
        if isinstance(skill, float) and not math.isnan(skill):
            skills.append(skill)
            if skill > 0:
                better += 1
                colour = "green"
        cells = [number(row.get(key)) for key in _SCORES]
        cells.append(f"[{colour}]{number(skill, 3)}[/]")
        if before:
            base = before.get(variable, {})
            cells += [number(base.get("before")), _change(base.get("change"))]
        table.add_row(variable, *cells)
    out = error_console()
    heading = f"{result.get('checkpoint')}: {result.get('samples')} predictions, "
    heading += f"{number(result.get('lead_hours'))} h ahead"
    if result.get("precision"):
        heading += f", in {result['precision']}"
    if result.get("synthetic"):
        heading += "; synthetic data"
    out.print(f"[bold]{escape(heading)}[/]", soft_wrap=True)
    out.print(table)
    _show_rain(result.get("rain", {}))
    if skills:
        mean = sum(skills) / len(skills)
        out.print(f"better than persistence in {better} of {len(skills)}; mean skill {mean:.3f}")
    _show_certainty(result)
    # The base weights have no error in what they cannot predict.
    changes = {variable: row["change"] for variable, row in before.items() if row.get("change") is not None}
    if changes:
        worse = len([change for change in changes.values() if change > 0])
        out.print(f"worse than the base weights in {worse} of {len(changes)}; {_least_improved(changes)}")
    _show_edge(result.get("edge") or [])


def _show_certainty(result: Mapping[str, Any]) -> None:
    """Show how many differences from persistence are significant, or that there are too few start dates to say."""
    scores = result.get("scores", {})
    last = list(result.get("leads", {}).values())[-1:]
    rows = [row for table in last for name, row in table.items() if name in scores]
    judged = [row for row in rows if "persistence_significant" in row]
    if judged:
        sure = sum(bool(row["persistence_significant"]) for row in judged)
        error_console().print(f"the difference from persistence is significant in {sure} of {len(judged)}")
    elif rows:
        error_console().print(f"too few start dates ({rows[0]['dates']}) for intervals and significance")


def _least_improved(changes: Mapping[str, float]) -> str:
    """Name what improved least over the base weights, with its sign: below 0 where its error grew."""
    variable = max(changes, key=lambda name: changes[name])
    change = changes[variable]
    became = "fell"
    if change >= 0:
        became = "grew" if change > 0 else "stayed"
    return f"least improved: {variable}, by {-change + 0.0:+.1%} (its RMSE {became})"


def _change(change: float | None) -> str:
    if change is None:
        return "-"
    colour = "red" if change > 0 else "green"
    return f"[{colour}]{change:+.1%}[/]"


def _show_rain(rain: Mapping[str, Mapping[str, float]]) -> None:
    """Show scores of precipitation, such as ``tp_csi_1mm``, if there are any."""
    if not rain:
        return
    table = Table("precipitation")
    add_number_columns(table, rain)
    rows: dict[str, dict[str, float]] = {}
    for variable, scores in rain.items():
        for name, score in scores.items():
            rows.setdefault(name, {})[variable] = score
    for name, row in rows.items():
        table.add_row(name, *[number(row.get(variable), 3) for variable in rain])
    error_console().print(table)


def _show_edge(rings: list[Mapping[str, Any]]) -> None:
    """Show errors by distance from the edge, relative to persistence there: a mean over variables and levels."""
    if not rings:
        return
    table = Table("grid points from the edge", title="Errors by distance from the edge", title_justify="left")
    add_number_columns(table, ("points", "scored", "RMSE / persistence RMSE, mean"))
    for ring in rings:
        ratios = []
        for key, persistence in ring["persistence_rmse"].items():
            error = ring["rmse"][key]
            if error is not None and persistence:
                ratios.append(error / persistence)
        mean = sum(ratios) / len(ratios) if ratios else None
        table.add_row(f"{ring['distance']} and more", f"{ring['points']:,}", f"{ring['scored']:.0%}", number(mean, 3))
    error_console().print(table)
