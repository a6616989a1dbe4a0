"""Forecasts of every lead, summed up beside the states that came: a model's roll-outs, or those of a file.

One start date is forecast at a time, or a batch of them, and each lead's target is read when it is predicted: memory
depends on neither the number of start dates nor of steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from aurora import Batch

from kit.data.climatology.rain import RainClimate
from kit.data.dataset import Pairs, moved
from kit.data.grid import is_closed
from kit.data.loader import Waiting, read_ahead
from kit.data.statistics import channel_key
from kit.forecasting.predictor import ForecastSpace
from kit.forecasting.rolling import roll_out
from kit.metrics.contingency import THRESHOLDS_MM
from kit.metrics.scores import persistence
from kit.models.space import Window
from kit.models.transforms import PRECIPITATION
from kit.verification.archive import EVENTS, SPECTRA, SUMS, ArchiveWriter, Axes
from kit.verification.events import EventSums, neighbourhood_km, square
from kit.verification.regions import ALL, Regions, regions_on
from kit.verification.spectra import TARGET, Spectra
from kit.verification.sums import (
    CLIMATOLOGY,
    MODEL,
    PERSISTENCE,
    WIND_SPEED,
    RegionalSums,
    States,
    wind_speeds,
    with_wind_speed,
)

LeadSums = dict[float, dict[str, npt.NDArray[np.float64]]]
"""Sums by lead in hours and channel, [B, R, M]; spectra are [B, N, K]."""
Kept = tuple[str, str]
"""Table of an archive, and the forecast that sums are of."""


class Climatology(Protocol):
    """What is usual at a time of the year and of the day."""

    def states(self, times: Sequence[datetime]) -> States:
        """Return the usual values of some variables where forecasts are scored, [B, H, W] and [B, C, H, W].

        Speeds of the wind are variables of their own.
        """

    def rain(self, times: Sequence[datetime]) -> Mapping[str, RainClimate]:
        """Return how often variables are dry and when they are heavy, where that is known, [B, H, W]."""


class Forecasts(Protocol):
    """Forecasts that are scored, whoever made them."""

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Variables that are expected to be missing somewhere, such as waves over land."""

    @property
    def device(self) -> torch.device:
        """Device that predictions are on."""

    def predict(self, inputs: Batch, steps: Sequence[int]) -> Iterator[States]:
        """Predict a batch of start dates.

        Args:
            inputs: Input states; their time is the start date, UTC.
            steps: Steps whose states are wanted, counted from 1, in order.

        Yields:
            Physical values by variable of each of the steps, [B, H, W] and [B, C, H, W], halo included.
        """


@dataclass(frozen=True)
class RollOuts:
    """A model's forecasts, each prediction becoming the newest input state of the next.

    Attributes:
        space: Model that predicts.
    """

    space: ForecastSpace

    @property
    def may_be_missing(self) -> frozenset[str]:
        """Variables that are expected to be missing somewhere, such as waves over land."""
        return self.space.may_be_missing

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = next(self.space.model.parameters()).device
        return device

    def predict(self, inputs: Batch, steps: Sequence[int]) -> Iterator[States]:
        """Roll the model out; arguments and results are those of ``Forecasts``."""
        for step, prediction in enumerate(roll_out(self.space, inputs, max(steps)), start=1):
            if step in steps:
                yield physical(prediction)


Observer = Callable[[States, States, States], None]
"""Function that looks at predictions of the last lead, at what came, and at the last input states; halo included."""


class PointSums(Protocol):
    """Sums of errors at every grid point."""

    def add(
        self,
        forecast: str,
        lead: float,
        values: States,
        target: States,
        levels: Sequence[float],
        may_be_missing: frozenset[str],
    ) -> None:
        """Add forecasts of one lead in hours: their values and what came, [B, H, W] and [B, C, H, W]."""


