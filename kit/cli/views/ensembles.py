"""Views of what an ensemble is worth: scores of its members by lead."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from kit.cli.views.tables import add_number_columns, number
from kit.io.terminal import error_console

_COLUMNS = {"crps": "CRPS", "rmse": "RMSE of the mean", "spread": "spread", "spread_error": "spread/error"}
_WITH_INTERVAL = ("crps", "spread_error")


def show_ensemble(result: Mapping[str, Any], headline: Sequence[str], leads: Sequence[str]) -> None:
    """Show scores of members by variable and lead.

    Args:
        result: What ``kit evaluate --json`` prints of an ensemble.
        headline: Variables and levels that are shown alone, if any of them is there.
        leads: Leads that are shown.
    """
    rows: Mapping[str, Mapping[str, Any]] = result["ensemble"]
    units: Mapping[str, str] = result.get("units", {})
    table = Table(f"{result['members']} members", "lead")
    add_number_columns(table, (*_COLUMNS.values(), "CRPS skill"))
    known = list(dict.fromkeys(name for lead in leads for name, row in rows.get(lead, {}).items() if "crps" in row))
    for name in [name for name in headline if name in known] or known:
        unit = units.get(name)
        said = f"{name} ({unit})" if unit else name
        for lead in leads:
            row = rows.get(lead, {}).get(name, {})
            cells = [_cell(row, key, with_interval=key in _WITH_INTERVAL) for key in _COLUMNS]
            table.add_row(said, f"{float(lead[:-1]):g} h", *cells, _skill(row))
            said = ""
    out = error_console()
    out.print(table)
    out.print("CRPS is fair; spread/error below 1: members are too alike; skill and * (significant): over persistence")


def _cell(row: Mapping[str, Any], key: str, *, with_interval: bool) -> str:
    text = number(row.get(key), 3)
    if with_interval and row.get(f"{key}_low") is not None:
        text += f"\n{number(row[f'{key}_low'], 3)} to {number(row[f'{key}_high'], 3)}"
    return text


def _skill(row: Mapping[str, Any]) -> str:
    skill = row.get("crps_skill")
    if skill is None:
        return "-"
    mark = "*" if row.get("persistence_crps_significant") else ""
    colour = "green" if skill > 0 else "red"
    return f"[{colour}]{number(skill, 3)}{mark}[/]"
