"""Figures of an ensemble that lies in a file, and of the sums of its scores."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kit.data.grid import area_weights
from kit.io.errors import SettingsError
from kit.plots.ensemble_figures import plume, rank_histograms, reliability_diagram, spread_and_error, stamps
from kit.plots.forecast_maps import Analyses, analyses_of, setting_of
from kit.plots.map_series import channel_of, chosen_channels, chosen_starts
from kit.plots.maps import MapChannel
from kit.plots.open_forecasts import Array, OpenForecast
from kit.plots.settings import PlotSettings
from kit.plots.styles import save
from kit.verification.archive import Archive, read_archive
from kit.verification.ensemble_scores import ensemble_table, members_of
from kit.verification.regions import ALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_ensemble(file: OpenForecast, settings: PlotSettings, out: Path) -> list[Path]:
    """Draw a plume over all leads, and postage stamps of the last one, of each channel and initial time.

    Raises:
        KitError: the file is damaged, or does not fit the store or the settings.
        OSError: a figure cannot be written.
    """
    if settings.animate:
        msg = "animate: animations are of single forecasts; leave it out for the plumes and stamps of an ensemble"
        raise SettingsError(msg)
    channels = chosen_channels(settings.variables, file.surface, file.levels)
    starts = chosen_starts(settings.time, settings.samples, file.starts, str(file.path))
    steps = file.chosen_steps(settings.steps)
    analyses = analyses_of(file, settings)
    setting, files = setting_of(file, analyses), []
    weights_HW, place = _place(file, analyses, settings.point)
    for start in starts:
        moment = file.starts[start]
        said = f"{moment:%Y-%m-%d %H:%M} UTC"
        for name, variable, level in channels:
            channel = channel_of(variable, level, file.attributes(variable))
            curves, came = [], []
            for lead in range(steps):
                members_MHW = _members(file, analyses, (variable, level), (start, lead))
                curves.append(_means(members_MHW, weights_HW))
                valid = moment + timedelta(hours=file.leads[lead])
                target_HW = None if analyses is None else analyses.read(variable, level, valid)
                came.append(np.nan if target_HW is None else float(_means(target_HW[None], weights_HW)[0]))
            stem = f"{name}_{moment:%Y%m%dT%H%M}"
            hours = file.leads[:steps]
            members_ML, target_L = np.stack(curves, axis=1), np.array(came)
            figure = plume(channel, hours, members_ML, target_L, place=place, start=said, synthetic=setting.synthetic)
            files.append(save(figure, out / f"plume_{stem}.png"))
            when = f"valid {valid:%Y-%m-%d %H:%M} UTC · lead time {hours[-1]:g} h"
            figure = stamps(channel, members_MHW, file.numbers, target_HW, setting, when=when)
            files.append(save(figure, out / f"stamps_{stem}.png"))
    return files


def save_ensemble_scores(folder: Path, out: Path) -> list[Path]:
    """Draw the scores of an ensemble from sums that an evaluation keeps.

    Args:
        folder: Sums of an ensemble, or the folder that holds them.
        out: Folder of the figures.

    Raises:
        SettingsError: there are none, several, or those of a single forecast.
        OSError: a figure cannot be written.
    """
    figures = ensemble_figures(ensemble_sums(folder, "sums"))
    return [save(figure, out / f"{name}.png") for name, figure in figures]


def ensemble_sums(folder: Path, setting: str) -> Archive:
    """Open the sums of one ensemble.

    Args:
        folder: Sums, or the folder that holds them.
        setting: Setting that names them, for messages.

    Raises:
        SettingsError: there are none, several, or those of a single forecast.
    """
    kept = [folder] if (folder / "zarr.json").is_file() else sorted(folder.glob("*.zarr"))
    archives = [archive for archive in map(read_archive, kept) if members_of(archive)]
    if len(archives) != 1:
        found = ", ".join(str(archive.path) for archive in archives) or "none"
        msg = (
            f"{setting}: {folder}: expected the sums of one ensemble, which kit evaluate --forecast_file FILE --out "
            f"FOLDER keeps, found {found}; name one of them"
        )
        raise SettingsError(msg)
    return archives[0]


def ensemble_figures(archive: Archive) -> Iterator[tuple[str, Figure]]:
    """Draw spread and error, histograms of ranks, and diagrams of reliability, each with a name."""
    leads = ensemble_table(archive)[ALL]
    name = str(archive.attributes.get("forecast_file", archive.path.parent.name))
    synthetic = bool(archive.attributes.get("synthetic"))
    yield "spread_error", spread_and_error(leads, {}, title=f"Spread and error of {name}", synthetic=synthetic)
    for lead in dict.fromkeys((next(iter(leads)), list(leads)[-1])):
        rows, when = leads[lead], f"{float(lead.removesuffix('h')):g} h ahead"
        if any("rank_histogram" in row for row in rows.values()):
            title = f"Ranks among the members of {name}"
            yield f"ranks_{lead}", rank_histograms(rows, title=title, when=when, synthetic=synthetic)
        for channel, row in rows.items():
            curves = row.get("reliability_curves", {})
            if any(len(curve["probability"]) > 1 for curve in curves.values()):
                title = f"Reliability of {MapChannel(channel).style.label}"
                figure = reliability_diagram(curves, title=title, when=f"{name} · {when}", synthetic=synthetic)
                yield f"reliability_{channel}_{lead}", figure


def _members(
    file: OpenForecast, analyses: Analyses | None, channel: tuple[str, float | None], place: tuple[int, int]
) -> Array:
    """Read all members of a state, [M, H, W], in the order of the store's rows and columns where there is one."""
    read = file.read(*channel, *place)
    if analyses is None:
        return read
    return read[:, analyses.shared.rows][:, :, analyses.shared.columns]


def _place(file: OpenForecast, analyses: Analyses | None, point: tuple[float, float] | None) -> tuple[Array, str]:
    """Weigh the points that a plume is of, [H, W], and say where they are."""
    latitude, longitude = file.latitude, file.longitude
    if analyses is not None:
        grid = analyses.shared.grid
        latitude, longitude = grid.latitude(analyses.store), grid.longitude(analyses.store)
    north, east = latitude, longitude
    if latitude.ndim == 1:
        north, east = np.meshgrid(latitude, longitude, indexing="ij")
    if point is None:
        areas = area_weights(latitude, None if latitude.ndim == 1 else longitude)
        return np.broadcast_to(areas[:, None] if areas.ndim == 1 else areas, north.shape), "mean over the area"
    # The squared distance on a unit sphere, seen from its middle.
    latitudes, apart = np.radians(north), np.radians(east - point[1])
    own = np.radians(point[0])
    near = np.sin(latitudes) * np.sin(own) + np.cos(latitudes) * np.cos(own) * np.cos(apart)
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    weights = np.zeros(north.shape)
    weights[row, column] = 1.0
    return weights, f"grid point {north[row, column]:g}° north, {east[row, column]:g}° east"


def _means(fields_HW: Array, weights_HW: Array) -> Array:
    """Average fields, [N] of [N, H, W]; missing points are left out."""
    fields = fields_HW.astype(np.float64)
    weights = np.where(np.isfinite(fields), weights_HW, 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(fields * weights, axis=(1, 2)) / weights.sum(axis=(1, 2)))
