"""Forecasts of every lead of a roll-out, summed up beside the states that came.

One start date's roll-out is made at a time, or a batch of them, and each lead's target is read when it is predicted:
memory depends on neither the number of start dates nor of steps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from aurora import Batch

from kit.data.dataset import Pairs, moved
from kit.data.loader import Waiting, read_ahead
from kit.data.statistics import channel_key
from kit.forecasting.forecast import roll_out
from kit.metrics.scores import persistence
from kit.models.space import TrainingSpace, Window
from kit.verification.archive import ArchiveWriter, Axes
from kit.verification.regions import Regions
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
"""Sums by lead in hours and channel, [B, R, M]."""


class Climatology(Protocol):
    """What is usual at a time of the year and of the day."""

    def states(self, times: Sequence[datetime]) -> States:
        """Return the usual values of some variables where forecasts are scored, [B, H, W] and [B, C, H, W]."""


Observer = Callable[[States, States, States], None]
"""Function that looks at predictions of the last lead, at what came, and at the last input states; halo included."""


@dataclass(frozen=True)
class Scoring:
    """What forecasts are summed up with.

    Attributes:
        pairs: Start dates, with the states that came.
        regions: Regions on the grid that is scored.
        batch_size: Forecasts per forward pass.
        climatology: What is usual; None without.
    """

    pairs: Pairs
    regions: Regions
    batch_size: int = 1
    climatology: Climatology | None = None

    @property
    def window(self) -> Window:
        """Rows and columns that are scored: the halo is context alone."""
        return self.pairs.selection.grid.window or (slice(None), slice(None))

    @property
    def batches(self) -> list[range]:
        """Indices of the start dates of each forward pass."""
        count, size = len(self.pairs), self.batch_size
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    @property
    def channels(self) -> list[str]:
        """Variables at the surface and on each level, as the store has them."""
        selection = self.pairs.selection
        on_levels = [channel_key(name, level) for name in selection.atmospheric for level in selection.levels]
        return [*selection.targets, *on_levels]

    def axes(self, forecasts: Sequence[str]) -> Axes:
        """Return what the sums of some forecasts will be of."""
        selection = self.pairs.selection
        channels = self.channels
        for name in wind_speeds([*selection.targets, *selection.atmospheric]):
            channels += [channel_key(name, level) for level in selection.levels] if name == WIND_SPEED else [name]
        leads = [self.lead_hours(step) for step in range(1, self.pairs.steps + 1)]
        return Axes(self.pairs.times, leads, forecasts, channels, self.regions.names)

    def lead_hours(self, step: int) -> float:
        """Return the lead of a step, counted from 1."""
        return step * self.pairs.selection.timestep.total_seconds() / 3600

    def read(self) -> Iterator[Batch]:
        """Read input states of each batch of start dates, then the target of each lead."""
        steps = self.pairs.steps
        for indices in self.batches:
            yield self.pairs.inputs(indices)
            following = [self.pairs.following(index, steps) for index in indices]
            for step in range(steps):
                yield self.pairs.target([places[step] for places in following])


@torch.no_grad()
def sum_up(
    space: TrainingSpace,
    scoring: Scoring,
    writer: ArchiveWriter,
    name: str = MODEL,
    observers: Sequence[Observer] = (),
    *,
    references: bool = True,
) -> float:
    """Forecast from every start date, and write the sums of every lead.

    Args:
        space: Model that predicts.
        scoring: Start dates, regions and what is usual.
        writer: Writer of the sums.
        name: Name of the forecast.
        observers: What else looks at the last lead.
        references: Whether to sum up persistence, and climatology where it is known, too.

    Returns:
        Seconds that were spent waiting for data.
    """
    device = next(space.model.parameters()).device
    pairs, window = scoring.pairs, scoring.window
    sums = RegionalSums(scoring.regions, pairs.selection.levels, space.may_be_missing)
    reading = Waiting(read_ahead(scoring.read()))
    for indices in scoring.batches:
        inputs = moved(next(reading), device)
        last = persistence(inputs.surf_vars | inputs.atmos_vars)
        found: dict[str, LeadSums] = {}
        for step, prediction in enumerate(roll_out(space, inputs, pairs.steps), start=1):
            target = physical(moved(next(reading), device))
            predicted = physical(prediction)
            last = with_unread(last, target, pairs, indices)
            # Waves come and go; sizes are compared where the model, persistence and the target all have some.
            for variable in space.may_be_missing & target.keys():
                both = predicted[variable].isfinite() & last[variable].isfinite()
                target[variable] = target[variable].where(both, torch.nan)
            if step == pairs.steps:
                for observer in observers:
                    observer(predicted, target, last)
            came = with_wind_speed(cropped(target, window))
            usual = None
            times = [time + step * pairs.selection.timestep for time in inputs.metadata.time]
            if scoring.climatology is not None:
                usual = with_wind_speed(scoring.climatology.states(times))
            forecasts: dict[str, States] = {name: with_wind_speed(cropped(predicted, window))}
            if references:
                forecasts[PERSISTENCE] = with_wind_speed(cropped(last, window))
                if usual is not None:
                    forecasts[CLIMATOLOGY] = usual
            lead = scoring.lead_hours(step)
            for forecast, values in forecasts.items():
                known = {variable: came[variable] for variable in came if variable in values}
                found.setdefault(forecast, {})[lead] = sums.of(values, known, usual)
        write(writer, scoring, indices, found)
    return reading.seconds


def write(writer: ArchiveWriter, scoring: Scoring, indices: Sequence[int], found: Mapping[str, LeadSums]) -> None:
    """Write the sums of a batch of start dates."""
    for forecast, leads in found.items():
        for position, index in enumerate(indices):
            of_one = {}
            for lead, channels in leads.items():
                of_one[lead] = {channel: values[position] for channel, values in channels.items()}
            writer.write(scoring.pairs.time(index), forecast, of_one, scoring.regions.names)


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
