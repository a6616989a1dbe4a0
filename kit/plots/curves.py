"""Curves and scorecards: how a run went, and what it is worth."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from kit.metrics.epochs import EpochLosses, epoch_losses
from kit.plots.styles import BLUE, INK, ORANGE, channel_label, framed, gridded, plain, style_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Lead = TypeVar("Lead", str, float)

_LEVEL_KEY = re.compile(r"(.+?)_(\d+(?:_\d+)?)")
_FLOOR = -0.5
"""Skill below this is drawn as an arrow with its number: one hopeless channel must not flatten the others."""


def loss_curves(records: Iterable[Mapping[str, Any]], *, title: str = "Loss", synthetic: bool = False) -> Figure:
    """Draw training and validation loss against the step.

    The training loss is shown as it is (thin) and smoothed (thick: centred mean over a thirtieth of the run);
    the best validation is marked. The axis is logarithmic where the values span a factor of five.

    Args:
        records: Lines of ``metrics.jsonl``: ``step``, ``kind`` (``train``, ``valid`` or ``ema``; others are left
            out), ``loss``, and of training ``epoch``.
        title: What run this is.
        synthetic: Whether the run's data are a simulation's; then the figure says so.

    Returns:
        The figure.

    Raises:
        ValueError: no record carries a loss.
    """
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    lines = list(records)
    for record in lines:
        if record.get("kind") in ("train", "valid", "ema") and record.get("loss") is not None:
            points[record["kind"]].append((float(record["step"]), float(record["loss"])))
    if not points:
        msg = "no records with a loss: expected lines of metrics.jsonl of kind 'train' or 'valid'; has the run begun?"
        raise ValueError(msg)
    series = {kind: np.array(sorted(pairs)).T for kind, pairs in points.items()}
    figure = framed(8.0, 3.9, title, _loss_subtitle(epoch_losses(lines), series), synthetic=synthetic)
    axes = figure.subplots()
    if "train" in series:
        step, loss = series["train"]
        # One point draws no line.
        marker = "o" if len(step) == 1 else None
        axes.plot(step, loss, color=BLUE, alpha=0.3, linewidth=0.8, marker=marker, markersize=3)
        axes.plot(step, _smooth(loss), color=BLUE, linewidth=1.8, label="training")
    if "valid" in series:
        step, loss = series["valid"]
        axes.plot(step, loss, color=ORANGE, linewidth=1.4, marker="o", markersize=4, label="validation")
        if np.isfinite(loss).any():
            best = int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))
            label = f"best, step {step[best]:g}: {loss[best]:.4g}"
            ring: dict[str, Any] = {"marker": "o", "markersize": 10, "fillstyle": "none", "linestyle": "none"}
            axes.plot(step[best], loss[best], color=ORANGE, label=label, **ring)
    if "ema" in series:
        axes.plot(*series["ema"], color=INK, linewidth=1.2, linestyle="--", label="validation of the average")
    losses = np.concatenate([loss for _, loss in series.values()])
    losses = losses[np.isfinite(losses)]
    if losses.size and losses.min() > 0 and losses.max() > 5 * losses.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step", fontsize=9.5, color=INK)
    axes.set_ylabel("loss", fontsize=9.5, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    gridded(axes, "y")
    axes.margins(x=0.02)
    # Above the axes, where no curve can run through it.
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0
    )
    return figure


def _loss_subtitle(training: EpochLosses | None, series: Mapping[str, Array]) -> str:
    """State what training and validation came to, in the numbers that the run itself states."""
    parts = []
    if training is not None:
        parts.append(f"training {training}")
    if "valid" in series and series["valid"].shape[1] > 1:
        loss = series["valid"][1]
        parts.append(f"validation {loss[0]:.4g} -> {loss[-1]:.4g}")
    return " · ".join(parts).replace("->", "\N{RIGHTWARDS ARROW}")


def _smooth(loss: Array) -> Array:
    """Average over a centred window, cut off at the ends; a loss that is not finite is left out."""
    window = np.ones(2 * (len(loss) // 60) + 1)
    finite = np.isfinite(loss)
    counts = np.convolve(finite, window, mode="same")
    sums = np.convolve(np.where(finite, loss, 0), window, mode="same")
    smooth = np.full(len(loss), np.nan)
    np.divide(sums, counts, out=smooth, where=counts > 0)
    return smooth


def scorecard(
    skills: Mapping[str, float],
    *,
    before: Mapping[str, float] | None = None,
    reference: str = "persistence",
    title: str = "Skill",
    subtitle: str = "",
    synthetic: bool = False,
) -> Figure:
    """Draw skill as bars: one panel of surface variables, one of levels for each atmospheric variable.

    Better than the reference points right in blue, worse points left in vermilion.

    Args:
        skills: 1 - RMSE / RMSE of the reference, by channel (``2t``, ``u_500``).
        before: Skill of the weights that training began from, drawn as an open diamond.
        reference: What the skill is measured against.
        title: What is scored.
        subtitle: Samples, lead time, period.
        synthetic: Whether the values are a simulation's; then the figure says so.

    Returns:
        The figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not skills:
        msg = "no skill to draw: the evaluation scored no variable"
        raise ValueError(msg)
    panels = panels_of(skills)
    rows = max(map(len, panels.values()))
    before = before or {}
    if before:
        subtitle = " · ".join(filter(None, (subtitle, "\N{WHITE DIAMOND} before training")))
    width, height = max(2.3 * len(panels) + 1.2, 6.5), max(0.24 * rows, 1.2) + 0.95
    figure = framed(width, height, title, subtitle, synthetic=synthetic)
    finite = [value for value in (0.0, *skills.values(), *before.values()) if math.isfinite(value)]
    low, high = max(min(finite), _FLOOR), min(max(finite), 1.0)
    room = 0.12 * max(high - low, 0.1)
    if low < 0:
        low -= room
    for axes, (name, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        # Bars of a short panel are thicker than those of the longest, up to twice.
        _draw_bars(axes, keys, skills, before, thickness=min(0.72, 1.44 * len(keys) / rows))
        axes.set_xlim(low, high + room)
        axes.set_title(name, fontsize=10, loc="left", color=INK)
    figure.supxlabel(f"skill: 1 \N{MINUS SIGN} RMSE / RMSE of {reference}", fontsize=9.5, color=INK)
    return figure


def split_channel(key: str) -> tuple[str, float | None]:
    """Split a channel's key into variable and level in hPa; None at the surface."""
    match = _LEVEL_KEY.fullmatch(key)
    if match is None:
        return key, None
    # Keys have an underscore for the point: ``t_92_5`` is 92.5 hPa.
    return match[1], float(match[2].replace("_", "."))


def panels_of(channels: Iterable[str]) -> dict[str, dict[str, str]]:
    """Sort channels into panels: for each, the channels from top to bottom with the text of their row."""
    surface: dict[str, str] = {}
    levels: dict[str, dict[float, str]] = defaultdict(dict)
    for key in channels:
        name, level = split_channel(key)
        if level is None:
            surface[key] = key
        else:
            levels[name][level] = key
    panels = {"Surface": surface} if surface else {}
    for name, keys in levels.items():
        panels[style_of(name).label] = {keys[level]: f"{level:g} hPa" for level in sorted(keys)}
    return panels


def _draw_bars(
    axes: Axes, keys: Mapping[str, str], skills: Mapping[str, float], before: Mapping[str, float], *, thickness: float
) -> None:
    values = np.array([skills[key] for key in keys])
    rows = np.arange(len(values))
    shown = np.clip(np.nan_to_num(values, nan=0, neginf=_FLOOR), _FLOOR, None)
    axes.barh(rows, shown, height=thickness, color=np.where(shown >= 0, BLUE, ORANGE))
    # What a bar cannot show is written beside it: no number, or one below the floor.
    for row in np.flatnonzero(~(values >= _FLOOR)):
        number = f"{values[row]:.2g}".replace("-", "\N{MINUS SIGN}")
        text = "undefined" if math.isnan(values[row]) else f"\N{BLACK LEFT-POINTING TRIANGLE} {number}"
        offset: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(text, (0, row), va="center", fontsize=7.5, color=INK, **offset)
    earlier = np.array([before.get(key, math.nan) for key in keys])
    marked = earlier >= _FLOOR
    if marked.any():
        diamond: dict[str, Any] = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": INK}
        axes.plot(earlier[marked], rows[marked], linestyle="none", **diamond)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(rows, list(keys.values()))
    # From the top down, as the panel's channels are listed.
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    gridded(axes, "x")
    axes.tick_params(axis="y", length=0)


def edge_errors(rings: Sequence[Mapping[str, Any]], *, title: str = "Edge", synthetic: bool = False) -> Figure:
    """Draw errors against the distance from the edge of what a model sees, one line for each variable.

    Args:
        rings: The ``edge`` of a scorecard.
        title: What is scored.
        synthetic: Whether the values are a simulation's; then the figure says so.

    Returns:
        The figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    ratios: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in rings])
    for ring, errors in enumerate(rings):
        for key, reference in errors["persistence_rmse"].items():
            if reference and errors["rmse"].get(key) is not None:
                ratios[split_channel(key)[0]][ring].append(errors["rmse"][key] / reference)
    if not ratios:
        msg = "no errors by distance to draw: the evaluation found no ring with an error beside persistence's"
        raise ValueError(msg)
    scored = [ring["distance"] for ring in rings if ring["scored"] > 0]
    subtitle = f"mean over levels; scored from {scored[0]} grid points on" if scored else "mean over levels"
    figure = framed(7.0, 3.9, title, subtitle, synthetic=synthetic)
    axes = figure.subplots()
    for name, of_rings in ratios.items():
        # NaN leaves a gap in the line where a ring has no error.
        means = [sum(values) / len(values) if values else math.nan for values in of_rings]
        axes.plot(range(len(rings)), means, marker="o", markersize=3.5, linewidth=1.4, label=style_of(name).label)
    # Above this line persistence is better.
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(rings)), [f"{ring['distance']}+" for ring in rings])
    axes.set_xlabel("grid points from the edge", fontsize=9.5, color=INK)
    axes.set_ylabel("RMSE / RMSE of persistence", fontsize=9.5, color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    plain(axes)
    return figure


def series_of(rows: Sequence[Mapping[str, Any]], key: str, factor: float = 1.0) -> np.ndarray[Any, Any]:
    """Return a score of several rows times a factor, [N]; NaN where there is none."""
    values = [row.get(key) for row in rows]
    return factor * np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def displayed(channel: str, unit: str | None) -> tuple[str, float, str]:
    """Return a channel's label, the factor to the unit of differences, and that unit."""
    name, level = split_channel(channel)
    style = style_of(name, unit)
    return channel_label(style, level), style.factor, style.error_unit


def hours_of(lead: str) -> float:
    """Read a lead's name, such as ``024h``, as hours."""
    return float(lead.removesuffix("h"))


def thinned(leads: Sequence[Lead], most: int) -> list[Lead]:
    """Keep as many leads as there is room for, evenly spread, the last among them."""
    step = -(-len(leads) // most)
    return list(leads[::-1][::step][::-1])
