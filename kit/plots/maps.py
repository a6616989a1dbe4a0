"""Maps of one channel: what came, forecasts of it side by side, and below each its error.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Polygon

from kit.plots.map_grid import MapGrid
from kit.plots.scales import ColourScale, draw_bar, error_scale, field_scale
from kit.plots.styles import INK, Style, channel_label, framed, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

_NARROW = 2.5
"""Height over width of a map from which on its title and its error do not fit side by side."""


@dataclass(frozen=True)
class MapFrame:
    """Fields of one channel at one time, in the store's unit, [H, W].

    Attributes:
        valid_time: Time that the fields are of, UTC.
        lead_hours: Hours from the initial time to the valid time.
        forecasts: Forecasts by the title of their map.
        target: What came; None where it is not known.
    """

    valid_time: datetime | np.datetime64[Any]
    lead_hours: float
    forecasts: Mapping[str, Array]
    target: Array | None = None


@dataclass(frozen=True)
class MapChannel:
    """What is mapped.

    Attributes:
        variable: Aurora's short name; decides label, unit, colours and kind of scale.
        level: Pressure in hPa, for an atmospheric variable.
        unit: The store's unit, for a variable that no table has.
        window: Hours over which an accumulated variable is summed.
    """

    variable: str
    level: float | None = None
    unit: str | None = None
    window: float | None = None

    @property
    def style(self) -> Style:
        """How the variable is shown."""
        return style_of(self.variable, self.unit, self.window)

    @property
    def title(self) -> str:
        """Full name, window and unit."""
        return f"{channel_label(self.style, self.level)}, {self.style.unit}"


@dataclass(frozen=True)
class MapSetting:
    """What all maps of a store share.

    Attributes:
        grid: The grid as it is drawn.
        synthetic: Whether the values are a simulation's of no Earth; then figures say so, and coasts are the mask's.
        mask_HW: Fraction of land; of a synthetic planet its contour at one half is the coast.
        scored: Rows and columns that scores are taken over, where that is not all; outlined.
    """

    grid: MapGrid
    synthetic: bool = False
    mask_HW: Array | None = None
    scored: tuple[slice, slice] | None = None


class MapFigure:
    """Maps whose fields can be exchanged: one figure of a moment, or the frames of an animation."""

    def __init__(self, channel: MapChannel, frames: Sequence[MapFrame], setting: MapSetting) -> None:
        """Draw the first frame, on scales that suit all.

        Args:
            channel: What is mapped.
            frames: What the figure is to show, one after the other; all with the same maps.
            setting: Grid, coasts and label.

        Raises:
            ValueError: an array does not fit the grid; names it and both shapes.
        """
        self._style, self._setting = channel.style, setting
        _check_shapes(frames, setting)
        self._with_target = all(frame.target is not None for frame in frames)
        fields = [self._style.display(field) for frame in frames for field in _fields(frame)]
        errors = [error for frame in frames for error in self._errors(frame).values()]
        names = list(frames[0].forecasts)
        self.figure = self._framed(channel.title, len(names))
        rows = 2 if self._with_target else 1
        cells = self.figure.add_gridspec(rows, len(names) + self._with_target)
        self._titles: dict[str, Axes] = {}
        self._meshes: dict[str, Any] = {}
        scale = field_scale(self._style, fields)
        if self._with_target:
            self._add("target", "Target", cells[:, 0], scale, below=True, left=True)
        for column, name in enumerate(names, start=int(self._with_target)):
            alone = not self._with_target
            self._add(name, name, cells[0, column], scale, below=alone, left=alone and column == 0)
        self._add_bar(names, self._style.unit, scale)
        if self._with_target:
            scale = error_scale(errors)
            keys = [_error_key(name) for name in names]
            for column, key in enumerate(keys, start=1):
                self._add(key, "Error", cells[1, column], scale, below=True, left=False)
            label = f"error, {self._style.error_unit}"
            self._add_bar(keys, label, scale)
        self.show(frames[0])

    def show(self, frame: MapFrame) -> Figure:
        """Show the fields of another frame."""
        for name, field in frame.forecasts.items():
            self._fill(name, self._style.display(field))
        if frame.target is not None and self._with_target:
            self._fill("target", self._style.display(frame.target))
        for name, error_HW in self._errors(frame).items():
            self._fill(_error_key(name), error_HW)
            text = self._rmse_text(error_HW)
            axes = self._titles[_error_key(name)]
            if self._setting.grid.height_per_width > _NARROW:
                axes.set_title(f"Error\n{text}", fontsize=9, loc="left", color=INK)
            else:
                axes.set_title(text, fontsize=9, loc="right", color=INK)
        self._subtitle.set_text(f"valid {_utc(frame.valid_time)} · lead time {frame.lead_hours:g} h")
        return self.figure

    def _framed(self, title: str, forecasts: int) -> Figure:
        """Start a figure of a size that suits the shape of the grid."""
        shape = self._setting.grid.height_per_width
        columns, rows = forecasts + self._with_target, 1 + self._with_target
        # Inches of a map's width: high maps are narrower.
        panel = max(min(3.3, 3.5 / shape), 1.7)
        if columns < 3:
            panel = max(panel, 5.5 / columns)
        width = columns * panel + 1.5
        figure = framed(width, rows * (panel * shape + 0.45) + 0.1, title, " ", synthetic=self._setting.synthetic)
        self._subtitle = figure.texts[1]
        return figure

    def _add(self, key: str, title: str, cell: Any, scale: ColourScale, *, below: bool, left: bool) -> None:
        """Add a map without values yet: mesh, coasts, degrees, and a line around what is scored."""
        axes, setting = self.figure.add_subplot(cell), self._setting
        mesh = add_map(axes, setting, scale, below=below, left=left)
        if setting.scored is not None:
            for around in setting.grid.outlines(*setting.scored):
                axes.add_patch(Polygon(around, fill=False, edgecolor=INK, linewidth=1, linestyle="--"))
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        self._titles[key], self._meshes[key] = axes, mesh

    def _add_bar(self, keys: Sequence[str], label: str, scale: ColourScale) -> None:
        draw_bar(self.figure, self._meshes[keys[0]], [self._titles[key] for key in keys], label, scale.ends)

    def _fill(self, key: str, field_HW: Array) -> None:
        fill_map(self._meshes[key], self._setting.grid, field_HW)

    def _errors(self, frame: MapFrame) -> dict[str, Array]:
        """Return the error of each forecast, in the unit of differences."""
        if frame.target is None or not self._with_target:
            return {}
        target_HW = np.asarray(frame.target, dtype=np.float64)
        return {name: self._style.difference(field - target_HW) for name, field in frame.forecasts.items()}

    def _rmse_text(self, error_HW: Array) -> str:
        """Write the area-weighted error over the points that are scored and not missing."""
        rows, columns = self._setting.scored or (slice(None), slice(None))
        error_HW = error_HW[rows, columns]
        weights_HW = np.broadcast_to(self._setting.grid.weights_HW, self._shape)[rows, columns]
        present = np.isfinite(error_HW)
        if not present.any():
            return "no values"
        mean = np.average(error_HW[present] ** 2, weights=weights_HW[present])
        return f"RMSE {np.sqrt(mean):.3g} {self._style.error_unit}"

    @property
    def _shape(self) -> tuple[int, int]:
        return _shape_of(self._setting.grid)


def add_map(axes: Axes, setting: MapSetting, scale: ColourScale, *, below: bool, left: bool) -> QuadMesh:
    """Draw a map without values yet: coasts, degrees, and the mesh that ``fill_map`` gives values to.

    Args:
        axes: Axes of the map.
        setting: Grid and coasts.
        scale: Colours of the values.
        below: Whether degrees of longitude are written.
        left: Whether degrees of latitude are written.
    """
    grid = setting.grid
    empty = np.full((grid.x.shape[0] - 1, grid.x.shape[1] - 1), np.nan)
    mesh = axes.pcolormesh(grid.x, grid.y, empty, norm=scale.norm, cmap=scale.colours, rasterized=True)
    if not setting.synthetic:
        grid.draw_earth(axes)
    elif setting.mask_HW is not None:
        grid.draw_mask(axes, setting.mask_HW)
    grid.draw_frame(axes, below=below, left=left)
    return mesh


def fill_map(mesh: QuadMesh, grid: MapGrid, field_HW: Array) -> None:
    """Give a map the values of a field; missing ones are grey."""
    mesh.set_array(np.ma.masked_invalid(field_HW[:, grid.columns_M]))


def _error_key(name: str) -> str:
    return f"error of {name}"


def _fields(frame: MapFrame) -> list[Array]:
    fields = list(frame.forecasts.values())
    return fields if frame.target is None else [*fields, frame.target]


def _shape_of(grid: MapGrid) -> tuple[int, int]:
    """Rows and columns of the data, of which a column may be drawn in two halves."""
    return grid.x.shape[0] - 1, int(grid.columns_M.max()) + 1


def _check_shapes(frames: Sequence[MapFrame], setting: MapSetting) -> None:
    shape = _shape_of(setting.grid)
    for frame in frames:
        for name, array in {**frame.forecasts, "target": frame.target, "land_sea_mask": setting.mask_HW}.items():
            if array is not None and np.shape(array) != shape:
                got = list(np.shape(array))
                msg = f"{name}: expected [H, W] = {list(shape)}, as latitudes and longitudes have, got {got}"
                raise ValueError(msg)


def _utc(moment: datetime | np.datetime64[Any]) -> str:
    """Write a time, which is UTC already if it is naive."""
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    minutes = np.datetime64(moment).astype("datetime64[m]")
    return f"{str(minutes).replace('T', ' ')} UTC"
