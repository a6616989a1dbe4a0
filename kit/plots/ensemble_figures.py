"""Figures of ensembles: plumes and postage stamps of forecasts, spread and error, ranks and reliability of scores.

Dimensions: M member, L lead, H latitude, W longitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from kit.plots.curves import displayed, hours_of, series_of, thinned
from kit.plots.maps import MapChannel, MapSetting, add_map, fill_map
from kit.plots.scales import draw_bar, field_scale
from kit.plots.styles import BLUE, GREY, INK, ORANGE, framed, gridded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Scores by lead (``024h``) and channel, as ``ensemble`` of a scorecard has them."""

_USUAL = ("2t", "msl", "10ws", "tp", "z_500", "t_850")
_MOST_PANELS = 4
_MOST_CURVES = 4
_MOST_STAMPS = 20
"""Maps beyond which nobody sees anything on one page."""
_COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7")


def plume(
    channel: MapChannel,
    hours: Sequence[float],
    members_ML: Array,
    target_L: Array | None,
    *,
    place: str,
    start: str,
    synthetic: bool = False,
) -> Figure:
    """Draw every member against the lead, their mean, and what came.

    Args:
        channel: What is drawn.
        hours: Leads.
        members_ML: Values in the store's unit, [M, L].
        target_L: What came; NaN where it is not known. None without.
        place: Point or area that values are of.
        start: Initial time in words.
        synthetic: Whether the values are a simulation's; then the figure says so.
    """
    style = channel.style
    subtitle = f"{place} · from {start} · {len(members_ML)} members"
    figure = framed(7.0, 3.4, channel.title, subtitle, synthetic=synthetic)
    axes = figure.subplots()
    shown_ML = style.display(np.asarray(members_ML, dtype=np.float64))
    marker = "o" if len(hours) < 2 else None
    for number, member_L in enumerate(shown_ML):
        label = "members" if number == 0 else None
        axes.plot(hours, member_L, color=BLUE, linewidth=0.8, alpha=0.45, marker=marker, markersize=3, label=label)
    mean_L = shown_ML.mean(axis=0)
    axes.plot(hours, mean_L, color=BLUE, linewidth=2.4, marker=marker, label="mean of the members")
    if target_L is not None and np.isfinite(target_L).any():
        axes.plot(
            hours, style.display(target_L), color=INK, linewidth=1.6, marker="o", markersize=3.5, label="analysis"
        )
    axes.set_xlabel("lead, h", fontsize=9.5, color=INK)
    axes.set_ylabel(style.unit, fontsize=9.5, color=INK)
    axes.margins(x=0.02)
    axes.set_xticks(thinned(list(hours), 8))
    _plain_numbers(axes)
    gridded(axes, "y")
    _legend_above(figure, [axes])
    return figure


