"""Checks of variables against each other and the Earth: hydrostatic balance, dew point, land and sea, orography.

They look at means over all states, at the points of a map: what is wrong with a store as a whole shows there.

Dimensions: C level, h and w those of a map.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.check import REBUILD, Examined, Finding, Findings, NotApplicable, check
from kit.checks.results import Severity
from kit.checks.scan import thinning
from kit.data.units import STANDARD_GRAVITY

Array = npt.NDArray[Any]

_LAYER, _COARSE = 0.02, 0.04
"""Relative error of a thickness that is let pass: a share of its own, and one that grows with the logarithm of the
pressures' ratio, because temperature is not linear in it. Upstream's published means at 13 levels are within 0.003."""
_WRONG = 0.15
"""Relative error that no weather explains."""
_MANY = 20
"""States over whose mean temperature says where the mountains are."""
_POINTS = 0.05
"""Share of points that may be off."""


@check("hydrostatic", "error", "geopotential, temperature and levels fit the hypsometric equation", needs=("level",))
def _hydrostatic(store: Examined) -> Findings:
    z, t = store.need("z", "t")
    q = store.found("q")
    levels = store.reader.coordinates["level"]
    if len(levels) < 2 or not ((levels > 0).all() and (np.diff(levels) != 0).all()):
        msg = "no two levels with pressures"
        raise NotApplicable(msg)
    humidity: Array | float = 0.0
    if q is not None:
        # What is wrong with humidity itself is another check's, and is not to show here.
        humidity = np.nan_to_num(np.clip(q.mean_Chw, 0, 0.05))
    warm_Chw = virtual_temperature(t.mean_Chw, humidity)
    worst, worst_share, worst_upper = 0.0, 0.0, -1
    for upper in range(len(levels) - 1):
        expected = thickness(warm_Chw[upper], warm_Chw[upper + 1], levels[upper], levels[upper + 1])
        with np.errstate(invalid="ignore", divide="ignore"):
            error = (z.mean_Chw[upper] - z.mean_Chw[upper + 1]) / expected - 1
        error = error[np.isfinite(error)]
        if not error.size:
            continue
        tolerance = _LAYER + _COARSE * abs(np.log(levels[upper + 1] / levels[upper]))
        typical, share = float(np.median(error)), float((np.abs(error) > 2 * tolerance).mean())
        is_off = abs(typical) > tolerance or share > _POINTS
        if is_off and (worst_upper < 0 or abs(typical) > abs(worst)):
            worst, worst_share, worst_upper = typical, share, upper
    if worst_upper >= 0:
        yield Finding(
            "z",
            f"between {levels[worst_upper]:g} and {levels[worst_upper + 1]:g} hPa the thickness from z is "
            f"{1 + worst:.3g} times that from t and q (hypsometric equation); {worst_share:.0%} of points are off",
            "z, t or the levels are not what they say: another unit, levels in another order, model levels? "
            f"Correct the source, then {REBUILD}",
            "error" if abs(worst) > _WRONG else "warning",
            {"ratio": 1 + worst, "share": worst_share},
        )


@check("dew-point", "warning", "the dew point is not above the temperature")
def _dew_point(store: Examined) -> Findings:
    warm, dew = store.need("2t", "2d")
    excess = dew.mean_Chw - warm.mean_Chw
    share = float((excess > 0.5).mean())
    if share > 0.001:
        detail = f"on average above 2t at {share:.1%} of points, by up to {np.nanmax(excess):.2g} K"
        remedy = "the two are of different grids, times or units: correct the source"
        yield Finding("2d", detail, f"{remedy}, then {REBUILD}")


@check("land-sea-mask", "error", "the land-sea mask is within [0, 1], with land where the ground is high")
def _land_sea_mask(store: Examined) -> Findings:
    (mask,) = store.need("static_lsm")
    ground = store.found("static_z")
    if mask.low < -1e-3 or mask.high > 1 + 1e-3:
        detail = f"spans {mask.low:g} to {mask.high:g}; shares of land, 0 to 1, are expected"
        yield Finding("static_lsm", detail, f"divide by 100 if these are percent; else correct it, then {REBUILD}")
        return
    if ground is None:
        return
    land, height = mask.mean_Chw[0] >= 0.5, ground.mean_Chw[0]
    high = height > 0.25 * np.nanmax(height)
    # A region without coast, or without mountains, says nothing of the mask.
    if min(np.count_nonzero(land), np.count_nonzero(~land)) < 20 or np.nanmax(height) < 1000 or not high.any():
        return
    on_land = float(land[high].mean())
    if on_land < 0.5 and np.nanmean(height[land]) < np.nanmean(height[~land]):
        detail = f"{1 - on_land:.0%} of the highest ground (static_z) is sea by the mask"
        remedy = "the mask is inverted (sea 1, land 0), or it or static_z is turned or of another grid"
        yield Finding("static_lsm", detail, f"{remedy}: correct it, then {REBUILD}", None, {"on_land": on_land})


@check("soil-type", "warning", "land has a soil type and sea has none")
def _soil_type(store: Examined) -> Findings:
    mask, soil = store.need("static_lsm", "static_slt")
    # On coasts either is right.
    land, type_hw = mask.mean_Chw[0], soil.mean_Chw[0]
    wrong = ((land > 0.95) & (type_hw < 0.5)) | ((land < 0.05) & (type_hw > 0.5))
    share = float(wrong.mean())
    if share > 0.1:
        detail = f"at {share:.0%} of points static_slt contradicts static_lsm: land without soil, or soil at sea"
        remedy = "the two are of different grids, or one is turned: correct it"
        yield Finding("static_slt", detail, f"{remedy}, then {REBUILD}")


_TURNS: dict[str, Callable[[Array], Array]] = {
    "north and south are exchanged": lambda field: field[::-1],
    "it is half the circle off in longitude": lambda field: np.roll(field, field.shape[1] // 2, axis=1),
    "it is turned upside down and half the circle off": lambda field: np.roll(field[::-1], field.shape[1] // 2, axis=1),
    "east and west are exchanged": lambda field: field[:, ::-1],
}


@check("static-alignment", "error", "the orography lies where surface pressure or temperature says")
def _static_alignment(store: Examined) -> Findings:
    """Surface pressure falls by a tenth each kilometre, and temperature by 6.5 K: mountains show in their means.

    Temperature says so on the globe and over some time alone: weather has patterns of its own.
    """
    (ground,) = store.need("static_z")
    pressure, warm = store.found("sp"), store.found("2t")
    other = pressure or warm
    by_temperature = pressure is None
    lacking = ""
    if other is None:
        lacking = "the store lacks sp, 2t"
    elif np.ptp(ground.mean_Chw) < 3000:
        lacking = "no mountains"
    elif by_temperature and not store.spans_globe:
        lacking = "without sp, the whole globe is needed"
    elif by_temperature and other.states < _MANY:
        lacking = f"without sp, {_MANY} states are needed"
    if other is None or lacking:
        raise NotApplicable(lacking)
    # Each row about its own mean, as temperature falls towards the poles far more than up a mountain.
    field = _anomaly(other.mean_Chw[0], zonal=by_temperature)
    height = ground.mean_Chw[0]
    straight = _correlation(height, field, zonal=by_temperature)
    turned = {name: _correlation(turn(height), field, zonal=by_temperature) for name, turn in _TURNS.items()}
    best = min(turned, key=turned.__getitem__)
    if turned[best] < (-0.6 if by_temperature else -0.8) and turned[best] < straight - 0.4:
        yield Finding(
            "static_z",
            f"against the mean of {other.channel.name}, {best}: correlation {turned[best]:.2f} when put right, "
            f"{straight:.2f} as it is",
            f"turn the static fields as the other variables are, or take them from the same source: {REBUILD}",
            "warning" if by_temperature else "error",
            {"correlation": straight, "turned": turned[best]},
        )


def _anomaly(field_hw: Array, *, zonal: bool) -> Array:
    mean = np.nanmean(field_hw, axis=1, keepdims=True) if zonal else np.nanmean(field_hw)
    return np.asarray(field_hw - mean)


def _correlation(height_hw: Array, field_hw: Array, *, zonal: bool) -> float:
    height = _anomaly(height_hw, zonal=zonal)
    there = np.isfinite(height) & np.isfinite(field_hw)
    norm = np.sqrt((height[there] ** 2).sum() * (field_hw[there] ** 2).sum())
    return float((height[there] * field_hw[there]).sum() / norm) if norm > 0 else 0.0


# Where land and sea are known to be: a land-sea mask that says otherwise is of another place, or its grid is.
#
# A shift of all fields at once, by half the circle or by a turned axis, leaves them in agreement with each other; only
# the Earth tells.

_LAND = (
    (30, 5, 18, 25), (3, 15, -8, 28), (-22, 20, -28, 28), (62, 37, 54, 60), (66, 90, 52, 130), (48, 85, 30, 105),
    (26, 76, 16, 80), (-20, 122, -30, 142), (55, 245, 36, 262), (-3, 292, -18, 312), (76, 316, 68, 326),
    (-80, 30, -90, 110),
)  # fmt: skip
"""Boxes with hardly any water: north, west, south, east. The Sahara, the Congo, the Kalahari, Russia, Siberia, inner
Asia, the Deccan, Australia, North America, the Amazon, Greenland, East Antarctica."""
_SEA = (
    (45, 160, 25, 220), (15, 180, 0, 230), (-8, 200, -50, 275), (50, 320, 32, 340), (25, 310, 10, 338),
    (-8, 335, -45, 360), (-8, 60, -45, 95), (-52, 0, -60, 280), (90, 0, 86, 360), (58, 345, 50, 348),
)  # fmt: skip
"""Boxes with hardly any land: the Pacific and the Atlantic (three each), the Indian and the Southern Ocean, the Arctic,
west of Scotland."""
_KNOWN = 30
"""Fewer known points say nothing."""
_AGREE, _TURNED = 0.8, 0.95
"""Share of known points that a sound mask fulfils at the least, and that one must fulfil to be the turned one."""
_EARTH_TURNS: dict[str, Callable[[Array], Array]] = {
    "half the circle off in longitude": lambda field: np.roll(field, field.shape[1] // 2, axis=1),
    "upside down": lambda field: field[::-1],
    "upside down and half the circle off": lambda field: np.roll(field[::-1], field.shape[1] // 2, axis=1),
    "mirrored from east to west": lambda field: field[:, ::-1],
}


@check("geography", "error", "land and sea lie where they are on Earth", needs=("latitude", "longitude"))
def _geography(store: Examined) -> Findings:
    (mask,) = store.need("static_lsm")
    if store.reader.attributes.get("synthetic"):
        msg = "synthetic data are of no place on Earth"
        raise NotApplicable(msg)
    land = mask.mean_Chw[0] >= 0.5
    rows, columns = thinning(mask.channel.array.shape)
    latitude, longitude = store.reader.coordinates["latitude"], store.reader.coordinates["longitude"] % 360
    if latitude.ndim == 2:
        latitude, longitude = latitude[::rows, ::columns], longitude[::rows, ::columns]
    else:
        latitude, longitude = np.meshgrid(latitude[::rows], longitude[::columns], indexing="ij")
    known = np.zeros(land.shape, dtype=np.int8)
    for value, boxes in ((1, _LAND), (-1, _SEA)):
        for north, west, south, east in boxes:
            inside = (latitude <= north) & (latitude >= south) & (longitude >= west) & (longitude <= east)
            known[inside] = value
    count = np.count_nonzero(known)
    if count < _KNOWN:
        msg = f"{count} points in the midst of land and sea, {_KNOWN} needed"
        raise NotApplicable(msg)
    agrees = _agreement(land, known)
    if agrees >= _AGREE:
        return
    turned = {"": 0.0}
    # Only a field around the whole circle can be turned or shifted and still be of its grid.
    if store.spans_globe and store.reader.coordinates["latitude"].ndim == 1:
        for name, turn in _EARTH_TURNS.items():
            turned[name] = _agreement(turn(land), known)
    best = max(turned, key=turned.__getitem__)
    detail = f"static_lsm has {agrees:.0%} of {count} points in the midst of land and sea right"
    severity: Severity = "warning"
    if turned[best] >= _TURNED:
        detail += f"; {turned[best]:.0%} were it not {best}"
        severity = "error"
    else:
        best = ""
    remedy = "the mask, or the coordinates of all fields, are of another place: correct the source's coordinates"
    yield Finding("static_lsm", detail, f"{remedy}, then {REBUILD}", severity, {"agreement": agrees, "turned": best})


def _agreement(land: Array, known: Array) -> float:
    """Return the share of known points that are right, land and sea counted alike: most of the Earth is sea."""
    shares = [(land[known == value] == (value > 0)).mean() for value in (1, -1) if (known == value).any()]
    return float(np.mean(shares))


# The air, as far as checks need to know it: a standard atmosphere and the hypsometric equation.


DRY_AIR = 287.0597
"""Gas constant of dry air, J kg-1 K-1 (ECMWF, IFS documentation, part IV, chapter 12)."""
_VAPOUR = 0.609133
"""Gas constant of water vapour over that of dry air, less one (same source)."""
_TROPOPAUSE = (226.32, 11000.0, 216.65)
"""hPa, m, K."""
_LAPSE = 0.0065
"""K m-1."""


def standard_geopotential(pressure: Any) -> Array:
    """Geopotential of pressures in hPa, in m2 s-2 (International Standard Atmosphere, ISO 2533:1975, up to 20 km)."""
    pressure = np.asarray(pressure, dtype=np.float64)
    edge, height, temperature = _TROPOPAUSE
    below = 288.15 / _LAPSE * (1 - (pressure / 1013.25) ** (DRY_AIR * _LAPSE / STANDARD_GRAVITY))
    above = height + DRY_AIR * temperature / STANDARD_GRAVITY * np.log(edge / pressure)
    return np.asarray(STANDARD_GRAVITY * np.where(pressure >= edge, below, above))


def standard_temperature(pressure: Any) -> Array:
    """Temperature at pressures in hPa, in K (same source)."""
    height = standard_geopotential(pressure) / STANDARD_GRAVITY
    return np.asarray(np.maximum(288.15 - _LAPSE * height, _TROPOPAUSE[2]))


def virtual_temperature(temperature: Array, humidity: Array | float) -> Array:
    """Temperature, in K, of dry air as dense as moist air of a temperature and a specific humidity, in kg kg-1."""
    return np.asarray(temperature * (1 + _VAPOUR * humidity))


def thickness(upper: Array, lower: Array, upper_pressure: float, lower_pressure: float) -> Array:
    """Difference of geopotential between two pressure levels, in m2 s-2.

    The hypsometric equation (Wallace and Hobbs, Atmospheric Science, 2nd ed., 2006, eq. 3.24), with the virtual
    temperature linear in the logarithm of pressure between the levels.

    Args:
        upper: virtual temperature at the upper level, K.
        lower: at the lower one.
        upper_pressure: in any unit.
        lower_pressure: in the same unit.
    """
    return np.asarray(DRY_AIR * (upper + lower) / 2 * np.log(lower_pressure / upper_pressure))


CHECKS = (_hydrostatic, _dew_point, _land_sea_mask, _soil_type, _static_alignment, _geography)
"""In the order in which they are reported."""
