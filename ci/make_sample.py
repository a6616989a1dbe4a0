"""Make the embedded sample: sixty ERA5-shaped states of an idealised planet, six hours apart.

``nox -s sample`` runs this. The states come from one integration of a real dynamical core (see ``dycore``)
after its spin-up, so that every part of the sequence is of one climate. They are synthetic: no observation
and no file of anyone else's goes in, and the dates are fictitious. Two runs on one machine give the same
bytes; another processor rounds differently, and chaos then gives other weather of the same climate.

Written is a pickle of one plain dictionary of NumPy arrays, in ERA5's units and Aurora's names:

- ``time`` datetime64[s], UTC [T], ``latitude`` (decreasing) [Y], ``longitude`` [X], ``level`` hPa [C];
- surface ``2t 10u 10v msl`` [T, Y, X] and atmosphere ``z u v t q`` [T, C, Y, X], each as float16 with
  ``NAME.scale`` and ``NAME.offset`` (float32, [] or [C, 1, 1]): value = NAME * scale + offset;
- ``static_z static_lsm static_slt`` [Y, X], float32.

Axes: T time, C pressure level, Y latitude, X longitude, L sigma layer.
"""

from __future__ import annotations

import logging
import os
import pickle

import jax
import numpy as np
from dinosaur import vertical_interpolation
from numpy.typing import NDArray

import dycore
from embed import embed

Array = NDArray[np.float64]

NAME = "era5-sample"
FILE = "era5-sample.pickle"
STATES = 60
SPIN_UP_DAYS = 100
FIRST_TIME = np.datetime64("2001-01-01T00", "h")
LEVELS_HPA = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
LABELS: dict[str, str | bool] = {
    "licence": "MIT",
    "kind": "states",
    "description": (
        "Synthetic, not observed: 60 states, 6-hourly, 32 x 64 grid, 13 levels, of an idealised planet, "
        "half the Earth's size, with continents and a daily cycle, from the dinosaur dynamical core at T21 with "
        "Held-Suarez forcing. Dates are fictitious. Made by `nox -s sample`."
    ),
    "synthetic": True,
}

GAS_CONSTANT = 1004.0 * 2 / 7
"""Of dry air, as in the run, J kg-1 K-1."""
LAPSE_RATE = 0.0065
"""Of the standard atmosphere, for air that the run does not have: below its lowest layer, K m-1."""
DAILY_RANGE_LAND, DAILY_RANGE_SEA = 9.0, 0.6
"""Warming of the two-metre air, over that of the lowest layer, per unit of solar forcing, K."""
DAILY_LAG_HOURS = 2.0
"""How long after noon the two-metre air is warmest."""
ROUGHNESS_SEA, ROUGHNESS_LAND = 1e-3, 0.3
"""Roughness lengths, m."""

_log = logging.getLogger("make_sample")


def main() -> None:
    """Integrate, derive the fields, pack them, embed the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute_alike()
    embed(NAME, FILE, pickle.dumps(make_sample(), protocol=5), LABELS)


def compute_alike() -> None:
    """Have two runs on one machine compute the same; to be called before the first computation."""
    # XLA reads this when its first computation starts; one thread, so that sums keep their order.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax.config.update("jax_platforms", "cpu")


def make_sample() -> dict[str, NDArray[np.generic]]:
    """Run the model and return the sample's dictionary."""
    planet = dycore.make_planet(dycore.CLIMATES["sample"])
    _log.info("%d days of spin-up, then %d states ...", SPIN_UP_DAYS, STATES)
    (layers,) = dycore.integrate(planet, spin_up_days=SPIN_UP_DAYS, states=[STATES])
    fields = {**surface_fields(planet, layers), **pressure_fields(planet, layers)}
    sample: dict[str, NDArray[np.generic]] = {
        "time": FIRST_TIME.astype("datetime64[s]") + np.arange(STATES) * np.timedelta64(6 * 3600, "s"),
        "latitude": planet.latitude_Y[::-1].copy(),
        "longitude": planet.longitude_X,
        "level": np.array(LEVELS_HPA, np.int64),
    }
    for name, field in fields.items():
        sample |= pack(name, north_up(field))
    return sample | {f"static_{name}": north_up(field).astype(np.float32) for name, field in statics(planet).items()}


def pressure_fields(planet: dycore.Planet, layers: dict[str, Array]) -> dict[str, Array]:
    """Interpolate from sigma layers to pressure levels, linearly in ln p.

    Above the lowest layer's centre everything is interpolated; below it, under ground included, winds and
    saturation fraction are constant while temperature and geopotential follow the standard lapse rate.

    Args:
        planet: the surface.
        layers: what ``dycore.integrate`` returns.

    Returns:
        ``z u v t q``, [T, C, X, Y].
    """
    sigma_L = planet.coords.vertical.centers
    pressure_C = 100.0 * np.array(LEVELS_HPA, np.float64)[:, None, None]
    on_level = {name: _interpolate(layers[name], sigma_L, pressure_C / layers["sp"]) for name in "uvtrz"}
    below = np.maximum(pressure_C / (sigma_L[-1] * layers["sp"]), 1.0)
    growth = below ** (GAS_CONSTANT * LAPSE_RATE / dycore.GRAVITY)
    lowest = layers["t"][:, -1:]
    t = on_level["t"] * growth
    z = on_level["z"] - lowest * (growth - 1) * dycore.GRAVITY / LAPSE_RATE
    q = np.clip(on_level["r"], 0.005, 1.0) * saturation_humidity(t, pressure_C)
    return {"z": z, "u": on_level["u"], "v": on_level["v"], "t": t, "q": q}


