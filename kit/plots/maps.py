"""Maps: prediction, target and error side by side, from arrays.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kit.data.grid import continuous, corners, edges
from kit.metrics.scores import area_weights
from kit.plots.styles import ERROR_COLOURS, GREY, INK, Style, channel_label, framed, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

_TAIL = 0.005
"""Fraction of points at either end that may lie beyond the colour scale, so that one point cannot flatten it."""


@dataclass(frozen=True)
class _Grid:
    """A grid as it is drawn: longitudes without a jump, and the order of columns that makes them so."""

    latitude: Array
    """[H], or [H, W] of a curvilinear grid."""
    longitude: Array
    """[W] or [H, W]."""
    columns_W: Array

    @classmethod
    def of(cls, latitude: Array, longitude: Array) -> _Grid:
        """Begin after the widest gap between longitudes: a box across Greenwich stays in one piece."""
        latitude = np.asarray(latitude, dtype=np.float64)
        if latitude.ndim == 2:
            return cls(latitude, np.asarray(longitude, dtype=np.float64), np.arange(latitude.shape[1]))
        longitude_W = continuous(longitude)
        gaps = np.diff(longitude_W, append=longitude_W[0] + 360)
        widest = int(np.argmax(gaps))
        regional = gaps[widest] > 1.5 * np.median(gaps)
        # A map of the whole circle has Greenwich in its middle.
        first = widest + 1 if regional else int(np.sum(longitude_W < 180))
        first %= len(longitude_W)
        columns = np.roll(np.arange(len(longitude_W)), -first)
        unrolled = np.where((columns >= first) & (first > 0), longitude_W[columns] - 360, longitude_W[columns])
        return cls(latitude, unrolled, columns)

    @property
    def mesh(self) -> tuple[Array, Array]:
        """Longitudes and latitudes of the cells' edges, [W + 1] and [H + 1], or of their corners, [H + 1, W + 1]."""
        outlines = corners if self.latitude.ndim == 2 else edges
        return outlines(self.longitude), np.clip(outlines(self.latitude), -90, 90)

    @property
    def aspect(self) -> float:
        """Height of a degree of latitude over width of a degree of longitude, true in the middle of the map."""
        south, north = float(self.latitude.min()), float(self.latitude.max())
        # No middle stands for a map that reaches from pole to pole.
        if north - south > 120:
            return 1.0
        return 1 / max(float(np.cos(np.deg2rad((north + south) / 2))), 0.2)

    @property
    def height_per_width(self) -> float:
        """Shape of the map."""
        x, y = self.mesh
        return self.aspect * float(np.ptp(y) / np.ptp(x))


