"""Maps from one initial time on, whatever made the forecasts: chosen channels, PNG of a lead, GIF of all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from matplotlib.animation import PillowWriter

from kit.io.atomic import write_atomically
from kit.io.errors import SettingsError
from kit.plots.maps import MapChannel, MapFigure, MapFrame, MapSetting
from kit.plots.styles import save

_DEFAULT_CHANNELS = ("2t", "tp", "msl", "10u", "z_500", "t_850", "u_500", "q_700")
_DEFAULT_COUNT = 4
_FRAMES_PER_SECOND = 2
_DPI = 80


@dataclass(frozen=True)
class MapSeries:
    """Maps of one channel from one initial time on.

    Attributes:
        name: Name of the channel, such as ``z_500``.
        channel: What is mapped.
        start: Initial time, UTC.
        frames: Fields at one lead or more.
    """

    name: str
    channel: MapChannel
    start: datetime
    frames: Sequence[MapFrame]


@dataclass(frozen=True)
class MapAlbum:
    """All maps that are asked for.

    Attributes:
        setting: What they share.
        series: The maps themselves.
    """

    setting: MapSetting
    series: Sequence[MapSeries]


def save_maps(album: MapAlbum, out: Path, *, animate: bool) -> Iterator[Path]:
    """Draw maps, each to a PNG file of its last lead, or all leads to a GIF file.

    Args:
        album: What is drawn.
        out: Folder of the files.
        animate: Whether leads are the frames of an animation.

    Yields:
        Files, as they are written.
    """
    for series in album.series:
        stem = f"{series.name}_{series.frames[-1].valid_time:%Y%m%dT%H%M}"
        figure = MapFigure(series.channel, series.frames, album.setting)
        if animate:
            yield save_animation(figure, series.frames, out / f"{series.name}_from_{series.start:%Y%m%dT%H%M}.gif")
        else:
            yield save(figure.figure, out / f"{stem}.png")


def save_animation(figure: MapFigure, frames: Sequence[MapFrame], path: Path) -> Path:
    """Write frames as an animated GIF, whole or not at all.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    # Laid out once: maps that move from one frame to the next could not be compared.
    figure.figure.draw_without_rendering()
    figure.figure.set_layout_engine("none")
    writer = PillowWriter(fps=_FRAMES_PER_SECOND)
    with tempfile.TemporaryDirectory(prefix="kit-plot-") as folder:
        part = Path(folder) / path.name
        with writer.saving(figure.figure, part, _DPI):
            for frame in frames:
                figure.show(frame)
                writer.grab_frame()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, part.read_bytes())
    return path


def chosen_channels(
    asked: Sequence[str] | None, surface: Sequence[str], atmospheric: Mapping[str, Sequence[float]]
) -> list[tuple[str, str, float | None]]:
    """Choose channels to draw: those asked for, else a few that most people look at first.

    Args:
        asked: Channels such as ``z_500``, or variables for all their levels; None for the usual ones.
        surface: Variables at the surface that are predicted.
        atmospheric: Levels in hPa of each variable in the atmosphere.

    Returns:
        Name of each channel, its variable, and its level; None at the surface.

    Raises:
        SettingsError: one that is asked for is not predicted.
    """
    known: dict[str, tuple[str, str, float | None]] = {name: (name, name, None) for name in surface}
    for variable, levels in atmospheric.items():
        for level in levels:
            known[f"{variable}_{level:g}"] = f"{variable}_{level:g}", variable, level
    if asked is None:
        # The usual ones first, then others in the order of the store, each once.
        usual = [known[key] for key in _DEFAULT_CHANNELS if key in known]
        return list(dict.fromkeys([*usual, *known.values()]))[:_DEFAULT_COUNT]
    chosen = []
    for name in asked:
        # A channel by its name, or all levels of a variable by the variable's.
        pattern = re.compile(rf"{re.escape(name)}(_\d+(\.\d+)?)?")
        found = [channel for key, channel in known.items() if pattern.fullmatch(key)]
        if not found:
            msg = f"variables: {name!r} is not predicted; there are {', '.join(known)}"
            raise SettingsError(msg)
        chosen += found
    return list(dict.fromkeys(chosen))


def channel_of(variable: str, level: float | None, attributes: Mapping[str, Any]) -> MapChannel:
    """Describe a channel by the attributes of its variable in a store or a forecast."""
    window = attributes.get("accumulation_hours")
    return MapChannel(variable, level, attributes.get("units"), None if window is None else float(window))


def chosen_starts(time: datetime | None, samples: int, starts: Sequence[datetime], what: str) -> list[int]:
    """Return positions of consecutive initial times.

    Args:
        time: First of them, UTC; by default the first that there is.
        samples: How many.
        starts: Initial times that there are, UTC, in order.
        what: Where they are, for the message.

    Raises:
        SettingsError: there is none at that time.
    """
    if time is None:
        first = 0
    elif time in starts:
        first = starts.index(time)
    else:
        msg = (
            f"time: no prediction of {what} starts at {time:%Y-%m-%dT%H:%M}; there are {len(starts)}, from "
            f"{starts[0]:%Y-%m-%dT%H:%M} to {starts[-1]:%Y-%m-%dT%H:%M}"
        )
        raise SettingsError(msg)
    return list(range(first, min(first + samples, len(starts))))
