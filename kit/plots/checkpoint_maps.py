"""Maps of a checkpoint: what it predicts, what it predicted before training, and what came.

Dimensions: H latitude, W longitude.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import torch
from aurora import Batch

from kit.checkpoint.folder import Checkpoint
from kit.data.dataset import Pairs
from kit.data.store.reader import Store
from kit.forecasting.predictor import Conditions, Predictor, load_base_predictor, load_predictor
from kit.forecasting.rolling import roll_out
from kit.io.errors import CheckpointError, SettingsError
from kit.memory.out_of_memory import GuardedModel
from kit.plots.map_grid import MapGrid
from kit.plots.map_series import MapAlbum, MapSeries, channel_of, chosen_channels, chosen_starts
from kit.plots.maps import MapFrame, MapSetting
from kit.plots.settings import PlotSettings

_logger = logging.getLogger(__name__)

AFTER, BEFORE, PERSISTENCE = "After training", "Before training", "Persistence"
Place = tuple[datetime, int, str]
"""Initial time, step counted from 1, and name of a channel."""
Fields = Mapping[Place, np.ndarray[Any, Any]]


def checkpoint_maps(
    checkpoint: Checkpoint, settings: PlotSettings, conditions: Conditions, watched: GuardedModel
) -> MapAlbum:
    """Predict from consecutive initial times, with the checkpoint and with the weights that its training started from.

    Args:
        checkpoint: Checkpoint that predicts.
        settings: Channels, times, and whether the base weights predict too.
        conditions: Data, device and memory.
        watched: Is told the model that is running, for the message if memory runs out.

    Raises:
        KitError: checkpoint, data and settings do not fit together.
    """
    steps = settings.steps or 1
    shown = range(1, steps + 1) if settings.animate else range(steps, steps + 1)
    conditions = replace(conditions, steps=steps)
    predictor = load_predictor(checkpoint, conditions)
    watched.model = predictor.space.model
    pairs, store, spec = predictor.pairs, predictor.store, predictor.space.spec
    selection = pairs.selection
    on_levels = dict.fromkeys(selection.atmospheric, selection.levels)
    channels = chosen_channels(settings.variables, selection.targets, on_levels)
    times = pairs.times
    indices = chosen_starts(settings.time, settings.samples, times, str(pairs.period))
    starts = [times[index] for index in indices]
    names = [name for name, _, _ in channels]
    after = _predicted(predictor, starts, shown, names)
    # The base weights need the room that this model has.
    del predictor
    watched.model = None
    gc.collect()
    before: Fields = {}
    if settings.base:
        before = _predicted_before(checkpoint, conditions, starts, shown, names)
    targets, last = _observed(pairs, indices, shown, channels)
    series = []
    for start in starts:
        for name, variable, level in channels:
            frames = []
            for step in shown:
                place = start, step, name
                forecasts = {AFTER: after[place]}
                if place in before:
                    forecasts[BEFORE] = before[place]
                forecasts[PERSISTENCE] = last[start, 0, name]
                valid_time = start + step * selection.timestep
                frames.append(MapFrame(valid_time, step * spec.lead_hours, forecasts, targets[place]))
            channel = channel_of(variable, level, store.variable_attributes(variable))
            series.append(MapSeries(name, channel, start, frames))
    return MapAlbum(map_setting(pairs, store), series)


def map_setting(pairs: Pairs, store: Store) -> MapSetting:
    """Describe the part of a store's grid that a model reads, for maps."""
    grid, mask_HW = pairs.selection.grid, None
    if "lsm" in store.static:
        # From the store, whether the model reads it or not.
        mask_HW = grid.read_static(store, "lsm")
    drawn = MapGrid.of(grid.latitude(store), grid.longitude(store))
    return MapSetting(drawn, bool(store.attributes.get("synthetic")), mask_HW, grid.window)


@torch.no_grad()
def _predicted(predictor: Predictor, starts: Sequence[datetime], shown: range, names: Sequence[str]) -> Fields:
    """Roll a model out from each initial time that its data have, and keep some channels of some steps."""
    pairs, times = predictor.pairs, predictor.pairs.times
    found = {}
    for start in starts:
        if start not in times:
            continue
        inputs = pairs.inputs([times.index(start)])
        for step, prediction in enumerate(roll_out(predictor.space, inputs, shown[-1]), start=1):
            if step in shown:
                for name, field in _channels_of(prediction, names).items():
                    found[start, step, name] = field
    return found


def _predicted_before(
    checkpoint: Checkpoint, conditions: Conditions, starts: Sequence[datetime], shown: range, names: Sequence[str]
) -> Fields:
    """Predict with the weights that training started from, where they are to be had."""
    try:
        predictor = load_base_predictor(checkpoint, conditions)
    except (CheckpointError, SettingsError) as error:
        # Not there, or made for statics or levels that this checkpoint does without.
        _logger.warning("no maps of the weights before training: %s", error)
        return {}
    if predictor is None:
        _logger.info("no maps of the weights before training, which were random")
        return {}
    return _predicted(predictor, starts, shown, names)


def _observed(
    pairs: Pairs, indices: Sequence[int], shown: range, channels: Sequence[tuple[str, str, float | None]]
) -> tuple[Fields, Fields]:
    """Read the targets of each step, and the newest input states as step 0."""
    names = [name for name, _, _ in channels]
    targets: dict[Place, np.ndarray[Any, Any]] = {}
    last: dict[Place, np.ndarray[Any, Any]] = {}
    for index in indices:
        start = pairs.time(index)
        places = pairs.following(index, shown[-1])
        for step in shown:
            for name, field in _channels_of(pairs.target([places[step - 1]]), names).items():
                targets[start, step, name] = field
        for name, field in _channels_of(pairs.inputs([index]), names).items():
            last[start, 0, name] = field
        for name, variable, level in channels:
            # What the model predicts and never reads is in the store all the same.
            if level is None and (start, 0, name) not in last:
                last[start, 0, name] = pairs.newest(variable, [index])[0].numpy()
    return targets, last


def _channels_of(batch: Batch, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Take the newest fields of some channels out of a batch of one sample, [H, W]."""
    found = {name: values[0, -1] for name, values in batch.surf_vars.items() if name in names}
    for variable, values in batch.atmos_vars.items():
        for position, level in enumerate(batch.metadata.atmos_levels):
            if (name := f"{variable}_{level:g}") in names:
                found[name] = values[0, -1, position]
    return {name: values.float().cpu().numpy() for name, values in found.items()}
