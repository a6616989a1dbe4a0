"""Maps of mean errors over the start dates of an evaluation: RMSE and bias before and after training, and the change.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize

from kit.io.hashes import sha256_of_file
from kit.models.weights.integrity import DESCRIPTION
from kit.plots.checkpoint_maps import AFTER, BEFORE, PERSISTENCE
from kit.plots.map_grid import MapGrid
from kit.plots.map_series import channel_of, chosen_channels
from kit.plots.maps import MapChannel, MapSetting, add_map, fill_map
from kit.plots.scales import MISSING, ColourScale, draw_bar, error_scale, field_scale
from kit.plots.styles import INK, Style, framed, save
from kit.verification.mean_errors import BIAS, RMSE, MeanErrors, newest_maps
from kit.verification.scoring import lead_name
from kit.verification.sums import BASE, MODEL
from kit.verification.sums import PERSISTENCE as LAST_STATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kit.plots.settings import PlotSettings

Array = np.ndarray[Any, Any]

MEAN_ERROR = "mean_error_"
"""What names of their files begin with."""
_CHANGE_COLOURS = "RdBu_r"
"""Blue is better, red is worse."""


@dataclass(frozen=True)
class MeanErrorFields:
    """Mean errors of one channel at one lead, in the store's unit, [H, W].

    Attributes:
        lead_hours: Lead.
        dates: Number of start dates.
        span: First and last of them.
        reference: Title of what the model is compared with.
        before: ``bias`` and ``rmse`` of the reference.
        after: The same of the model.
    """

    lead_hours: float
    dates: int
    span: str
    reference: str
    before: dict[str, Array]
    after: dict[str, Array]


def save_mean_errors(sums: Path, checkpoint: Path, settings: PlotSettings, out: Path) -> Iterator[Path]:
    """Draw the mean errors that evaluations of a checkpoint have kept.

    Args:
        sums: Folder of the run's sums.
        checkpoint: Checkpoint as it is now; those of an earlier state of it are left out.
        settings: Channels and step; by default the channels that most people look at first, at all leads.
        out: Folder of the figures.

    Yields:
        Files, as they are written.

    Raises:
        SettingsError: what is kept is damaged.
    """
    found = newest_maps(sums, sha256_of_file(checkpoint / DESCRIPTION))
    held = dict.fromkeys(channel for channel, _ in found)
    names = [name for name in settings.variables or () if any(_is_of(channel, name) for channel in held)]
    if settings.variables is None:
        names = [name for name, _, _ in chosen_channels(None, list(held), {})]
    for (channel, lead), errors in found.items():
        if any(_is_of(channel, name) for name in names):
            figure = mean_error_map(_channel_of(errors, channel), _fields_of(errors, channel, lead), _setting(errors))
            yield save(figure, out / f"{MEAN_ERROR}{channel}_{lead_name(lead)}.png")


def _is_of(channel: str, name: str) -> bool:
    """Check whether a channel is one by its name, or on a level of the variable of that name."""
    return name in (channel, channel.rpartition("_")[0])


def _channel_of(errors: MeanErrors, channel: str) -> MapChannel:
    described = errors.channels[channel]
    return channel_of(described["variable"], described["level"], described)


def _fields_of(errors: MeanErrors, channel: str, lead: float) -> MeanErrorFields:
    def read(forecast: str) -> dict[str, Array]:
        return {table: errors.read(table, lead, forecast, channel) for table in (BIAS, RMSE)}

    reference, title = LAST_STATE, PERSISTENCE
    before = read(reference)
    # What the base weights do not predict has no errors of theirs.
    if BASE in errors.forecasts and np.isfinite((of_base := read(BASE))[RMSE]).any():
        reference, title, before = BASE, BEFORE, of_base
    starts = errors.attributes["starts"]
    span = f"{starts['first'][:16]} to {starts['last'][:16]} UTC"
    return MeanErrorFields(lead, int(starts["count"]), span, title, before, read(MODEL))


def _setting(errors: MeanErrors) -> MapSetting:
    grid = MapGrid.of(errors.latitude, errors.longitude)
    return MapSetting(grid, bool(errors.attributes["synthetic"]), errors.land)


def mean_error_map(channel: MapChannel, fields: MeanErrorFields, setting: MapSetting) -> Figure:
    """Draw RMSE above and bias below: of the reference, of the model, and the change from one to the other.

    The change of a bias is that of its size, so that blue is better in both rows.

    Args:
        channel: What is mapped.
        fields: Its mean errors.
        setting: Grid and coasts.
    """
    style, shape = channel.style, setting.grid.height_per_width
    panel = max(min(3.3, 3.5 / shape), 1.9)
    subtitle = f"{fields.lead_hours:g} h ahead, mean over {fields.dates} start dates, {fields.span}"
    # The channel's own unit is that of values, and errors may have another one.
    title = f"Mean errors of {channel.title.rpartition(', ')[0]}"
    figure = framed(3 * panel + 2.2, 2 * (panel * shape + 0.45), title, subtitle, synthetic=setting.synthetic)
    cells = figure.add_gridspec(2, 3)
    for row, table in enumerate((RMSE, BIAS)):
        pair = [_in_style(style, table, values[table]) for values in (fields.before, fields.after)]
        change = np.abs(pair[1]) - np.abs(pair[0])
        scales = _scale_of(table, pair), _change_scale(change)
        titles = fields.reference, AFTER, "Change of size" if table == BIAS else "Change"
        name = "RMSE" if table == RMSE else "bias"
        drawn = []
        for column, field_HW in enumerate((*pair, change)):
            axes = figure.add_subplot(cells[row, column])
            mesh = add_map(axes, setting, scales[column == 2], below=row == 1, left=column == 0)
            fill_map(mesh, setting.grid, field_HW)
            axes.set_title(titles[column], fontsize=10, loc="left", color=INK)
            if column < 2:
                axes.set_title(_mean_text(table, field_HW, setting, style), fontsize=9, loc="right", color=INK)
            drawn.append((axes, mesh))
        draw_bar(figure, drawn[0][1], [axes for axes, _ in drawn[:2]], f"{name}, {style.error_unit}", scales[0].ends)
        draw_bar(figure, drawn[2][1], [drawn[2][0]], f"change, {style.error_unit}", scales[1].ends)
    return figure


def _in_style(style: Style, table: str, values: Array) -> Array:
    """Convert to the unit of differences; sizes of angles do not wrap around."""
    return values * style.factor if table == RMSE else style.difference(values)


def _scale_of(table: str, pair: list[Array]) -> ColourScale:
    if table == BIAS:
        return error_scale(pair)
    return field_scale(Style(label="", unit="", colours="magma_r", scale="from zero"), pair)


def _change_scale(change: Array) -> ColourScale:
    symmetric = error_scale([change])
    colours = mpl.colormaps[_CHANGE_COLOURS].with_extremes(bad=MISSING)
    return ColourScale(Normalize(symmetric.norm.vmin, symmetric.norm.vmax), colours, symmetric.ends)


def _mean_text(table: str, field_HW: Array, setting: MapSetting, style: Style) -> str:
    """Write the mean over the area: of a bias, or the root of that of squares."""
    present = np.isfinite(field_HW)
    if not present.any():
        return "no values"
    weights = np.broadcast_to(setting.grid.weights_HW, field_HW.shape)[present]
    values = field_HW[present]
    if table == RMSE:
        return f"{np.sqrt(np.average(values**2, weights=weights)):.3g} {style.error_unit}"
    return f"{np.average(values, weights=weights):.2g} {style.error_unit}".replace("-", "\N{MINUS SIGN}")
