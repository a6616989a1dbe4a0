"""Forecasts of a file as an evaluation takes them: one start date at a time, its leads by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from aurora import Batch

from kit.data.dataset import Selection
from kit.verification.forecast_files import ForecastFile
from kit.verification.other_grid import OtherGrid
from kit.verification.same_grid import SharedGrid
from kit.verification.sums import States

_HOUR = 3600


@dataclass(frozen=True)
class FileForecasts:
    """Forecasts of a file, one start date at a time.

    Attributes:
        file: Forecast that is open.
        selection: Variables and levels that are scored.
        shared: Points that the file and the store share, or that the file is interpolated to.
        may_be_missing: Variables of which the store lacks values.
    """

    file: ForecastFile
    selection: Selection
    shared: SharedGrid | OtherGrid
    may_be_missing: frozenset[str]
    device = torch.device("cpu")

    def predict(self, inputs: Batch, steps: Sequence[int]) -> Iterator[States]:
        """Read the states of one start date; arguments and results are those of ``Forecasts``."""
        (start,) = inputs.metadata.time
        for step in steps:
            moment = start, lead_of(step, self.selection.timestep)
            states = {}
            for name in (*self.selection.targets, *self.selection.atmospheric):
                values = self.shared.take(name, self.file.read(name, moment, self.selection.levels))
                states[name] = torch.from_numpy(values[None])
            yield states


def lead_of(step: int, timestep: timedelta) -> float:
    """Return the lead of a step in hours, as a file has it."""
    return round(step * timestep.total_seconds() / _HOUR, 6)