@dataclass(frozen=True)
class Scoring:
    """What forecasts are summed up with.

    Attributes:
        pairs: Start dates, with the states that came.
        regions: Regions on the grid that is scored.
        batch_size: Forecasts per forward pass.
        climatology: What is usual; None without.
        chosen: Indices in the store of the states that are predicted, by index of the start date and by step; start
            dates whose steps differ cannot be in one batch. None for every start date and every step.
        left_out: Channels that are not scored.
        thresholds_mm: Amounts of rain in an accumulation window from which on it counts.
    """

    pairs: Pairs
    regions: Regions
    batch_size: int = 1
    climatology: Climatology | None = None
    chosen: Mapping[int, Mapping[int, int]] | None = None
    left_out: frozenset[str] = frozenset()
    thresholds_mm: Sequence[float] = THRESHOLDS_MM

    @property
    def usual(self) -> list[str]:
        """Name of the climatology among forecasts, where there is one."""
        return [] if self.climatology is None else [CLIMATOLOGY]

    @property
    def window(self) -> Window:
        """Rows and columns that are scored: the halo is context alone."""
        return self.pairs.selection.grid.window or (slice(None), slice(None))

    @property
    def batches(self) -> list[Sequence[int]]:
        """Indices of the start dates of each forward pass."""
        starts, size = self.starts, self.batch_size
        return [starts[first : first + size] for first in range(0, len(starts), size)]

    @property
    def starts(self) -> Sequence[int]:
        """Indices of the start dates that are scored."""
        if self.chosen is None:
            return range(len(self.pairs))
        return list(self.chosen)

    @property
    def times(self) -> list[datetime]:
        """Start dates that are scored, UTC."""
        return [self.pairs.time(index) for index in self.starts]

    @property
    def steps(self) -> list[int]:
        """Steps that are scored of any start date, in order."""
        if self.chosen is None:
            return list(range(1, self.pairs.steps + 1))
        return sorted({step for places in self.chosen.values() for step in places})

    def places(self, index: int) -> Mapping[int, int]:
        """Return the indices in the store of the states after a start date, by step."""
        if self.chosen is None:
            return dict(enumerate(self.pairs.following(index, self.pairs.steps), start=1))
        return self.chosen[index]

    @property
    def channels(self) -> list[str]:
        """Variables at the surface and on each level, as the store has them."""
        selection = self.pairs.selection
        on_levels = [channel_key(name, level) for name in selection.atmospheric for level in selection.levels]
        return [name for name in (*selection.targets, *on_levels) if name not in self.left_out]

    def axes(self, forecasts: Sequence[str]) -> Axes:
        """Return what the sums of some forecasts will be of."""
        selection = self.pairs.selection
        channels = self.channels
        for name in wind_speeds([*selection.targets, *selection.atmospheric]):
            speeds = [channel_key(name, level) for level in selection.levels] if name == WIND_SPEED else [name]
            channels += [speed for speed in speeds if speed not in self.left_out]
        leads = [self.lead_hours(step) for step in self.steps]
        spectra = self.spectra()
        return Axes(
            self.times,
            leads,
            forecasts,
            channels,
            self.regions.names,
            rain=[name for name in PRECIPITATION if name in channels],
            events=self.event_sums().names,
            fields=spectra.channels(channels),
            bands=spectra.bands,
            wavenumbers=spectra.wavenumbers.tolist(),
        )

    def event_sums(self) -> EventSums:
        """Prepare sums of rain on the grid that is scored."""
        _, longitude = self.pairs.selection.grid.scored_coordinates(self.pairs.store)
        closed = longitude.ndim == 1 and is_closed(longitude)
        return EventSums(self.regions, closed=closed, thresholds_mm=self.thresholds_mm)

    def neighbourhoods_km(self) -> dict[str, float]:
        """Measure the neighbourhoods that rain is scored over, by name; empty where there is none."""
        if not any(name in PRECIPITATION for name in self.channels):
            return {}
        grid = self.pairs.selection.grid.scored_coordinates(self.pairs.store)
        return {square(width): neighbourhood_km(width, *grid) for width in self.event_sums().neighbourhoods}

    def spectra(self) -> Spectra:
        """Prepare spectra on the grid that is scored."""
        selection = self.pairs.selection
        return Spectra(*selection.grid.scored_coordinates(self.pairs.store), selection.levels)

    def lead_hours(self, step: int) -> float:
        """Return the lead of a step, counted from 1."""
        return step * self.pairs.selection.timestep.total_seconds() / 3600

    def read(self) -> Iterator[Batch]:
        """Read input states of each batch of start dates, then the target of each lead."""
        for indices in self.batches:
            yield self.pairs.inputs(indices)
            places = [self.places(index) for index in indices]
            for step in places[0]:
                yield self.pairs.target([following[step] for following in places])


def regions_of(pairs: Pairs, names: Sequence[str] | None) -> Regions:
    """Find regions on the grid that is scored, the whole of it among them; ``names`` as ``regions_on`` takes them."""
    latitude, longitude = pairs.selection.grid.scored_coordinates(pairs.store)
    land = None
    if "lsm" in pairs.store.static:
        window = pairs.selection.grid.window or (slice(None), slice(None))
        land = pairs.selection.grid.read_static(pairs.store, "lsm")[window]
    # What is scored everywhere is what all results begin with.
    if names is not None and ALL not in names:
        names = (ALL, *names)
    return regions_on(names, latitude, longitude, land)


