"""Fields with the spectra of HRRR's: smooth below some grid lengths, clear air beside storms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from kit.data.store.reader import Store
from tests.factories import synthetic_dataset, write_synthetic

VARIABLES = ("refc", "2t", "2d", "10u", "10v", "cape", "cin")
SCALES = {"refc": (-20, 25), "2t": (288, 6), "2d": (282, 6), "10u": (2, 4), "10v": (0, 4), "cape": (200, 700)}
"""Mean and standard deviation, before the limits below."""


def storm_store(path: Path, *, pairs: int = 10, side: int = 256, seed: int = 0) -> Store:
    """A store of hourly states, in which the training states come again as those of validation, a day later.

    Args:
        path: folder to be made.
        pairs: of training.
        side: rows and columns.
        seed: of everything random.
    """
    hours = [*range(pairs + 1), *range(24, 27), *range(48, 51)]
    dataset = synthetic_dataset(
        surface=VARIABLES, atmospheric=(), static=("z",), times=len(hours), height=side, width=side, curvilinear=True
    )
    times = pd.Timestamp("2024-06-01") + pd.to_timedelta(hours, "h")
    dataset = dataset.assign_coords(time=times.values.astype("datetime64[ns]"))
    random = np.random.default_rng(seed)
    ground = _turbulence(random, side)
    dataset["static_z"].values[:] = 5000 * np.maximum(ground, 0)
    for name in VARIABLES:
        day = _day(random, name, pairs + 1, side, ground)
        dataset[name].values[:] = day[[hour % 24 for hour in hours]]
    moments = times.strftime("%Y-%m-%dT%H:%M")
    ends = {"train": (0, pairs), "valid": (pairs + 1, pairs + 3), "test": (pairs + 4, pairs + 6)}
    return write_synthetic(
        dataset, path, splits={name: f"{moments[first]}/{moments[last]}" for name, (first, last) in ends.items()}
    )


def _day(
    random: np.random.Generator, name: str, hours: int, side: int, ground: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """States that travel 12 km to the east in an hour, and change a little."""
    mean, deviation = SCALES.get(name, (0, 60))
    field = _turbulence(random, side)
    states = []
    for _ in range(hours):
        values = mean + deviation * field
        if name in ("2t", "2d"):
            values = values - 5 * np.maximum(ground, 0)
        states.append(values)
        field = 0.98 * np.roll(field, 4, -1) + 0.2 * _turbulence(random, side)
    limits = {"refc": (-10, None), "cape": (0, None), "cin": (None, 0)}
    return np.clip(states, *limits[name]) if name in limits else np.array(states)


def _turbulence(random: np.random.Generator, side: int) -> npt.NDArray[np.float64]:
    """A field of deviation 1 whose power falls as wavenumber ** (-5/3), and faster below 7 grid lengths.

    Skamarock 2004, "Evaluating Mesoscale NWP Models Using Kinetic Energy Spectra", figure 11: effective resolution.
    """
    waves = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    waves[0, 0] = np.inf
    # Of a line; of a plane there are as many more waves as they are short.
    power = waves ** (-5 / 3 - 1) / (1 + (7 * waves) ** 4)
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((side, side))) * np.sqrt(power), (side, side))
    return np.asarray(field / field.std())