def surface_fields(planet: dycore.Planet, layers: dict[str, Array]) -> dict[str, Array]:
    """Derive the surface fields from the lowest layer.

    Winds at 10 m follow the logarithmic profile over the roughness of land and sea; the air at 2 m is the
    lowest layer's, brought down at the standard lapse rate, plus a daily cycle that lags the sun; the
    surface pressure is reduced to sea level through an atmosphere of that lapse rate.

    Args:
        planet: the surface.
        layers: what ``dycore.integrate`` returns.

    Returns:
        ``2t 10u 10v msl``, [T, X, Y].
    """
    lowest = {name: layers[name][:, -1] for name in "uvt"}
    sp = layers["sp"][:, 0]
    exponent = GAS_CONSTANT * LAPSE_RATE / dycore.GRAVITY
    at_surface = lowest["t"] * planet.coords.vertical.centers[-1] ** -exponent
    msl = sp * (1 + LAPSE_RATE * planet.height_XY / at_surface) ** (1 / exponent)
    height_of_layer = (layers["z"][:, -1] / dycore.GRAVITY - planet.height_XY).mean()
    slow_down = wind_reduction(planet.land_XY, float(height_of_layer))
    daily = DAILY_RANGE_SEA + (DAILY_RANGE_LAND - DAILY_RANGE_SEA) * planet.land_XY
    hours = 6.0 * np.arange(len(sp))[:, None, None] - DAILY_LAG_HOURS
    sun = np.asarray(dycore.solar_forcing(hours, planet.longitude_X[:, None], planet.latitude_Y), np.float64)
    return {
        "2t": at_surface + daily * sun,
        "10u": lowest["u"] * slow_down,
        "10v": lowest["v"] * slow_down,
        "msl": msl,
    }


def statics(planet: dycore.Planet) -> dict[str, Array]:
    """Return the surface geopotential of the run, its land fraction, and soil classes that follow from both.

    Returns:
        ``z`` (m2 s-2), ``lsm`` (0 to 1) and ``slt`` (0 water; 1 coarse, the dry belts; 2 medium; 3 fine, the
        tropics; the numbers are ERA5's, the soils invented), [X, Y].
    """
    latitude = np.abs(planet.latitude_Y)
    soil = np.select([latitude < 15, latitude < 35], [3.0, 1.0], 2.0)
    return {
        "z": dycore.GRAVITY * planet.height_XY,
        "lsm": planet.land_XY,
        "slt": np.where(planet.land_XY > 0.5, soil, 0.0),
    }


def saturation_humidity(t: Array, pressure: Array) -> Array:
    """Specific humidity of air saturated over water (Bolton 1980, Mon. Wea. Rev. 108), kg kg-1.

    Args:
        t: temperature, K.
        pressure: Pa.
    """
    celsius = t - 273.15
    vapour = 611.2 * np.exp(17.67 * celsius / (celsius + 243.5))
    vapour = np.minimum(vapour, 0.5 * pressure)
    humidity: Array = 0.622 * vapour / (pressure - 0.378 * vapour)
    return humidity


def wind_reduction(land: Array, height: float) -> Array:
    """Ratio of the wind at 10 m to that at ``height`` m over neutral air, for a land fraction."""
    log_roughness = (1 - land) * np.log(ROUGHNESS_SEA) + land * np.log(ROUGHNESS_LAND)
    ratio: Array = (np.log(10.0) - log_roughness) / (np.log(height) - log_roughness)
    return ratio


def pack(name: str, field: Array) -> dict[str, NDArray[np.generic]]:
    """Store a field as float16, standardised (per level), with the scale and offset that undo it.

    Humidity keeps an offset of zero: rounding then never makes it negative.

    Args:
        name: the variable.
        field: [T, Y, X] or [T, C, Y, X].
    """
    axes = (0, field.ndim - 2, field.ndim - 1)
    scale = np.asarray(field.std(axis=axes), np.float32)
    offset = np.asarray(field.mean(axis=axes) * (name != "q"), np.float32)
    packed = (field - offset[..., None, None]) / scale[..., None, None]
    return {name: packed.astype(np.float16), f"{name}.scale": scale, f"{name}.offset": offset}


def _interpolate(field: Array, sigma_L: Array, wanted: Array) -> Array:
    """Interpolate [T, L, X, Y] to the sigma values wanted, [T, C, X, Y], linearly in ln sigma, constant beyond."""
    interpolate = vertical_interpolation.vectorize_vertical_interpolation(vertical_interpolation.vertical_interpolation)
    return np.asarray(interpolate(np.log(wanted), np.log(sigma_L), field), np.float64)


def north_up(field: Array) -> Array:
    """Turn [..., X, northward Y] into [..., southward Y, X]."""
    return np.ascontiguousarray(np.swapaxes(field, -1, -2)[..., ::-1, :])


if __name__ == "__main__":
    main()
