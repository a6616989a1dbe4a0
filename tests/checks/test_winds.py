"""Winds along the axes of a grid, against pressure gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from pyproj import Proj, Transformer

from kit.checks.results import Check
from kit.data.settings import BuildSettings
from kit.data.sources.grib.scan import load_eccodes
from kit.data.store.build import build_store
from tests.checks.stores import of, report_of
from tests.factories import synthetic_dataset, write_synthetic
from tests.real_data import real_data

LAMBERT = Proj(proj="lcc", lat_1=38.5, lat_2=38.5, lat_0=38.5, lon_0=-97.5, R=6371229)
"""That of HRRR."""


def _angles(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Angle from the east to the x axis, counted to the north; of pyproj's own factors."""
    factors = LAMBERT.get_factors(longitude, latitude)
    angles: np.ndarray = -np.deg2rad(np.asarray(factors.meridian_convergence))
    return angles


def _grid(width: int = 40, height: int = 30, spacing: float = 1e5) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid((np.arange(width) - width / 2) * spacing, (height / 2 - np.arange(height)) * spacing)
    longitude, latitude = Transformer.from_proj(LAMBERT, LAMBERT.to_latlong(), always_xy=True).transform(x, y)
    return np.asarray(latitude), np.asarray(longitude) % 360


def _store(path: Path, turn: float, *, friction: float = 0, surface: bool = False, noise: float = 3) -> Check:
    """Winds in balance with waves of geopotential or pressure, turned by so many times the angles of the grid.

    The gradient is that of a formula, and not of differences.
    """
    latitude, longitude = _grid()
    lat, lon = np.deg2rad(latitude), np.deg2rad(longitude)
    # 500 hPa: 5400 gpm at the pole and 1000 gpm more at the equator, with waves of 60 gpm.
    z = 9.81 * (5400 + 600 * np.cos(2 * lat) + 60 * np.sin(6 * lon) * np.cos(lat))
    north = 9.81 * (-1200 * np.sin(2 * lat) - 60 * np.sin(6 * lon) * np.sin(lat)) / 6.371e6
    east = 9.81 * 360 * np.cos(6 * lon) / 6.371e6
    coriolis = 2 * 7.2921e-5 * np.sin(lat)
    wind = 1j * (east + 1j * north) / coriolis * np.exp(1j * np.deg2rad(friction))
    wind = wind * np.exp(-1j * turn * _angles(latitude, longitude))
    names = {"pressure": "z", "east": "u", "north": "v"}
    dataset = synthetic_dataset(levels=(500,), height=30, width=40, curvilinear=True, times=12)
    if surface:
        names = {"pressure": "msl", "east": "10u", "north": "10v"}
        dataset = dataset.drop_vars("z")
        z = 101325 + (z - z.mean()) * 1.2
    dataset = dataset.assign_coords(latitude=(("y", "x"), latitude), longitude=(("y", "x"), longitude))
    random = np.random.default_rng(0)
    for role, values in (("pressure", z), ("east", wind.real), ("north", wind.imag)):
        name = names[role]
        spread = 0 if role == "pressure" else noise
        field = values + spread * random.normal(size=(12, 30, 40))
        field += 1e-3 * np.arange(12)[:, None, None]
        shaped = field.reshape(dataset[name].shape).astype(np.float32)
        dataset[name] = (dataset[name].dims, shaped)
    write_synthetic(dataset, path)
    (check,) = of(report_of(path), "wind-direction")
    return check


@pytest.mark.parametrize("surface", (False, True))
def test_winds_along_the_grid_are_found(tmp_path: Path, surface: bool) -> None:
    check = _store(tmp_path / "store", 1, surface=surface, friction=20 if surface else 0)
    assert (check.status, check.severity, check.variable) == ("failed", "warning", "10u" if surface else "u")
    assert check.evidence["turned"] > 0.99 > check.evidence["correlation"]
    assert "they point along the grid" in check.remedy


def test_winds_that_were_turned_the_wrong_way_are_found(tmp_path: Path) -> None:
    check = _store(tmp_path / "store", -1)
    assert check.status == "failed"
    assert "the wrong way" in check.remedy


@pytest.mark.parametrize("surface", (False, True))
def test_winds_from_west_and_south_are_none(tmp_path: Path, surface: bool) -> None:
    assert _store(tmp_path / "store", 0, surface=surface, friction=20 if surface else 0).status == "passed"


def test_winds_without_balance_say_nothing(tmp_path: Path) -> None:
    check = _store(tmp_path / "store", 1, noise=300)
    assert check.status == "not-applicable"
    assert check.detail.startswith("winds have too little to do with pressure gradients (correlation 0.")


@pytest.mark.slow
def test_real_winds_over_mountains_are_not_called_wrong(tmp_path: Path) -> None:
    """The western USA of ERA5 on a Lambert grid, by the right winds."""
    # By its own loader: pyproj crashes if it comes after eccodes.
    load_eccodes()
    source = real_data("era5-western-usa-2025-01")
    build_store(BuildSettings(source="grib", path=source, out=tmp_path / "regular"))
    x, y = np.meshgrid(np.arange(-36, -24) * 5e4, np.arange(20, -10, -1) * 3e4)
    longitude, latitude = Transformer.from_proj(LAMBERT, LAMBERT.to_latlong(), always_xy=True).transform(x, y)
    places = {"latitude": (("y", "x"), latitude), "longitude": (("y", "x"), longitude % 360)}
    points = {name: xr.DataArray(values, dims=dims) for name, (dims, values) in places.items()}
    regular = xr.open_zarr(tmp_path / "regular").load().interp(points)
    dataset = synthetic_dataset(curvilinear=True, height=30, width=12, times=len(regular["time"]))
    dataset = dataset.drop_vars("z").assign_coords(places)
    for name in ("msl", "10u", "10v"):
        assert np.isfinite(regular[name]).all()
        dataset[name] = (dataset[name].dims, regular[name].values.astype(np.float32))
    write_synthetic(dataset, tmp_path / "store")
    (check,) = of(report_of(tmp_path / "store"), "wind-direction")
    assert check.status != "failed", check
