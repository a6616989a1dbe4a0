"""Colour scales of fields and errors, and their colour bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.colors import BoundaryNorm, Colormap, Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kit.plots.styles import ERROR_COLOURS, GREY, INK, Style

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Ends = Literal["neither", "min", "max", "both"]

_TAIL = 0.005
"""Fraction of points at either end that may lie beyond the colour scale, so that one point cannot flatten it."""
_ENOUGH = 1_000_000
"""Values that a scale is chosen by, of as many as there are."""
MISSING = "#d0d0d0"
"""Colour of missing values."""


@dataclass(frozen=True)
class ColourScale:
    """Colours of values.

    Attributes:
        norm: Map from values to the colour map.
        colours: Colour map; missing values are grey.
        ends: Ends of the colour bar that are arrows, because values lie beyond them.
    """

    norm: Normalize
    colours: Colormap
    ends: Ends = "neither"


def field_scale(style: Style, fields: Iterable[Array]) -> ColourScale:
    """Choose one scale for several fields of a variable, in its display unit."""
    colours = mpl.colormaps[style.colours].with_extremes(bad=MISSING)
    if style.steps:
        # What is below the first step is nothing: dry, or without an echo.
        stepped = colours.with_extremes(bad=MISSING, under="white")
        return ColourScale(BoundaryNorm(style.steps, stepped.N, extend="max"), stepped, "max")
    values = _finite(fields)
    if style.scale == "cyclic":
        return ColourScale(Normalize(0, 360), colours)
    if style.scale == "fraction":
        return ColourScale(Normalize(0, 1), colours, _arrows(values, 0, 1))
    if values.size == 0:
        return ColourScale(Normalize(0, 1), colours)
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL)).tolist()
    if style.scale == "diverging":
        high = max(abs(low), abs(high)) or float(np.abs(values).max()) or 1.0
        low = -high
    elif style.scale == "from zero":
        low, high = 0.0, _first_above_zero(high, values)
    elif high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        low, high = low - 0.5, high + 0.5
    return ColourScale(Normalize(low, high), colours, _arrows(values, low, high))


def error_scale(errors: Iterable[Array]) -> ColourScale:
    """Choose one scale for several fields of errors, symmetric about zero."""
    colours = mpl.colormaps[ERROR_COLOURS].with_extremes(bad=MISSING)
    values, high = _finite(errors), 1.0
    if values.size:
        sizes = np.abs(values)
        high = _first_above_zero(float(np.quantile(sizes, 1 - _TAIL)), sizes)
    return ColourScale(Normalize(-high, high), colours, _arrows(values, -high, high))


def _finite(fields: Iterable[Array]) -> Array:
    """Put the finite values of fields together, thinned where there are more than a scale needs."""
    flat = [np.ravel(field) for field in fields]
    step = max(1, sum(map(len, flat)) // _ENOUGH)
    values = np.concatenate([part[::step] for part in flat]) if flat else np.empty(0)
    return values[np.isfinite(values)]


def _first_above_zero(quantile: float, values: Array) -> float:
    """Return a quantile of values, their maximum, or 1: the first of them that a scale can end at."""
    return quantile if quantile > 0 else max(float(values.max()), 0.0) or 1.0


def _arrows(values: Array, low: float, high: float) -> Ends:
    """Choose the ends of the colour bar that are arrows: those that values lie beyond, both of a symmetric scale."""
    below, above = bool((values < low).any()), bool((values > high).any())
    if (below and above) or (low == -high and (below or above)):
        return "both"
    if below:
        return "min"
    return "max" if above else "neither"


def draw_bar(figure: Figure, mesh: Any, axes: list[Axes], label: str, ends: Ends) -> None:
    """Draw a colour bar to the right of a row of maps."""
    bar = figure.colorbar(mesh, ax=axes, location="right", extend=ends, aspect=18, pad=0.015, shrink=0.92)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, color=GREY, labelcolor=INK)
    if not isinstance(mesh.norm, BoundaryNorm):
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    # Numbers in full: a common factor beside the axis would run into the label, and be overlooked.
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}".replace("-", "\N{MINUS SIGN}")))
    bar.outline.set(edgecolor=GREY, linewidth=0.6)
