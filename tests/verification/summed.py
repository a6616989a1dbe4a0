"""Sums of forecasts without a checkpoint around them."""

from pathlib import Path

import numpy as np
import xarray as xr

from kit.data.dataset import Pairs
from kit.forecasting.predictor import ForecastSpace
from kit.verification.archive import archiving, read_archive
from kit.verification.evaluation import RollOuts, Scoring, sum_up
from kit.verification.regions import regions_on
from kit.verification.sums import MODEL, PERSISTENCE


def summed(space: ForecastSpace, pairs: Pairs, path: Path) -> xr.DataArray:
    """Forecast all pairs, and return the last lead's sums over the whole grid: start, forecast, channel, moment."""
    regions = regions_on(("all",), *pairs.selection.grid.scored_coordinates(pairs.store))
    scoring = Scoring(pairs, regions)
    with archiving(path, scoring.axes([MODEL, PERSISTENCE]), {}) as writer:
        sum_up(RollOuts(space), scoring, writer)
    archive = read_archive(path)
    return archive.of_lead(archive.coordinates["lead"][-1]).isel(region=0)


def rmse(sums: xr.DataArray, channel: str, forecast: str = MODEL) -> float:
    """Score what was summed up."""
    chosen = sums.sel(channel=channel, forecast=forecast).sum("start")
    return float(np.sqrt(chosen.sel(moment="squared") / chosen.sel(moment="weight")))
