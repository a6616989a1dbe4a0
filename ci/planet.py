"""Make years of the idealised planet, as a store: for pretraining, benchmarks and slow tests.

``nox -s planet`` runs this: ``nox -s planet -- --years 2 --seed 1 --climate other --out FOLDER``. The weather is
that of ``dycore``, derived as that of the embedded sample is (``make_sample``), six hours apart, 365 of the planet's
days to a year. It is written a month at a time, so that memory does not grow with the years. The store says of itself
that it is synthetic, its dates are fictitious, and no package carries it. A year takes about half an hour on one
processor, and 0.8 GB.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import dycore
import make_sample
from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.registry.entry import cache_dir

YEAR_DAYS, MONTH_DAYS = 365, 30
STATES_A_DAY = 4
UNITS = {"2t": "K", "10u": "m s-1", "10v": "m s-1", "msl": "Pa", "lsm": "1", "slt": "1"}
UNITS |= {"z": "m2 s-2", "u": "m s-1", "v": "m s-1", "t": "K", "q": "kg kg-1"}

_log = logging.getLogger("planet")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and make the store."""
    parser = argparse.ArgumentParser(prog="nox -s planet --", description="Make years of an idealised planet.")
    parser.add_argument("--years", type=int, default=1, help="years of 365 of the planet's days (default: 1)")
    parser.add_argument("--days", type=int, help="the planet's days, in place of years")
    parser.add_argument("--seed", type=int, default=1, help="of the perturbation it starts from; the sample's is 0")
    parser.add_argument("--climate", choices=sorted(dycore.CLIMATES), default="sample", help="whose weather")
    parser.add_argument("--out", type=Path, help="folder of the store (default: in the cache)")
    asked = parser.parse_args(arguments)
    days = asked.days or YEAR_DAYS * asked.years
    if days < 1 or asked.seed < 0:
        parser.error("days and years are at least 1, a seed is at least 0")
    out = asked.out or cache_dir() / "planets" / f"{asked.climate}-{days}-days-seed-{asked.seed}"
    if out.exists():
        parser.error(f"{out} exists; remove it, or choose another folder with --out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_sample.compute_alike()
    make_planet(out, climate=asked.climate, days=days, seed=asked.seed)


def make_planet(out: Path, *, climate: str, days: int, seed: int) -> None:
    """Integrate, and build a store of what comes.

    Args:
        out: folder of the store; must not exist.
        climate: one of ``dycore.CLIMATES``.
        days: how many of the planet's days.
        seed: of the perturbation that the run starts from.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    description = (
        f"Synthetic, not observed: {days} days, 6-hourly, of an idealised planet, climate {climate}, seed {seed}, from "
        "the dinosaur dynamical core at T21. Dates are fictitious. Made by `nox -s planet`."
    )
    # Beside the store, where there is room for it.
    with tempfile.TemporaryDirectory(prefix=".planet-", dir=out.parent) as folder:
        planet = dycore.make_planet(dycore.CLIMATES[climate])
        static_fields(planet).to_netcdf(Path(folder) / "static.nc")
        for number, month in enumerate(months(planet, days, seed)):
            month.to_netcdf(Path(folder) / f"month-{number:03}.nc")
            _log.info("%s: to %s", out, str(month.time.values[-1])[:13])
        settings = BuildSettings(source="netcdf", path=folder, out=out, licence="MIT", **splits(days))
        build_store(settings, attributes={"synthetic": True, "description": description})


def splits(days: int) -> dict[str, str]:
    """Return the periods to train, validate and test on: of several years the last is to test on, whole.

    The month before it is to validate on. A shorter time is split as a store of unknown content is.
    """
    if days < 2 * YEAR_DAYS:
        return {}
    first, last = make_sample.FIRST_TIME.astype("datetime64[D]"), days - YEAR_DAYS
    ends = {"train": (0, last - MONTH_DAYS), "valid": (last - MONTH_DAYS, last), "test": (last, days)}
    return {name: f"{first + begin}/{first + end - 1}T18" for name, (begin, end) in ends.items()}


def months(planet: dycore.Planet, days: int, seed: int) -> Iterator[xr.Dataset]:
    """Yield the states of thirty days after thirty days, in a store's names and units.

    Args:
        planet: the surface, and what drives the weather.
        days: how many of the planet's days, all months together.
        seed: of the perturbation that the run starts from.
    """
    lengths = [STATES_A_DAY * min(MONTH_DAYS, days - begin) for begin in range(0, days, MONTH_DAYS)]
    time = make_sample.FIRST_TIME.astype("datetime64[ns]")
    pieces = dycore.integrate(planet, spin_up_days=make_sample.SPIN_UP_DAYS, states=lengths, seed=seed)
    for layers in pieces:
        fields = {**make_sample.surface_fields(planet, layers), **make_sample.pressure_fields(planet, layers)}
        steps = np.arange(len(layers["sp"])) * np.timedelta64(6, "h")
        levels = ("level", np.array(make_sample.LEVELS_HPA, np.float64), {"units": "hPa"})
        axes = ("time", "level", "latitude", "longitude")
        yield _dataset(planet, fields, axes, {"time": time + steps, "level": levels})
        time = time + steps[-1] + np.timedelta64(6, "h")


def static_fields(planet: dycore.Planet) -> xr.Dataset:
    """Return the planet's static fields, in a store's names and units."""
    return _dataset(planet, make_sample.statics(planet), ("latitude", "longitude"), {})


def _dataset(
    planet: dycore.Planet, fields: dict[str, make_sample.Array], axes: tuple[str, ...], coordinates: dict[str, Any]
) -> xr.Dataset:
    """Turn fields [..., X, northward Y] north up, with the units that the kit reads of files."""
    variables = {}
    for name, field in fields.items():
        on_axes = axes if field.ndim == len(axes) else (axes[0], *axes[2:])
        variables[name] = (on_axes, make_sample.north_up(field).astype(np.float32), {"units": UNITS[name]})
    grid = {
        "latitude": ("latitude", planet.latitude_Y[::-1].copy(), {"units": "degrees_north"}),
        "longitude": ("longitude", planet.longitude_X, {"units": "degrees_east"}),
    }
    return xr.Dataset(variables, {**grid, **coordinates})


if __name__ == "__main__":
    main()