def comparison_map(
    prediction_HW: Array,
    target_HW: Array,
    latitude: Array,
    longitude: Array,
    *,
    variable: str,
    level: float | None = None,
    valid_time: datetime | np.datetime64[Any],
    lead_hours: float,
    land_sea_mask_HW: Array | None = None,
    unit: str | None = None,
    synthetic: bool = False,
    scored: tuple[slice, slice] | None = None,
) -> Figure:
    """Draw prediction, target and error of one channel.

    Prediction and target share one scale, between robust quantiles of both; the error has its own, symmetric
    about 0. Missing values are grey.

    Args:
        prediction_HW: Prediction in the store's unit.
        target_HW: Target in the store's unit.
        latitude: Degrees north, strictly decreasing, [H]; or of every point, [H, W].
        longitude: Degrees east in [0, 360), each one east of the one before, [W] or [H, W].
        variable: Aurora's short name; decides label, unit, colours and kind of scale.
        level: Pressure in hPa, for an atmospheric variable.
        valid_time: Time that the prediction is for, UTC.
        lead_hours: Hours from the initial time to the valid time.
        land_sea_mask_HW: Fraction of land; its contour at one half is the coast.
        unit: The store's unit, needed only for a variable that ``kit.plots.styles`` lacks.
        synthetic: Whether the values are a simulation's; then the figure says so.
        scored: Rows and columns that scores are taken over, where that is not all; outlined.

    Returns:
        The figure.

    Raises:
        ValueError: an array does not fit the grid; names it and both shapes.
    """
    shape = (np.shape(latitude)[0], np.shape(longitude)[-1])
    arrays = {"prediction": prediction_HW, "target": target_HW, "land_sea_mask": land_sea_mask_HW}
    for name, array in arrays.items():
        if array is not None and np.shape(array) != shape:
            got = list(np.shape(array))
            msg = f"{name}: expected [H, W] = {list(shape)}, as latitudes and longitudes have, got {got}"
            raise ValueError(msg)
    grid, style = _Grid.of(latitude, longitude), style_of(variable, unit)
    prediction_HW, target_HW = np.asarray(prediction_HW, dtype=np.float64), np.asarray(target_HW, dtype=np.float64)
    fields = [style.display(prediction_HW), style.display(target_HW)]
    error_HW = style.difference(prediction_HW - target_HW)
    # Inches of a panel's width: high maps are narrower.
    panel = max(min(3.9, 5.2 / grid.height_per_width), 2.3)
    figure = framed(
        3 * panel + 1.3,
        panel * grid.height_per_width + 1.15,
        channel_label(variable, level),
        f"valid {_utc(valid_time)} · lead time {lead_hours:g} h",
        synthetic=synthetic,
    )
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    norm, extend = _shared_scale(style, np.concatenate([field[np.isfinite(field)] for field in fields]))
    for axes, field, title in zip((left, middle), fields, ("Prediction", "Target"), strict=True):
        mesh = _draw(axes, grid, field, norm, style.colours, land_sea_mask_HW)
        axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    _colour_bar(figure, mesh, [left, middle], f"{style.label} ({style.unit})", extend, shrink=0.6)
    norm, extend = _error_scale(error_HW[np.isfinite(error_HW)])
    mesh = _draw(right, grid, error_HW, norm, ERROR_COLOURS, land_sea_mask_HW)
    right.set_title("Error", fontsize=10.5, loc="left", color=INK)
    rows, columns = scored or (slice(None), slice(None))
    if np.ndim(latitude) == 2:
        weights_HW = area_weights(latitude[rows, columns], longitude[rows, columns]).numpy()
    else:
        weights_HW = area_weights(latitude[rows]).numpy()[:, None]
    text = _rmse_text(error_HW[rows, columns], weights_HW, style)
    right.set_title(text, fontsize=9, loc="right", color=INK)
    if scored is not None:
        for axes in (left, middle, right):
            _outline(axes, grid, rows, columns)
    label = f"prediction \N{MINUS SIGN} target ({style.error_unit})"
    _colour_bar(figure, mesh, [right], label, extend, shrink=0.9)
    for axes in (middle, right):
        axes.tick_params(labelleft=False)
    return figure


def _utc(moment: datetime | np.datetime64[Any]) -> str:
    """Write a time, which is UTC already if it is naive."""
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    minutes = np.datetime64(moment).astype("datetime64[m]")
    return f"{str(minutes).replace('T', ' ')} UTC"


def _shared_scale(style: Style, values: Array) -> tuple[Normalize, str]:
    """Return the norm for all finite values together, and which ends of the colour bar are arrows."""
    if style.scale == "cyclic":
        return Normalize(0, 360), "neither"
    if style.scale == "fraction":
        return Normalize(0, 1), _arrows(values, 0, 1)
    if values.size == 0:
        return Normalize(0, 1), "neither"
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL)).tolist()
    if style.scale == "diverging":
        high = max(abs(low), abs(high)) or float(np.abs(values).max()) or 1.0
        low = -high
    elif style.scale == "from zero":
        # Rain may cover less than the tail; then the wettest point ends the scale.
        low, high = 0.0, _first_above_zero(high, values)
    elif high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        low, high = low - 0.5, high + 0.5
    return Normalize(low, high), _arrows(values, low, high)


def _error_scale(error: Array) -> tuple[Normalize, str]:
    """Return a norm that is symmetric about zero for finite errors, and the arrows of its colour bar."""
    high = 1.0
    if error.size:
        sizes = np.abs(error)
        high = _first_above_zero(float(np.quantile(sizes, 1 - _TAIL)), sizes)
    return Normalize(-high, high), _arrows(error, -high, high)


def _first_above_zero(quantile: float, values: Array) -> float:
    """Return a quantile of values, their maximum, or 1: the first of them that a scale can end at."""
    return quantile if quantile > 0 else max(float(values.max()), 0.0) or 1.0


