"""Sums that scores are made of: of one start date, lead, forecast, channel and region each.

Whatever is asked later, over which dates, with which uncertainty, against which other forecast, is computed from these
sums; no forecast has to be made again.

Dimensions: B start date, C channel (a variable at the surface or on a level), R region, M moment, H latitude,
W longitude.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from kit.data.statistics import channel_key
from kit.data.variables import WIND_SPEEDS
from kit.verification.regions import Regions

# Of every forecast: area weights, and weighted errors.
WEIGHT, ERROR, ABSOLUTE, SQUARED = "weight", "error", "absolute", "squared"
# Of anomalies, departures from climatology: weights, those of forecast and target squared, and their product.
ANOMALY_WEIGHT, FORECAST_ANOMALY, TARGET_ANOMALY, BOTH_ANOMALIES = (
    "anomaly_weight", "forecast_anomaly_squared", "target_anomaly_squared", "anomaly_product",
)  # fmt: skip
MOMENTS = (
    WEIGHT, ERROR, ABSOLUTE, SQUARED, ANOMALY_WEIGHT, FORECAST_ANOMALY, TARGET_ANOMALY, BOTH_ANOMALIES,
)  # fmt: skip

BASE, CLIMATOLOGY, MODEL, PERSISTENCE = "base", "climatology", "model", "persistence"
"""Forecasts that sums are of."""
DIRECTIONS = frozenset({"mwd", "mdww", "mdts", "mwd1", "mwd2", "dwi"})
"""Variables that are directions in degrees: their errors are angles, from -180 to 180 degrees."""
WIND_SPEED = "ws"
"""Speed of the wind on levels; ``10ws`` at 10 m."""

States = Mapping[str, Tensor]
"""Physical values by variable: [B, H, W] at the surface, [B, C, H, W] in the atmosphere."""


def wind_speeds(names: Collection[str]) -> list[str]:
    """Name the speeds of the winds whose components are among some variables."""
    return [speed for speed, (east, north) in WIND_SPEEDS.items() if east in names and north in names]


def with_wind_speed(states: States) -> dict[str, Tensor]:
    """Add the speed of the wind, in m s-1, where both of its components are there and the speed is not."""
    found = dict(states)
    # An ensemble's speed is the mean of its members': that of the mean wind is less.
    for name in wind_speeds(states):
        if name in states:
            continue
        east, north = WIND_SPEEDS[name]
        found[name] = torch.hypot(states[east], states[north])
    return found


class RegionalSums:
    """Sums of forecasts over regions, start date by start date.

    A NaN in a forecast or a target makes its sums NaN: nothing is skipped quietly. Only for variables named in
    ``may_be_missing`` are grid points left out where the target is not finite; a forecast that is NaN where the target
    is finite still shows.
    """

    def __init__(self, regions: Regions, levels: Sequence[float], may_be_missing: frozenset[str] = frozenset()) -> None:
        """Prepare the weights.

        Args:
            regions: Regions on the grid that is scored.
            levels: Pressures of variables on levels, hPa.
            may_be_missing: Variables whose targets are expected to hold missing values.
        """
        self._levels = levels
        self._may_be_missing = may_be_missing
        # [HW, R]: one product sums over all regions.
        self._weights = torch.from_numpy(regions.weights).flatten(1).T.contiguous()

    def of(self, forecast: States, target: States, climatology: States | None = None) -> dict[str, np.ndarray]:
        """Sum up forecasts of one lead.

        Args:
            forecast: Values that were forecast.
            target: Values that came; only their variables are scored.
            climatology: Values that are usual then, of some of the variables, the same shapes.

        Returns:
            Sums by channel, [B, R, M] in float64; NaN of anomalies where there is no climatology.
        """
        found: dict[str, np.ndarray] = {}
        usual = {} if climatology is None else climatology
        for name, values in target.items():
            keys = [name]
            if values.ndim == 4:
                keys = [channel_key(name, level) for level in self._levels]
            shape = (len(values), len(keys), *values.shape[-2:])
            normal = usual[name].reshape(shape) if name in usual else None
            sums_MBCR = self._moments(name, forecast[name].reshape(shape), values.reshape(shape), normal)
            for position, key in enumerate(keys):
                found[key] = sums_MBCR[:, :, position].permute(1, 2, 0).cpu().numpy()
        return found

    def _moments(self, name: str, forecast: Tensor, target: Tensor, normal: Tensor | None) -> Tensor:
        """Sum up one variable: [M, B, C, R]."""
        # In double precision before the difference: squares of geopotential have ten digits.
        forecast, target = forecast.detach().double(), target.detach().to(forecast.device).double()
        present = torch.ones_like(target)
        if name in self._may_be_missing:
            scored = torch.isfinite(target)
            present = scored.double()
            target = target.where(scored, 0.0)
            forecast = forecast.where(scored, 0.0)
        error = difference(name, forecast, target)
        moments = [present, error, error.abs(), error.square()]
        if normal is None:
            nothing = torch.full_like(present, math.nan)
            moments += [nothing] * 4
        else:
            usual = normal.to(forecast.device).double()
            if name in self._may_be_missing:
                usual = usual.where(scored, 0.0)
            ours, theirs = difference(name, forecast, usual), difference(name, target, usual)
            moments += [present, ours.square() * present, theirs.square() * present, ours * theirs * present]
        weights = self._weights.to(error.device)
        return torch.stack([moment.flatten(2) @ weights for moment in moments])


def difference(name: str, one: Tensor, other: Tensor) -> Tensor:
    """Subtract values; of directions the smaller angle between them, from -180 to 180 degrees."""
    apart = one - other
    if name in DIRECTIONS:
        return torch.remainder(apart + 180, 360) - 180
    return apart
