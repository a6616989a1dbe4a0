"""What all figures share: a head that says what is shown, and the PNG they end in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kit.plots.styles import GREY, INK, ORANGE

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

__all__ = ["SYNTHETIC_LABEL", "framed", "plain", "save"]

SYNTHETIC_LABEL = "SYNTHETIC SAMPLE · not observed weather"

_HEAD, _MARGIN = 0.72, 0.12
"""Inches above the axes for the head, and around everything."""


def framed(width: float, height: float, title: str, subtitle: str = "", *, synthetic: bool = False) -> Figure:
    """Start a figure with its head written, and the space below it left to the axes.

    Args:
        width: Inches.
        height: Inches, without the head.
        title: What is shown.
        subtitle: When, how, from where.
        synthetic: Whether the values are a simulation's; then the figure says so.

    Returns:
        A figure bound to no window and no global state, laid out so that nothing overlaps.
    """
    whole = height + _HEAD
    figure = Figure(figsize=(width, whole))
    rectangle = (_MARGIN / width, _MARGIN / whole, 1 - 2 * _MARGIN / width, (height - _MARGIN) / whole)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=rectangle, w_pad=0.06, h_pad=0.05))
    left = _MARGIN / width
    figure.text(left, 1 - 0.14 / whole, title, va="top", fontsize=13, fontweight="bold", color=INK)
    figure.text(left, 1 - 0.42 / whole, subtitle, va="top", fontsize=9.5, color="#595959")
    if synthetic:
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": ORANGE}
        right, top = 1 - 1.6 * _MARGIN / width, 1 - 0.18 / whole
        figure.text(right, top, SYNTHETIC_LABEL, ha="right", va="top", fontsize=8, color=ORANGE, bbox=box)
    return figure


def plain(axes: Axes) -> None:
    """Leave of an axes' frame only what carries values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=INK, labelsize=8.5)


def save(figure: Figure, path: Path, *, dpi: int = 150) -> Path:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes.

    Args:
        figure: What to draw.
        path: The file, ending in ``.png``; its folder is made, an existing file replaced.
        dpi: Pixels per inch.

    Returns:
        ``path``.

    Raises:
        ValueError: ``path`` does not end in ``.png``.
        OSError: the file cannot be written; nothing is left behind.
    """
    if path.suffix != ".png":
        msg = f"figures are written as PNG, got {path.name!r}: end it in .png"
        raise ValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=dpi, metadata={"Software": None})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