def _arrows(values: Array, low: float, high: float) -> str:
    """Choose the ends of the colour bar that are arrows: those that values lie beyond, both of a symmetric scale."""
    below, above = bool((values < low).any()), bool((values > high).any())
    if (below and above) or (low == -high and (below or above)):
        return "both"
    if below:
        return "min"
    return "max" if above else "neither"


def _draw(axes: Axes, grid: _Grid, field_HW: Array, norm: Normalize, colours: str, mask_HW: Array | None) -> Any:
    colour_map: Colormap = mpl.colormaps[colours].with_extremes(bad="#d0d0d0")
    values = np.ma.masked_invalid(field_HW[:, grid.columns_W])
    mesh = axes.pcolormesh(*grid.mesh, values, norm=norm, cmap=colour_map, rasterized=True)
    # Only where there is a coast: matplotlib warns of a contour outside the data.
    if mask_HW is not None and np.nanmin(mask_HW) < 0.5 < np.nanmax(mask_HW):
        mask = np.ma.masked_invalid(mask_HW[:, grid.columns_W])
        axes.contour(grid.longitude, grid.latitude, mask, levels=[0.5], colors=[INK], linewidths=0.7)
    axes.set_aspect(grid.aspect)
    for axis, centres in ((axes.xaxis, grid.longitude), (axes.yaxis, grid.latitude)):
        # Of a wide map multiples of 30, 45, 60 or 90 degrees are what a reader expects.
        steps = [1, 3, 4.5, 6, 9, 10] if np.ptp(centres) > 60 else [1, 2, 2.5, 5, 10]
        axis.set_major_locator(MaxNLocator(4, steps=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees((value + 180) % 360 - 180, ("E", "W"))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees(value, ("N", "S"))))
    axes.tick_params(labelsize=8, color=GREY, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set(color=GREY, linewidth=0.6)
    return mesh


def _outline(axes: Axes, grid: _Grid, rows: slice, columns: slice) -> None:
    """Draw a line around what is scored."""
    x, y = grid.mesh
    if x.ndim == 2:
        # Corners, of which there is one more than cells, once around the scored ones.
        box = np.stack([x, y], -1)[rows.start : rows.stop + 1, columns.start : columns.stop + 1]
        around = np.concatenate([box[0], box[:, -1], box[-1, ::-1], box[::-1, 0]])
        axes.add_patch(Polygon(around, fill=False, edgecolor=INK, linewidth=1, linestyle="--"))
        return
    south, north = y[[rows.stop, rows.start]]
    # By the store's columns: the map may begin at another one.
    inside = (grid.columns_W >= columns.start) & (grid.columns_W < columns.stop)
    # On a map of the whole circle a box may be in two pieces, at either end.
    changes = np.flatnonzero(np.diff(inside, prepend=False, append=False)).reshape(-1, 2)
    for west, east in x[changes]:
        size = east - west, north - south
        axes.add_patch(Rectangle((west, south), *size, fill=False, edgecolor=INK, linewidth=1, linestyle="--"))


def _colour_bar(figure: Figure, mesh: Any, axes: list[Axes], label: str, extend: str, shrink: float) -> None:
    bar = figure.colorbar(mesh, ax=axes, location="bottom", extend=extend, shrink=shrink, aspect=32, pad=0.03)
    bar.set_label(label, fontsize=9.5, color=INK)
    bar.ax.tick_params(labelsize=8, color=GREY, labelcolor=INK)
    bar.ax.xaxis.set_major_locator(MaxNLocator(6))
    # Numbers in full: a common factor beside the axis would run into the label, and be overlooked.
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}".replace("-", "\N{MINUS SIGN}")))
    bar.outline.set(edgecolor=GREY, linewidth=0.6)


def _rmse_text(error_HW: Array, weights_HW: Array, style: Style) -> str:
    """Area-weighted error over the points that are not missing."""
    present = np.isfinite(error_HW)
    if not present.any():
        return "no values"
    weights = weights_HW * present
    square = np.where(present, error_HW, 0) ** 2
    return f"RMSE {np.sqrt((weights * square).sum() / weights.sum()):.3g} {style.error_unit}"


def _degrees(value: float, hemispheres: tuple[str, str]) -> str:
    positive, negative = hemispheres
    # The equator and the two meridians are in neither hemisphere.
    if value == 0 or abs(value) == 180:
        return f"{abs(value):.4g}°"
    return f"{abs(value):.4g}°{positive if value > 0 else negative}"
