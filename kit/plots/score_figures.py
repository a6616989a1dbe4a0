"""Figures of scores at several leads: a scorecard of changes, and curves with their intervals.

Dimensions: V channels of a panel, L leads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kit.plots.curves import displayed, hours_of, panels_of, series_of, thinned
from kit.plots.scales import draw_bar
from kit.plots.styles import BLUE, GREY, INK, ORANGE, framed, gridded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Scores by lead (``024h``) and channel, as ``leads`` of a scorecard has them."""

_BETTER = LinearSegmentedColormap.from_list("better", [BLUE, "#f7f7f7", ORANGE])
_MOST_LEADS = 12
_MOST_PANELS = 4
_USUAL = ("2t", "msl", "10ws", "tp", "z_500", "t_850")
_REFERENCES = {"base": ("the weights before training", GREY, "--"), "persistence": ("persistence", ORANGE, ":")}
_REFERENCES |= {"climatology": ("climatology", "#009e73", "-.")}
"""Label, colour and line of each forecast that a model is held against."""
_SCORES = {"rmse": "RMSE", "bias": "bias", "acc": "anomaly correlation"}


def score_changes(leads: Rows, reference: str, *, title: str = "Scorecard", synthetic: bool = False) -> Figure | None:
    """Draw a scorecard: the change of RMSE against another forecast, by channel and lead.

    Blue is better, vermilion worse; a dot marks what is significant at 5 %.

    Args:
        leads: Scores by lead and channel; ``NAME_rmse``, and ``NAME_significant`` where there are dates enough.
        reference: Name of the other forecast: ``base``, ``persistence``, ``climatology``.
        title: What is scored.
        synthetic: Whether the values are a simulation's; then the figure says so.

    Returns:
        The figure; None where that forecast was not scored.
    """
    shown = thinned(list(leads), _MOST_LEADS)
    changes: dict[str, list[float]] = {}
    for channel in dict.fromkeys(name for lead in shown for name in leads[lead]):
        changes[channel] = [_change(leads[lead].get(channel, {}), reference) for lead in shown]
    changes = {name: values for name, values in changes.items() if np.isfinite(values).any()}
    if not changes:
        return None
    panels = panels_of(changes)
    most = max(map(len, panels.values()))
    width, height = len(panels) * (0.9 + 0.28 * len(shown)) + 1.3, 0.22 * most + 1.0
    judged = any(f"{reference}_significant" in row for rows in leads.values() for row in rows.values())
    remark = "\N{BULLET} significant at 5 %" if judged else "too few dates to say what is significant"
    figure = framed(max(width, 6.5), height, title, f"change of RMSE · {remark}", synthetic=synthetic)
    finite = np.abs([value for values in changes.values() for value in values if math.isfinite(value)])
    # One hopeless channel must not pale all others.
    limit = max(float(np.quantile(finite, 0.95)), 1.0)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, keys) in zip(all_axes, panels.items(), strict=True):
        values_VL = np.array([changes[key] for key in keys])
        mesh = _draw_changes(axes, values_VL, limit)
        for row, key in enumerate(keys):
            marked = [at for at, lead in enumerate(shown) if leads[lead].get(key, {}).get(f"{reference}_significant")]
            axes.plot(marked, [row] * len(marked), linestyle="none", marker="o", markersize=2.5, color=INK)
        axes.set_title(name, fontsize=10, loc="left", color=INK)
        axes.set_yticks(range(len(keys)), list(keys.values()))
        axes.set_xticks(
            range(len(shown)), [f"{hours_of(lead):g}" for lead in shown], rotation=90 if len(shown) > 6 else 0
        )
    ends: Any = "both" if (finite > limit).any() else "neither"
    draw_bar(figure, mesh, list(all_axes), f"RMSE against {_REFERENCES[reference][0]}, %", ends)
    figure.supxlabel("lead, h", fontsize=9.5, color=INK)
    return figure


