"""Views of what a checkpoint is worth: scores, forgetting, precipitation, errors near the edge."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from rich.markup import escape
from rich.table import Table

from kit.cli.views.ensembles import show_ensemble
from kit.cli.views.tables import add_number_columns, number
from kit.io.terminal import error_console

_SCORES = {"rmse": "RMSE", "mae": "MAE", "bias": "bias", "persistence_rmse": "persistence RMSE"}
_HEADLINE = ("z_500", "t_850", "q_700", "2t", "10ws", "msl", "tp")
"""Variables that people ask for first."""
_HEADLINE_LEADS = ("024h", "072h", "120h", "240h")
_ALL_LEADS = 5
"""Most leads that all have a column in the headline table."""
_SIGNIFICANT = {"persistence": "*", "base": "\N{DAGGER}"}
"""Marks of differences that are significant, by what the forecast is compared with."""


def show_scores(result: Mapping[str, Any], table: str = "headline") -> None:
    """Show a scorecard: one lead in full; of several the headline, or all in full.

    Args:
        result: What ``kit evaluate --json`` prints.
        table: ``headline`` or ``full``.
    """
    scores: Mapping[str, Mapping[str, Any]] = result.get("scores", {})
    before: Mapping[str, Mapping[str, Any]] = result.get("forgetting", {})
    leads: Mapping[str, Mapping[str, Any]] = result.get("leads", {})
    out = error_console()
    heading = f"{result.get('checkpoint') or result.get('forecast_file')}: {result.get('samples')} predictions, "
    several = "up to " if len(leads) > 1 else ""
    heading += f"{several}{number(result.get('lead_hours'))} h ahead"
    if result.get("precision"):
        heading += f", in {result['precision']}"
    if result.get("synthetic"):
        heading += "; synthetic data"
    out.print(f"[bold]{escape(heading)}[/]", soft_wrap=True)
    if len(leads) < 2:
        _show_lead(scores, before, next(iter(leads.values()), {}))
    elif table == "headline":
        _show_headline(leads, result.get("units", {}))
    else:
        for lead, rows in leads.items():
            out.print(f"{int(lead[:-1])} h ahead" if lead[:-1].isdigit() else lead)
            _show_lead(rows, {name: _change_from_base(row) for name, row in rows.items() if "base_rmse" in row}, rows)
    if "ensemble" in result:
        in_full = table == "full" or len(leads) < 2
        show_ensemble(result, () if in_full else _HEADLINE, _shown_leads(list(leads), all_of_them=in_full))
    _show_rain(result.get("rain", {}))
    skills = [row["skill"] for row in scores.values() if _is_number(row.get("skill"))]
    if skills:
        better = len([skill for skill in skills if skill > 0])
        mean = sum(skills) / len(skills)
        last = f"{number(result.get('lead_hours'))} h ahead: " if several else ""
        out.print(f"{last}better than persistence in {better} of {len(skills)}; mean skill {mean:.3f}")
    _show_certainty(result)
    # The base weights have no error in what they cannot predict.
    changes = {variable: row["change"] for variable, row in before.items() if row.get("change") is not None}
    if changes:
        worse = len([change for change in changes.values() if change > 0])
        out.print(f"worse than the base weights in {worse} of {len(changes)}; {_least_improved(changes)}")
    _show_edge(result.get("edge") or [])
    _show_left_out(result.get("left_out") or {})
    _show_leakage(result.get("leakage") or ())


def _show_lead(
    scores: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Any]
) -> None:
    """Show one row for each variable and level, with anomaly correlations where ``rows`` has them."""
    table = Table("variable")
    add_number_columns(table, (*_SCORES.values(), "skill"))
    has_acc = any("acc" in row for row in rows.values())
    if has_acc:
        add_number_columns(table, ("ACC",))
    if before:
        add_number_columns(table, ("base RMSE", "change"))
    for variable, row in scores.items():
        skill = row.get("skill")
        colour = "green" if _is_number(skill) and skill > 0 else "red"
        cells = [number(row.get(key)) for key in _SCORES]
        cells.append(f"[{colour}]{number(skill, 3)}[/]")
        if has_acc:
            cells.append(number(rows.get(variable, {}).get("acc"), 3))
        if before:
            base = before.get(variable, {})
            cells += [number(base.get("before")), _change(base.get("change"))]
        table.add_row(variable, *cells)
    error_console().print(table)


def _show_headline(leads: Mapping[str, Mapping[str, Any]], units: Mapping[str, str]) -> None:
    """Show the RMSE of the variables that people ask for first, by lead, with intervals and significance."""
    chosen = _shown_leads(list(leads), all_of_them=False)
    known = [name for name in _HEADLINE if any(name in leads[lead] for lead in chosen)]
    if not known:
        known = list(leads[chosen[-1]])[: len(_HEADLINE)]
    table = Table("RMSE")
    add_number_columns(table, [f"{float(lead[:-1]):g} h" for lead in chosen])
    marks = set()
    for name in known:
        cells = []
        for lead in chosen:
            row = leads[lead].get(name, {})
            cells.append(_headline_cell(row))
            marks |= {kind for kind in _SIGNIFICANT if row.get(f"{kind}_significant")}
        unit = units.get(name)
        table.add_row(f"{name} ({unit})" if unit else name, *cells)
    out = error_console()
    out.print(table)
    for kind in sorted(marks, reverse=True):
        against = "persistence" if kind == "persistence" else "the base weights"
        out.print(f"{_SIGNIFICANT[kind]} the difference from {against} is significant")
    out.print("green: better than persistence; all variables: --table full, all numbers: --json")


def _shown_leads(leads: Sequence[str], *, all_of_them: bool) -> list[str]:
    """Choose leads for a table: all, or the headline ones of many."""
    if all_of_them or len(leads) <= _ALL_LEADS:
        return list(leads)
    return [lead for lead in leads if lead in _HEADLINE_LEADS or lead == leads[-1]]


def _headline_cell(row: Mapping[str, Any]) -> str:
    """Write an RMSE with its interval and marks, and the anomaly correlation below it."""
    if row.get("rmse") is None:
        return "-"
    text = number(row["rmse"], 3)
    text += "".join(mark for kind, mark in _SIGNIFICANT.items() if row.get(f"{kind}_significant"))
    skill = row.get("skill")
    if _is_number(skill) and skill > 0:
        text = f"[green]{text}[/]"
    if row.get("rmse_low") is not None:
        text += f"\n{number(row['rmse_low'], 3)} to {number(row['rmse_high'], 3)}"
    if row.get("acc") is not None:
        text += f"\nACC {number(row['acc'], 3)}"
    return text


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, float) and not math.isnan(value)


def _change_from_base(row: Mapping[str, Any]) -> dict[str, Any]:
    old, new = row["base_rmse"], row.get("rmse")
    return {"before": old, "change": new / old - 1 if old and new is not None else None}


def _show_left_out(left_out: Mapping[str, int]) -> None:
    if any(left_out.values()):
        error_console().print(
            f"left out, for want of analyses in the store: {left_out['states']} predictions, among them all of "
            f"{left_out['starts']} initial times"
        )


def _show_leakage(leakage: Sequence[Mapping[str, Any]]) -> None:
    """Warn of dates that training or validation saw, and tell of what is unknown."""
    out = error_console()
    for seen in leakage:
        counts = [seen["start"], seen["inputs"], seen["targets"]]
        if all(isinstance(count, int) for count in counts) and any(counts):
            out.print(
                f"[yellow]warning[/]: {escape(str(seen['stage']))} saw {counts[0]} of the start dates, {counts[1]} "
                f"input states and {counts[2]} targets ({seen['split']}, {seen['period']}): scores on them flatter",
                soft_wrap=True,
            )
    unknown = [f"{seen['stage']} ({seen['split']})" for seen in leakage if seen["start"] == "unknown"]
    if unknown:
        out.print(f"unknown whether these saw the dates that are scored: {escape(', '.join(unknown))}", soft_wrap=True)


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
    """Name the variable whose error changed worst against the base weights."""
    variable = max(changes, key=lambda name: changes[name])
    change = changes[variable]
    if change > 0:
        return f"the RMSE of {variable} grew most, by {change:.1%}"
    if change == 0:
        return f"the RMSE of {variable} is the same"
    return f"the RMSE of {variable} fell least, by {-change:.1%}"


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
