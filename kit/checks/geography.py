"""Where land and sea are known to be: a land-sea mask that says otherwise is of another place, or its grid is.

A shift of all fields at once, by half the circle or by a turned axis, leaves them in agreement with each other; only
the Earth tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.checks.check import REBUILD, Examined, Finding, Findings, check
from kit.checks.results import Severity
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
    if mask is None or store.reader.attributes.get("synthetic"):
        return
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
    if count < _POINTS:
        return
    agrees = _agreement(land, known)
    if agrees >= _AGREE:
        return
    turned = {"": 0.0}
    # Only a field around the whole circle can be turned or shifted and still be of its grid.
    if store.spans_globe and store.reader.coordinates["latitude"].ndim == 1:
        for name, turn in _TURNS.items():
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


CHECKS = (_geography,)
"""In the order in which they are reported."""
