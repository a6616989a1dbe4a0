"""Views of statistics: a table of them, what they are compared with, verdicts; on standard error."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from kit.cli.views.tables import show_text
from kit.io.terminal import error_console

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_NUMBERS = ("mean", "std", "min", "median", "max")
_SHARES = {"zero_fraction": "zeros", "nan_fraction": "NaN", "inf_fraction": "inf"}


def show_statistics(result: Mapping[str, Any]) -> None:
    """Show the result of ``kit data stats``."""
    out = error_console()
    out.print(_table(result))
    for line in result["advice"]:
        out.print(f"[dim]{escape(line)}[/]")
    _show_drift(result["drift"])
    _show_splits(result["splits"])
    if result["written"]:
        show_text(f"written to {result['written']}")
    out.print("[green]no verdict is an error[/]" if result["passed"] else "[red]a verdict is an error[/]")


def _table(result: Mapping[str, Any]) -> Table:
    title = str(result["store"])
    if result["states"] is not None:
        origin = "stats.json" if result["recorded"] else "computed"
        title += f": {result['split'] or 'times'} {result['period']}, {result['states']} states"
        title += f", weights {result['weights']}, {origin}"
    table = Table(title=title, title_style="bold", box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("channel", no_wrap=True)
    for name in (*_NUMBERS, *_SHARES.values(), "skew"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("normalised by", overflow="fold")
    # A file of statistics has mean and scale alone; what is missing is a hyphen.
    for key, one in result["variables"].items():
        known = {**one, "median": one.get("quantiles", {}).get("0.5")}
        cells = [_number(known.get(name)) for name in _NUMBERS]
        cells += [_share(one.get(name)) for name in _SHARES]
        normalisation = ""
        # A file of statistics says nothing of what a run would normalise by.
        if "location" in one:
            normalisation = f"{_number(one['location'], 5)}, {_number(one['scale'], 4)}"
            if one["transform"] == "identity":
                normalisation = f"{one['normalised_by']}: {normalisation}"
            else:
                skew = _number(one["transformed_skewness"], 2)
                normalisation = f"{one['transform']}: {normalisation}, skew {skew}"
        table.add_row(key, *cells, _number(one.get("skewness"), 2), normalisation)
    return table


def _show_drift(drift: Mapping[str, Any]) -> None:
    channels = drift["channels"]
    name = escape(str(drift["against"]))
    if not channels:
        error_console().print(f"[dim]nothing that {name} has statistics of[/]")
        return
    rows = []
    for one in channels:
        if one["verdict"] != "ok":
            shift = f"{abs(one['shift']):.1f} scales from {_number(one['reference_mean'])}"
            ratio = f"{_number(one['ratio'], 3)} times {_number(one['reference_scale'])}"
            difference = f"mean {_number(one['mean'])}, {shift}; scale {_number(one['scale'])}, {ratio}"
            rows.append((one, difference, one["effect"]))
    _show_verdicts(f"against {name}: {len(channels) - len(rows)} of {len(channels)} channels agree", rows)


def _show_splits(splits: Mapping[str, Any]) -> None:
    channels = splits["channels"]
    if not channels:
        return
    rows = []
    for one in channels:
        if one["verdict"] != "ok":
            shift = f"mean {_number(one['shift'], 2)} scales away"
            ratio = f"{_number(one['ratio'], 2)} times as wide"
            index = f"{one['split']}: stability index {_number(one['psi'], 2)}"
            rows.append((one, f"{index}, {shift}, {ratio}", ""))
    names = " and ".join(dict.fromkeys(one["split"] for one in channels))
    agreeing = f"{len(channels) - len(rows)} of {len(channels)} channels"
    _show_verdicts(f"{names} against train, {splits['states']} states of each: {agreeing} agree", rows)


def _show_verdicts(title: str, rows: Sequence[tuple[Mapping[str, Any], str, str]]) -> None:
    """Show a heading, and below it channels that are not ok, with difference and effect; each remedy once."""
    out = error_console()
    out.print(title, style="bold", highlight=False, soft_wrap=True)
    if not rows:
        return
    table = Table(box=None, show_header=False)
    for one, difference, effect in rows:
        text = escape(difference)
        if effect:
            text += f"\n[dim]{escape(effect)}[/]"
        table.add_row(escape(one["key"]), f"[{_COLOURS[one['verdict']]}]{one['verdict']}[/]", text)
    out.print(table)
    # Many channels of one source have the same fault, and the same remedy.
    for remedy in dict.fromkeys(one["remedy"] for one, *_ in rows):
        out.print(f"[dim]remedy: {escape(remedy)}[/]")


def _number(value: Any, digits: int = 5) -> str:
    if not isinstance(value, int | float):
        return "-"
    # 101325 and not 1.0132e+05: pressures and geopotentials are read as they are.
    if 10**digits <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def _share(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1%}"