def stamps(
    channel: MapChannel,
    members_MHW: Array,
    numbers: Sequence[int],
    target_HW: Array | None,
    setting: MapSetting,
    *,
    when: str,
) -> Figure:
    """Draw a small map of what came, of the mean of the members, and of each of them, on one scale.

    Args:
        channel: What is drawn.
        members_MHW: Values in the store's unit, [M, H, W]; of many the first are drawn.
        numbers: Number of each member, [M], as the file counts them.
        target_HW: What came; None where it is not known.
        setting: Grid and coasts.
        when: Valid time and lead in words.
    """
    style = channel.style
    maps: dict[str, Array] = {}
    if target_HW is not None:
        maps["Analysis"] = target_HW
    maps["Mean of the members"] = members_MHW.mean(axis=0, dtype=np.float64)
    for number, member_HW in zip(numbers[:_MOST_STAMPS], members_MHW, strict=False):
        maps[f"Member {number}"] = member_HW
    maps = {name: style.display(np.asarray(field, dtype=np.float64)) for name, field in maps.items()}
    if len(members_MHW) > _MOST_STAMPS:
        when += f" · the first {_MOST_STAMPS} of {len(members_MHW)} members"
    shape = setting.grid.height_per_width
    columns = math.ceil(math.sqrt(len(maps) * min(max(shape, 0.5), 2.0) * 1.4))
    columns = min(max(columns, 2), len(maps))
    rows = math.ceil(len(maps) / columns)
    panel = max(min(2.2, 2.4 / shape), 1.2, 5.2 / columns)
    height = rows * (panel * shape + 0.36) + 0.1
    figure = framed(columns * panel + 1.3, height, channel.title, when, synthetic=setting.synthetic)
    grid = figure.subplots(rows, columns, squeeze=False)
    scale = field_scale(style, maps.values())
    all_axes = list(grid.ravel())
    for axes, (name, field_HW) in zip(all_axes, maps.items(), strict=False):
        mesh = add_map(axes, setting, scale, below=False, left=False)
        fill_map(mesh, setting.grid, field_HW)
        weight = "normal" if name.startswith("Member") else "bold"
        axes.set_title(name, fontsize=8.5, loc="left", color=INK, fontweight=weight)
    for axes in all_axes[len(maps) :]:
        axes.set_axis_off()
    draw_bar(figure, mesh, all_axes, style.unit, scale.ends)
    return figure


