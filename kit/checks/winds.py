"""Check of winds against pressure gradients, on grids whose axes point elsewhere than east and north.

Dimensions: h and w those of a map.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check
from kit.checks.scan import thinning

Array = npt.NDArray[Any]

_EARTH = 6.371e6
"""Radius, m."""
_ROTATION = 7.2921e-5
"""Angular velocity of the Earth, s-1."""
_TROPICS = 20.0
"""Degrees from the equator within which winds do not follow pressure."""
_LAYER = (250.0, 700.0)
"""Pressures, hPa, between which winds are nearly geostrophic."""
_POINTS = 50
_TURNED = 3.0
"""Degrees by which the axes must be turned somewhere, for winds along them to be told from others."""
_FITS = 0.7
"""Correlation of winds with geostrophic ones from which on their directions say something."""
_LEFT, _LEFT_AT_GROUND = 0.5, 0.3
"""Share of the misfit that may be left when winds are turned: friction and mountains turn those near the ground."""


@check(
    "wind-direction",
    "warning",
    "winds fit the pressure gradients as winds from west and south",
    ("latitude", "longitude"),
)
def _wind_direction(store: Examined) -> Findings:
    """Winds along the grid fit the geostrophic ones only when they are turned by its angles.

    The geostrophic wind is (i / f) times the gradient of geopotential (Holton, *An Introduction to Dynamic
    Meteorology*, 4th ed., 2004, eq. 3.22), complex with east real and north imaginary; of means over all states it is
    that of their mean, as both are linear.
    """
    if not store.reader.curvilinear:
        msg = "the grid's axes point east and north"
        raise NotApplicable(msg)
    at_ground = not all(store.found(name) for name in ("z", "u", "v"))
    names = ("msl", "10u", "10v") if at_ground else ("z", "u", "v")
    pressure, eastward, northward = store.need(*names)
    chosen = np.array([0])
    if not at_ground:
        levels = store.reader.coordinates["level"]
        chosen = np.flatnonzero((levels >= _LAYER[0]) & (levels <= _LAYER[1]))
        if not chosen.size:
            msg = f"no level between {_LAYER[0]:g} and {_LAYER[1]:g} hPa"
            raise NotApplicable(msg)
    rows, columns = thinning(pressure.channel.array.shape)
    latitude = store.reader.coordinates["latitude"][::rows, ::columns]
    longitude = store.reader.coordinates["longitude"][::rows, ::columns]
    if min(latitude.shape) < 3:
        msg = "fewer than three rows or columns"
        raise NotApplicable(msg)
    x_axis, y_axis = _axes(latitude, longitude)
    angle = np.angle(x_axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        geostrophic = _gradient(pressure.mean_Chw[chosen], x_axis, y_axis) * 1j
        geostrophic /= 2 * _ROTATION * np.sin(np.deg2rad(latitude))
    wind = eastward.mean_Chw[chosen] + 1j * northward.mean_Chw[chosen]
    there = (np.abs(latitude) > _TROPICS) & np.isfinite(geostrophic) & np.isfinite(wind)
    there[:, [0, -1]], there[:, :, [0, -1]] = False, False
    angles = np.broadcast_to(angle, wind.shape)[there]
    if angles.size < _POINTS:
        msg = "too few points outside the tropics"
        raise NotApplicable(msg)
    if np.rad2deg(np.abs(angles).max()) < _TURNED:
        msg = "the grid's axes point east and north"
        raise NotApplicable(msg)
    fits = {turns: _fit(wind[there], geostrophic[there], turns * angles, any_turn=at_ground) for turns in (-1, 0, 1)}
    best = max(fits, key=fits.__getitem__)
    if fits[best] < _FITS:
        msg = f"winds have too little to do with pressure gradients (correlation {fits[best]:.2f})"
        raise NotApplicable(msg)
    left = _LEFT_AT_GROUND if at_ground else _LEFT
    if best != 0 and 1 - fits[best] < left * (1 - fits[0]):
        west, east = np.rad2deg([angles.min(), angles.max()])
        detail = f"{names[1]} and {names[2]} fit the gradient of {names[0]} when they are turned by the angles between "
        detail += f"the grid and the east ({west:.0f} to {east:.0f} degrees): correlation {fits[best]:.3f}, "
        detail += f"{fits[0]:.3f} as they are"
        remedy = (
            "they point along the grid: name its projection in the file (`grid_mapping`), or turn them in the source"
        )
        if best < 0:
            remedy = "they were turned twice, or the wrong way: take them as the source has them"
        yield Finding(
            names[1], detail, f"{remedy}, then {REBUILD}", None, {"correlation": fits[0], "turned": fits[best]}
        )


def _axes(latitude: Array, longitude: Array) -> tuple[Array, Array]:
    """Return the steps along rows and along columns, m: east the real part, north the imaginary one."""
    lat, lon = np.deg2rad(latitude), np.deg2rad(longitude)
    # As points in space: longitudes have a jump somewhere.
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)])
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    steps = []
    for axis in (2, 1):
        step = _EARTH * np.gradient(points, axis=axis)
        steps.append((step * east).sum(axis=0) + 1j * (step * north).sum(axis=0))
    return steps[0], steps[1]


def _gradient(field: Array, x_axis: Array, y_axis: Array) -> Array:
    """Return the gradient of a field, per m, from its differences along the axes: east real, north imaginary."""
    along_x, along_y = np.gradient(field, axis=-1), np.gradient(field, axis=-2)
    area = (np.conj(x_axis) * y_axis).imag
    east = (along_x * y_axis.imag - along_y * x_axis.imag) / area
    north = (along_y * x_axis.real - along_x * y_axis.real) / area
    return np.asarray(east + 1j * north)


def _fit(wind: Array, geostrophic: Array, angles: Array, *, any_turn: bool) -> float:
    """Return the correlation of turned winds with geostrophic ones; with ``any_turn`` whatever one angle is between."""
    # The strongest gradients are those of mountains and of single storms.
    strength = np.abs(geostrophic)
    geostrophic = geostrophic * np.minimum(1, np.quantile(strength, 0.95) / np.maximum(strength, 1e-30))
    together = (np.conj(geostrophic) * wind * np.exp(1j * angles)).sum()
    norm = np.sqrt((np.abs(geostrophic) ** 2).sum() * (np.abs(wind) ** 2).sum())
    if not norm > 0:
        return 0.0
    return float((abs(together) if any_turn else together.real) / norm)


CHECKS = (_wind_direction,)
"""In the order in which they are reported."""