@torch.no_grad()
def sum_up(
    forecasts: Forecasts,
    scoring: Scoring,
    writer: ArchiveWriter,
    name: str = MODEL,
    observers: Sequence[Observer] = (),
    maps: PointSums | None = None,
    *,
    references: bool = True,
) -> float:
    """Forecast from every start date, and write the sums of every lead.

    Args:
        forecasts: What is scored.
        scoring: Start dates, regions and what is usual.
        writer: Writer of the sums.
        name: Name of the forecast.
        observers: What else looks at the last lead.
        maps: Sums of errors at every grid point; None without.
        references: Whether to sum up persistence, and climatology where it is known, too.

    Returns:
        Seconds that were spent waiting for data.
    """
    device, may_be_missing = forecasts.device, forecasts.may_be_missing
    pairs, window = scoring.pairs, scoring.window
    last_step = scoring.steps[-1]
    sums = RegionalSums(scoring.regions, pairs.selection.levels, may_be_missing)
    events, spectra = scoring.event_sums(), scoring.spectra()
    reading = Waiting(read_ahead(scoring.read()))
    for indices in scoring.batches:
        inputs = moved(next(reading), device)
        last = persistence(inputs.surf_vars | inputs.atmos_vars)
        found: dict[Kept, LeadSums] = {}
        steps = list(scoring.places(indices[0]))
        for step, predicted in zip(steps, forecasts.predict(inputs, steps), strict=True):
            target = physical(moved(next(reading), device))
            last = with_unread(last, target, pairs, indices)
            for variable in may_be_missing & target.keys():
                # Waves come and go; sizes are compared where the model, persistence and the target all have some.
                keep_common(target, variable, predicted, last)
            if step == last_step:
                for observer in observers:
                    observer(predicted, target, last)
            came = with_wind_speed(cropped(target, window))
            usual, climate = None, None
            times = [time + step * pairs.selection.timestep for time in inputs.metadata.time]
            if scoring.climatology is not None:
                # The usual speed of the wind is its own: that of the mean wind is less.
                usual, climate = scoring.climatology.states(times), scoring.climatology.rain(times)
                for variable in may_be_missing & usual.keys():
                    keep_common(came, variable, {variable: usual[variable].to(device)})
            summed: dict[str, States] = {name: with_wind_speed(cropped(predicted, window))}
            if references:
                summed[PERSISTENCE] = with_wind_speed(cropped(last, window))
                if usual is not None:
                    summed[CLIMATOLOGY] = usual
            lead = scoring.lead_hours(step)
            for forecast, values in summed.items():
                known = {variable: came[variable] for variable in came if variable in values}
                found.setdefault((SUMS, forecast), {})[lead] = sums.of(values, known, usual)
                found.setdefault((EVENTS, forecast), {})[lead] = events.of(values, known, climate)
                if maps is not None and forecast != CLIMATOLOGY:
                    maps.add(forecast, lead, values, known, pairs.selection.levels, may_be_missing)
            predictions = {variable: summed[name][variable] for variable in came if variable in summed[name]}
            found.setdefault((SPECTRA, name), {})[lead] = spectra.of(predictions)
            if references:
                found.setdefault((SPECTRA, TARGET), {})[lead] = spectra.of(came)
        write(writer, scoring, indices, found)
    return reading.seconds


def keep_common(target: dict[str, torch.Tensor], variable: str, *others: States) -> None:
    """Leave out of a target, in place, the points of a variable that others lack."""
    for other in others:
        target[variable] = target[variable].where(other[variable].isfinite(), torch.nan)


def write(writer: ArchiveWriter, scoring: Scoring, indices: Sequence[int], found: Mapping[Kept, LeadSums]) -> None:
    """Write the sums of a batch of start dates, without those of channels that are left out."""
    for (table, forecast), leads in found.items():
        for position, index in enumerate(indices):
            of_one = {}
            for lead, channels in leads.items():
                scored = channels.keys() - scoring.left_out
                of_one[lead] = {channel: channels[channel][position] for channel in scored}
            if any(of_one.values()):
                writer.write(scoring.pairs.time(index), forecast, of_one, scoring.regions.names, table)


def with_unread(last: States, target: States, pairs: Pairs, indices: Sequence[int]) -> dict[str, torch.Tensor]:
    """Add the newest states of variables that the model predicts and never reads, from the store."""
    found = dict(last)
    for name in target.keys() - last.keys():
        found[name] = pairs.newest(name, indices).to(target[name])
    return found


def physical(batch: Batch) -> dict[str, torch.Tensor]:
    """Take the one state out of a batch: [B, H, W] at the surface, [B, C, H, W] in the atmosphere."""
    return {name: value[:, 0] for name, value in (batch.surf_vars | batch.atmos_vars).items()}


def cropped(states: States, window: Window) -> dict[str, torch.Tensor]:
    """Cut the scored window out of states."""
    return {name: value[(..., *window)] for name, value in states.items()}
