"""What people see of statistics: a table of them, what they are held against, verdicts; on standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.io.terminal import error_console

__all__ = ["show_stats"]

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_NUMBERS = ("mean", "std", "min", "median", "max")
_SHARES = {"zero_fraction": "zeros", "nan_fraction": "NaN", "inf_fraction": "inf"}


def show_stats(result: Mapping[str, Any]) -> None:
    """Show the result of ``kit data stats``."""
    out = error_console()
    out.print(_statistics(result))
    for line in result["advice"]:
        out.print(f"[dim]{escape(line)}[/]")
    _show_drift(result["drift"])
    _show_splits(result["splits"])
    if result["written"]:
        out.print(f"written to {result['written']}", markup=False, soft_wrap=True)
    out.print("[green]no verdict is an error[/]" if result["passed"] else "[red]a verdict is an error[/]")


def _statistics(result: Mapping[str, Any]) -> Table:
    title = str(result["store"])
    if result["states"] is not None:
        whence = "stats.json" if result["recorded"] else "computed"
        title += f": {result['split'] or 'times'} {result['period']}, {result['states']} states"
        title += f", weights {result['weights']}, {whence}"
    table = Table(title=title, title_style="bold", box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("channel", no_wrap=True)
    for name in (*_NUMBERS, *_SHARES.values(), "skew"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("normalised by", overflow="fold")
    for key, one in result["variables"].items():
        known = {**one, "median": one.get("quantiles", {}).get("0.5")}
        numbers = [_number(known.get(name)) for name in _NUMBERS]
        shares = [_share(one.get(name)) for name in _SHARES]
        table.add_row(key, *numbers, *shares, _number(one.get("skewness"), 2), _normalisation(one))
    return table


def _normalisation(one: Mapping[str, Any]) -> str:
    if "location" not in one:
        return ""
    pair = f"{_number(one['location'], 5)}, {_number(one['scale'], 4)}"
    if one["transform"] == "identity":
        return f"{one['normalised_by']}: {pair}"
    return f"{one['transform']}: {pair}, skew {_number(one['transformed_skewness'], 2)}"


def _show_drift(drift: Mapping[str, Any]) -> None:
    channels = drift["channels"]
    name = escape(str(drift["against"]))
    if not channels:
        error_console().print(f"[dim]nothing that {name} has statistics of[/]")
        return
    found = [one for one in channels if one["verdict"] != "ok"]
    rows = [(one, _moved(one), one["effect"]) for one in found]
    _show_verdicts(f"against {name}: {len(channels) - len(found)} of {len(channels)} channels agree", rows)


def _show_splits(splits: Mapping[str, Any]) -> None:
    channels = splits["channels"]
    if not channels:
        return
    found = [one for one in channels if one["verdict"] != "ok"]
    rows = [(one, _changed(one), "") for one in found]
    names = " and ".join(dict.fromkeys(one["split"] for one in channels))
    agreeing = f"{len(channels) - len(found)} of {len(channels)} channels"
    _show_verdicts(f"{names} against train, {splits['states']} states of each: {agreeing} agree", rows)


def _moved(one: Mapping[str, Any]) -> str:
    return (
        f"mean {_number(one['mean'])}, {abs(one['shift']):.1f} scales from {_number(one['reference_mean'])}; "
        f"scale {_number(one['scale'])}, {_number(one['ratio'], 3)} times {_number(one['reference_scale'])}"
    )


def _changed(one: Mapping[str, Any]) -> str:
    return (
        f"{one['split']}: stability index {_number(one['psi'], 2)}, mean {_number(one['shift'], 2)} scales away, "
        f"{_number(one['ratio'], 2)} times as wide"
    )


def _show_verdicts(title: str, rows: Sequence[tuple[Mapping[str, Any], str, str]]) -> None:
    """Show a heading, and what is not ok below it; each remedy once."""
    out = error_console()
    out.print(title, style="bold", highlight=False, soft_wrap=True)
    if not rows:
        return
    table = Table(box=None, show_header=False)
    remedies: dict[str, None] = {}
    for one, text, effect in rows:
        colour = _COLOURS[one["verdict"]]
        more = f"\n[dim]{escape(effect)}[/]" if effect else ""
        table.add_row(escape(one["key"]), f"[{colour}]{one['verdict']}[/]", escape(text) + more)
        remedies[one["remedy"]] = None
    out.print(table)
    for remedy in remedies:
        out.print(f"[dim]remedy: {escape(remedy)}[/]")


def _number(value: Any, digits: int = 5) -> str:
    if not isinstance(value, int | float):
        return "-"
    # 101325 and not 1.0132e+05: pressures and geopotentials are read as they are.
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e7 else f"{value:.{digits}g}"


def _share(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.1%}" if value else "0"