def _draw_changes(axes: Axes, values_VL: np.ndarray[Any, Any], limit: float) -> Any:
    colours = _BETTER.with_extremes(bad="#d0d0d0")
    values = np.ma.masked_invalid(values_VL)
    mesh = axes.imshow(values, norm=Normalize(-limit, limit), cmap=colours, aspect="auto", interpolation="nearest")
    # White lines between the cells.
    axes.set_xticks(np.arange(values_VL.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values_VL.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return mesh


def _change(row: Mapping[str, Any], reference: str) -> float:
    """Return by how many per cent the RMSE is above another forecast's; NaN where there is no such number."""
    ours, theirs = row.get("rmse"), row.get(f"{reference}_rmse")
    if ours is None or not theirs:
        return math.nan
    return 100 * (float(ours) / float(theirs) - 1)


def lead_curves(
    leads: Rows, units: Mapping[str, str], *, title: str = "Scores by lead", synthetic: bool = False
) -> Figure:
    """Draw RMSE, bias and anomaly correlation of a few channels against the lead.

    The band is the interval of 95 % of the RMSE, where there are dates enough for one.

    Args:
        leads: Scores by lead and channel.
        units: Unit of each channel in the store.
        title: What is scored.
        synthetic: Whether the values are a simulation's; then the figure says so.

    Returns:
        The figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    known = list(dict.fromkeys(name for rows in leads.values() for name in rows))
    if not known:
        msg = "no scores to draw: the evaluation scored no variable"
        raise ValueError(msg)
    channels = [name for name in _USUAL if name in known] or known
    channels = [*channels, *(name for name in known if name not in channels)][:_MOST_PANELS]
    scores = {
        key: name for key, name in _SCORES.items() if any(key in row for row in leads[next(iter(leads))].values())
    }
    figure = framed(3.0 * len(channels) + 0.6, 2.1 * len(scores) + 0.5, title, " ", synthetic=synthetic)
    grid = figure.subplots(len(scores), len(channels), squeeze=False, sharex=True)
    hours = [hours_of(lead) for lead in leads]
    for column, channel in enumerate(channels):
        label, factor, unit = displayed(channel, units.get(channel))
        rows = [leads[lead].get(channel, {}) for lead in leads]
        for axes, (key, name) in zip(grid[:, column], scores.items(), strict=True):
            own = 1.0 if key == "acc" else factor
            _draw_curve(axes, hours, rows, key, own)
            gridded(axes, "y")
            axes.set_xticks([hours_of(lead) for lead in thinned(list(leads), 6)])
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:.4g}".replace("-", "\N{MINUS SIGN}"))
            )
            axes.set_ylabel(name if key == "acc" else f"{name}, {unit}", fontsize=8.5, color=INK)
        grid[0, column].set_title(label, fontsize=10, loc="left", color=INK)
        grid[-1, column].set_xlabel("lead, h", fontsize=9, color=INK)
    handles: dict[str, Any] = {}
    for axes in grid.ravel():
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # In the head, where no curve can run through it.
    top = figure.texts[1].get_position()[1]
    figure.texts[1].set_visible(False)
    figure.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        ncols=len(handles),
        loc="upper left",
        bbox_to_anchor=(0.0, top + 0.02),
    )
    return figure


def _draw_curve(axes: Axes, hours: Sequence[float], rows: Sequence[Mapping[str, Any]], key: str, factor: float) -> None:
    """Draw one score of the model, and of the forecasts that it is held against where they have it."""
    for name, (label, colour, line) in _REFERENCES.items():
        values = series_of(rows, f"{name}_{key}", factor)
        if np.isfinite(values).any():
            axes.plot(
                hours, values, color=colour, linestyle=line, linewidth=1.4, marker="o", markersize=2.5, label=label
            )
    low, high = (series_of(rows, f"{key}_{end}", factor) for end in ("low", "high"))
    if np.isfinite(low).any():
        axes.fill_between(hours, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % of such periods")
    axes.plot(
        hours, series_of(rows, key, factor), color=BLUE, linewidth=1.8, marker="o", markersize=3, label="after training"
    )
    if key == "bias":
        axes.axhline(0, color=INK, linewidth=0.6)
