"""Where land and sea are known to be: a land-sea mask that says otherwise is of another place, or its grid is.

A shift of all fields at once, by half the circle or by a turned axis, leaves them in agreement with each other; only
the Earth tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.check import REBUILD, Examined, Finding, Findings, check
from kit.checks.scan import thinning

__all__ = ["CHECKS"]

Array = npt.NDArray[Any]

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
_POINTS = 30
"""Fewer known points say nothing."""
_AGREE, _TURNED = 0.8, 0.95
"""Share of known points that a sound mask fulfils at the least, and that one must fulfil to be the turned one."""
_TURNS: dict[str, Callable[[Array], Array]] = {
    "half the circle off in longitude": lambda field: np.roll(field, field.shape[1] // 2, axis=1),
    "upside down": lambda field: field[::-1],
    "upside down and half the circle off": lambda field: np.roll(field[::-1], field.shape[1] // 2, axis=1),
    "mirrored from east to west": lambda field: field[:, ::-1],
}


@check("geography", "error", "land and sea lie where they are on Earth", needs=("latitude", "longitude"))
def _geography(store: Examined) -> Findings:
    mask = store.found("static_lsm")
    if mask is None or store.subject.attributes.get("synthetic"):
        return
    land = mask.mean_Chw[0] >= 0.5
    latitude, longitude = _points(store, mask.channel.array.shape)
    known = np.zeros(land.shape, dtype=np.int8)
    for value, boxes in ((1, _LAND), (-1, _SEA)):
        for inside in _inside(boxes, latitude, longitude):
            known[inside] = value
    if np.count_nonzero(known) < _POINTS:
        return
    agrees = _agreement(land, known)
    if agrees >= _AGREE:
        return
    turned = {name: _agreement(turn(land), known) for name, turn in _TURNS.items()} if _is_global(store) else {}
    best = max(turned, key=turned.__getitem__, default="")
    is_turned = bool(best) and turned[best] >= _TURNED
    detail = f"static_lsm has {agrees:.0%} of {np.count_nonzero(known)} points in the midst of land and sea right"
    detail += f"; {turned[best]:.0%} were it not {best}" if is_turned else ""
    remedy = "the mask, or the coordinates of all fields, are of another place: correct the source's coordinates"
    evidence = {"agreement": agrees, "turned": best if is_turned else ""}
    yield Finding("static_lsm", detail, f"{remedy}, then {REBUILD}", "error" if is_turned else "warning", evidence)


def _points(store: Examined, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Latitudes and longitudes of the points of a map, [h, w] each."""
    rows, columns = thinning(shape)
    latitude, longitude = (store.subject.coordinates[name] for name in ("latitude", "longitude"))
    if latitude.ndim == 2:
        return latitude[::rows, ::columns], longitude[::rows, ::columns] % 360
    grid = np.meshgrid(latitude[::rows], longitude[::columns] % 360, indexing="ij")
    return grid[0], grid[1]


def _inside(boxes: tuple[tuple[int, int, int, int], ...], latitude: Array, longitude: Array) -> Iterator[Array]:
    for north, west, south, east in boxes:
        yield (latitude <= north) & (latitude >= south) & (longitude >= west) & (longitude <= east)


def _agreement(land: Array, known: Array) -> float:
    """Share of known points that are right, land and sea counted alike: most of the Earth is sea, turned or not."""
    shares = [(land[known == value] == (value > 0)).mean() for value in (1, -1) if (known == value).any()]
    return float(np.mean(shares))


def _is_global(store: Examined) -> bool:
    latitude, longitude = (store.subject.coordinates[name] for name in ("latitude", "longitude"))
    return bool(latitude.ndim == 1 and np.ptp(latitude) > 150 and np.ptp(longitude) > 300)


CHECKS = (_geography,)
"""In the order in which they are reported."""