def spread_and_error(leads: Rows, units: Mapping[str, str], *, title: str, synthetic: bool = False) -> Figure:
    """Draw spread, error of the mean and CRPS against the lead, and below the ratio of spread and error.

    Args:
        leads: Scores by lead and channel.
        units: Unit of each channel in the store.
        title: What is scored.
        synthetic: Whether the values are a simulation's; then the figure says so.
    """
    channels = _chosen(leads, "spread")
    hours = [hours_of(lead) for lead in leads]
    figure = framed(2.9 * len(channels) + 0.7, 4.3, title, " ", synthetic=synthetic)
    grid = figure.subplots(2, len(channels), squeeze=False, sharex=True, height_ratios=(1.5, 1))
    for (above, below), channel in zip(grid.T, channels, strict=True):
        label, factor, unit = displayed(channel, units.get(channel))
        rows = [leads[lead].get(channel, {}) for lead in leads]
        for key, name, colour, line in (
            ("rmse", "RMSE of the mean", ORANGE, "-"),
            ("spread", "spread", BLUE, "-"),
            ("crps", "CRPS", GREY, "--"),
        ):
            values = series_of(rows, key, factor)
            above.plot(hours, values, color=colour, linestyle=line, marker="o", markersize=3, label=name)
        above.set_ylim(bottom=0)
        above.set_title(label, fontsize=10, loc="left", color=INK)
        above.set_ylabel(unit, fontsize=9, color=INK)
        low, high = (series_of(rows, f"spread_error_{end}") for end in ("low", "high"))
        if np.isfinite(low).any():
            below.fill_between(hours, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % of such periods")
        below.plot(hours, series_of(rows, "spread_error"), color=BLUE, marker="o", markersize=3)
        below.axhline(1, color=INK, linewidth=0.8)
        below.set_ylabel("spread / error", fontsize=9, color=INK)
        below.set_xlabel("lead, h", fontsize=9, color=INK)
        # What is wrong by a few per cent must not look as wrong as what is wrong by half.
        bottom, top = below.get_ylim()
        below.set_ylim(min(bottom, 0.8), max(top, 1.2))
        for axes in (above, below):
            gridded(axes, "y")
            axes.set_xticks([hours_of(lead) for lead in thinned(list(leads), 6)])
            _plain_numbers(axes)
    _legend_above(figure, grid.ravel())
    return figure


def rank_histograms(rows: Mapping[str, Mapping[str, Any]], *, title: str, when: str, synthetic: bool = False) -> Figure:
    """Draw how often what came has each rank among the members.

    Args:
        rows: Scores by channel at one lead.
        title: What is scored.
        when: Lead in words.
        synthetic: Whether the values are a simulation's; then the figure says so.
    """
    channels = _chosen({"": rows}, "rank_histogram")
    figure = framed(2.9 * len(channels) + 0.4, 2.5, title, when, synthetic=synthetic)
    for axes, channel in zip(figure.subplots(1, len(channels), squeeze=False)[0], channels, strict=True):
        shares = np.asarray(rows[channel]["rank_histogram"])
        axes.bar(np.arange(len(shares)), shares, width=0.86, color=BLUE)
        axes.axhline(1 / len(shares), color=INK, linewidth=1, linestyle="--")
        axes.set_title(displayed(channel, None)[0], fontsize=10, loc="left", color=INK)
        axes.set_ylim(0, max(1.1 * shares.max(), 1.6 / len(shares)))
        axes.set_xlabel(f"rank of the analysis\n{_flatness_text(rows[channel].get('rank_flatness'))}", fontsize=8.5)
        axes.set_ylabel("share of points", fontsize=8.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        gridded(axes, "y")
    return figure


def reliability_diagram(
    curves: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, when: str, synthetic: bool = False
) -> Figure:
    """Draw how often events came against the probabilities that they were given, and how often these were given.

    Args:
        curves: Curves by event, as ``kit.verification.ensemble_probabilities.curve`` makes them.
        title: What is scored.
        when: Lead in words.
        synthetic: Whether the values are a simulation's; then the figure says so.
    """
    figure = framed(6.4, 4.6, title, when, synthetic=synthetic)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    above.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", label="as often as it is said")
    shown = [(label, curve) for label, curve in curves.items() if len(curve["probability"]) > 1][:_MOST_CURVES]
    for (label, curve), colour in zip(shown, _COLOURS, strict=False):
        above.plot(
            curve["probability"],
            curve["observed"],
            color=colour,
            marker="o",
            markersize=4,
            label=f"\N{GREATER-THAN OR EQUAL TO} {label}",
        )
        below.plot(curve["probability"], curve["share"], color=colour, marker="o", markersize=3)
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    above.set_ylabel("share of points where it came", fontsize=9, color=INK)
    below.set_ylabel("share of points", fontsize=9, color=INK)
    below.set_yscale("log")
    rarest = min((share for _, curve in shown for share in curve["share"]), default=0.1)
    # From one power of ten to another, or the axis would have no number.
    below.set_ylim(10.0 ** math.floor(math.log10(rarest) - 0.1), 1.5)
    below.yaxis.set_major_locator(LogLocator(numticks=4))
    below.yaxis.set_minor_formatter(NullFormatter())
    below.set_xlabel("probability: share of members", fontsize=9, color=INK)
    for axes in (above, below):
        gridded(axes, "y")
    above.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper left")
    return figure


def _chosen(leads: Rows, key: str) -> list[str]:
    """Choose channels that have a score: the usual ones first."""
    known = list(dict.fromkeys(name for rows in leads.values() for name, row in rows.items() if key in row))
    usual = [name for name in _USUAL if name in known]
    return [*usual, *(name for name in known if name not in usual)][:_MOST_PANELS]


def _flatness_text(p_value: float | None) -> str:
    if p_value is None:
        return "too few dates for a test"
    return f"{'not flat' if p_value < 0.05 else 'flat but for chance'} (p {p_value:.2g})"


def _legend_above(figure: Figure, all_axes: Sequence[Axes] | Array) -> None:
    """Write one legend into the head, in the place of the subtitle where that is empty, where no curve runs through."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if figure.texts[1].get_text().strip():
        all_axes[0].legend(handles.values(), handles.keys(), frameon=False, fontsize=8.5, labelcolor=INK)
        return
    figure.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        ncols=len(handles),
        loc="upper left",
        bbox_to_anchor=(0.0, figure.texts[1].get_position()[1] + 0.02),
    )


def _plain_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}".replace("-", "\N{MINUS SIGN}")))
