"""The figure of a denoising network: loss by the level of noise, power of samples, and noisy states made out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from kit.plots.styles import BLUE, INK, ORANGE, framed, gridded, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 3.0
"""Standard deviations at the ends of the colours."""


def sample_figure(quality: Mapping[str, Any], *, title: str, synthetic: bool = False) -> Figure:
    """Draw what ``kit.diffusion.quality.sample_quality`` found.

    Args:
        quality: What it returned.
        title: What run this is.
        synthetic: Whether the run's data are a simulation's; then the figure says so.
    """
    fields = quality["fields"]
    subtitle = f"power of samples over that of targets at 2 to 8 grid lengths: {quality['fine']:.3g}"
    figure = framed(11.0, 6.4, title, subtitle, synthetic=synthetic)
    # Apart, so that labels of the curves push no fields aside.
    halves = figure.add_gridspec(2, 1, height_ratios=(1.4, 2))
    curves = halves[0].subgridspec(1, 2)
    grid = halves[1].subgridspec(2, len(fields["shown"]) + 1)
    _draw_loss(figure.add_subplot(curves[0]), quality["loss"])
    _draw_power(figure.add_subplot(curves[1]), quality["power"])
    target = figure.add_subplot(grid[:, 0])
    _draw_field(target, fields["target"], f"{fields['channel']}, target")
    for column, shown in enumerate(fields["shown"], start=1):
        noise = f"noise beyond {shown['share']:.0%} of levels"
        _draw_field(figure.add_subplot(grid[0, column]), shown["noisy"], noise)
        _draw_field(figure.add_subplot(grid[1, column]), shown["estimate"], "estimate")
    return figure


def _draw_loss(axes: Axes, losses: list[list[float]]) -> None:
    shares, values = np.array(losses).T
    axes.plot(100 * shares, values, color=BLUE, marker="o", markersize=4)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("levels of less noise, %")
    axes.set_ylabel("loss")
    gridded(axes, "y")
    plain(axes)


def _draw_power(axes: Axes, power: Mapping[str, list[float]]) -> None:
    axes.plot(power["wavelength"], power["target"], color=INK, label="targets")
    axes.plot(power["wavelength"], power["sample"], color=ORANGE, label="samples")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xticks([2, 4, 8, 16, 32, 64, 128], labels=["2", "4", "8", "16", "32", "64", "128"])
    axes.set_xlim(max(power["wavelength"]) * 1.1, 1.9)
    axes.minorticks_off()
    axes.set_xlabel("wavelength, grid lengths")
    axes.set_ylabel("power")
    axes.legend(frameon=False)
    gridded(axes, "y")
    plain(axes)


def _draw_field(axes: Axes, field: list[list[float]], title: str) -> None:
    axes.imshow(np.array(field), cmap="RdBu_r", vmin=-_MOST, vmax=_MOST, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
