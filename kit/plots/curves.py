"""Curves and scorecards: how a run went, and what it is worth."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from kit.plots.styles import BLUE, INK, ORANGE, framed, plain, style_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["edge_errors", "loss_curves", "scorecard"]

Array = np.ndarray[Any, Any]

_LEVEL_KEY = re.compile(r"(.+?)_(\d+(?:_\d+)?)")
_FLOOR = -0.5
"""Skill below this is drawn as an arrow with its number: one hopeless channel must not flatten the others."""


def loss_curves(records: Iterable[Mapping[str, Any]], *, title: str = "Loss", synthetic: bool = False) -> Figure:
    """Draw training and validation loss against the step.

    The training loss is shown as it is (thin) and smoothed (thick: centred mean over a thirtieth of the run);
    the best validation is marked. The axis is logarithmic where the values span a factor of five.

    Args:
        records: Lines of ``metrics.jsonl``: ``step``, ``kind`` (``train`` or ``valid``; others are left out), ``loss``.
        title: What run this is.
        synthetic: Whether the run's data are a simulation's; then the figure says so.

    Returns:
        The figure.

    Raises:
        ValueError: no record carries a loss.
    """
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if record.get("kind") in ("train", "valid") and record.get("loss") is not None:
            points[record["kind"]].append((float(record["step"]), float(record["loss"])))
    if not points:
        msg = "no records with a loss: expected lines of metrics.jsonl of kind 'train' or 'valid'; has the run begun?"
        raise ValueError(msg)
    series = {kind: np.array(sorted(pairs)).T for kind, pairs in points.items()}
    figure = framed(8.0, 3.9, title, _loss_subtitle(series), synthetic=synthetic)
    axes = figure.subplots()
    if "train" in series:
        _draw_training(axes, *series["train"])
    if "valid" in series:
        _draw_validation(axes, *series["valid"])
    _finish_loss_axes(axes, np.concatenate([loss for _, loss in series.values()]))
    return figure


def _draw_training(axes: Axes, step: Array, loss: Array) -> None:
    axes.plot(step, loss, color=BLUE, alpha=0.3, linewidth=0.8, marker="o" if len(step) == 1 else None, markersize=3)
    axes.plot(step, _smooth(loss), color=BLUE, linewidth=1.8, label="training")


def _draw_validation(axes: Axes, step: Array, loss: Array) -> None:
    axes.plot(step, loss, color=ORANGE, linewidth=1.4, marker="o", markersize=4, label="validation")
    if np.isfinite(loss).any():
        best = int(np.nanargmin(np.where(np.isfinite(loss), loss, np.nan)))
        axes.plot(step[best], loss[best], marker="o", markersize=10, fillstyle="none", color=ORANGE, linestyle="none",
                  label=f"best, step {step[best]:g}: {loss[best]:.4g}")  # fmt: skip


def _finish_loss_axes(axes: Axes, losses: Array) -> None:
    positive = losses[np.isfinite(losses) & (losses > 0)]
    if positive.size == losses[np.isfinite(losses)].size > 0 and positive.max() > 5 * positive.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step", fontsize=9.5, color=INK)
    axes.set_ylabel("loss", fontsize=9.5, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(visible=True, axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    # Above the axes, where no curve can run through it.
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0
    )
    plain(axes)


def _loss_subtitle(series: Mapping[str, Array]) -> str:
    """State the change of each curve; that of training between the first and the last smoothed value."""
    parts = []
    for kind, name in (("train", "training"), ("valid", "validation")):
        if kind in series and series[kind].shape[1] > 1:
            loss = _smooth(series[kind][1]) if kind == "train" else series[kind][1]
            parts.append(f"{name} {loss[0]:.4g} → {loss[-1]:.4g}")
    return " · ".join(parts)


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
    panels = _panels(skills)
    rows = max(len(panel) for panel in panels.values())
    if before:
        subtitle = " · ".join(filter(None, (subtitle, "\N{WHITE DIAMOND} before training")))
    figure = framed(
        max(2.3 * len(panels) + 1.2, 6.5), max(0.24 * rows, 1.2) + 0.95, title, subtitle, synthetic=synthetic
    )
    limits = _limits([*skills.values(), *(before or {}).values()])
    for axes, (name, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_bars(axes, keys, skills, before or {}, thickness=min(0.72, 1.44 * len(keys) / rows))
        axes.set_xlim(*limits)
        axes.set_title(name, fontsize=10, loc="left", color=INK)
    figure.supxlabel(f"skill: 1 \N{MINUS SIGN} RMSE / RMSE of {reference}", fontsize=9.5, color=INK)
    return figure


def _panels(skills: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """Sort channels into panels: for each, the channels from top to bottom with the text beside the bar."""
    surface: dict[str, str] = {}
    levels: dict[str, dict[float, str]] = defaultdict(dict)
    for key in skills:
        if match := _LEVEL_KEY.fullmatch(key):
            levels[match[1]][float(match[2].replace("_", "."))] = key
        else:
            surface[key] = key
    panels = {"Surface": surface} if surface else {}
    for name, keys in levels.items():
        panels[style_of(name).label] = {keys[level]: f"{level:g} hPa" for level in sorted(keys)}
    return panels


def _limits(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = max(min(*finite, 0.0), _FLOOR), min(max(*finite, 0.0), 1.0)
    room = 0.12 * max(high - low, 0.1)
    return low - (room if low < 0 else 0), high + room


def _draw_bars(
    axes: Axes, keys: Mapping[str, str], skills: Mapping[str, float], before: Mapping[str, float], *, thickness: float
) -> None:
    values = np.array([skills[key] for key in keys])
    rows = np.arange(len(values))
    shown = np.clip(np.nan_to_num(values, nan=0, neginf=_FLOOR), _FLOOR, None)
    axes.barh(rows, shown, height=thickness, color=[BLUE if value >= 0 else ORANGE for value in shown])
    for row, value in enumerate(values):
        if not value >= _FLOOR:
            axes.annotate(
                _beside(value), (0, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5,
                color=INK,
            )  # fmt: skip
    marks = [(before[key], row) for row, key in enumerate(keys) if before.get(key, math.nan) >= _FLOOR]
    if marks:
        axes.plot(*zip(*marks, strict=True), linestyle="none", marker="D", markersize=4.5, markerfacecolor="white",
                  markeredgecolor=INK)  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(rows, list(keys.values()))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(visible=True, axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    plain(axes)
    axes.tick_params(axis="y", length=0)


def _beside(value: float) -> str:
    """Say in words what a bar cannot show."""
    number = f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
    return "undefined" if math.isnan(value) else f"\N{BLACK LEFT-POINTING TRIANGLE} {number}"


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
    lines = _edge_lines(rings)
    if not lines:
        msg = "no errors by distance to draw: the evaluation found no ring with an error beside persistence's"
        raise ValueError(msg)
    scored = [ring["distance"] for ring in rings if ring["scored"] > 0]
    subtitle = f"mean over levels; scored from {scored[0]} grid points on" if scored else "mean over levels"
    figure = framed(7.0, 3.9, title, subtitle, synthetic=synthetic)
    axes = figure.subplots()
    for name, ratios in lines.items():
        axes.plot(range(len(rings)), ratios, marker="o", markersize=3.5, linewidth=1.4, label=style_of(name).label)
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(rings)), [f"{ring['distance']}+" for ring in rings])
    axes.set_xlabel("grid points from the edge", fontsize=9.5, color=INK)
    axes.set_ylabel("RMSE / RMSE of persistence", fontsize=9.5, color=INK)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    plain(axes)
    return figure


def _edge_lines(rings: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """For each variable the ratio of errors in each ring, a mean over levels; NaN where there is none."""
    ratios: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in rings])
    for place, ring in enumerate(rings):
        for key, reference in ring["persistence_rmse"].items():
            if reference and ring["rmse"].get(key) is not None:
                match = _LEVEL_KEY.fullmatch(key)
                ratios[match[1] if match else key][place].append(ring["rmse"][key] / reference)
    return {
        name: [sum(values) / len(values) if values else math.nan for values in parts] for name, parts in ratios.items()
    }
