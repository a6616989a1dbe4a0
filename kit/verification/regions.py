"""Regions that scores are taken over: boxes, land and sea, polygons of a file.

Dimensions: R region, H latitude, W longitude.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.config.suggestions import near_names
from kit.data.grid import area_weights, distance_east
from kit.io.documents import DocumentError, read_json
from kit.io.errors import SettingsError

Box = tuple[float, float, float, float]
"""North, west, south, east in degrees, borders included."""
Degrees = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ALL = "all"
"""Every grid point that is scored: the globe, or what a regional model predicts."""
LAND, SEA = "land", "sea"
# Those of ECMWF's scorecards, and further ones, as WeatherBench has them (google-research/weatherbenchX, ``REGIONS`` of
# its scripts for the public benchmark).
BOXES: Mapping[str, Box] = {
    "northern-hemisphere": (90, 0, 20, 360),
    "southern-hemisphere": (-20, 0, -90, 360),
    "tropics": (20, 0, -20, 360),
    "europe": (75, 347.5, 35, 42.5),
    "north-america": (60, 240, 25, 285),
    "north-atlantic": (65, 290, 25, 350),
    "north-pacific": (60, 145, 25, 230),
    "east-asia": (60, 102.5, 25, 150),
    "ausnz": (-12.5, 120, -45, 175),
    "arctic": (90, 0, 60, 360),
    "antarctic": (-60, 0, -90, 360),
    "northern-africa": (32.5, 347.5, 5, 37.5),
    "southern-africa": (5, 12.5, -30, 37.5),
    "south-america": (5, 285, -40, 315),
    "west-asia": (60, 42.5, 15, 102.5),
    "south-east-asia": (25, 95, -12.5, 125),
}
DEFAULT = (ALL, "northern-hemisphere", "southern-hemisphere", "tropics")
_MOST_POINTS = 1_000_000
"""Corners of a file's polygons, by far more than any border needs."""


@dataclass(frozen=True)
class Regions:
    """Regions on a grid.

    Attributes:
        names: Names of the regions.
        weights: Area weights of the grid points of each region, 0 outside, [R, H, W] in float64; their scale is that
            of weights whose mean over the grid is 1.
    """

    names: tuple[str, ...]
    weights: npt.NDArray[np.float64]


def regions_on(
    names: Sequence[str] | None, latitude: Degrees, longitude: Degrees, land: npt.NDArray[np.float32] | None = None
) -> Regions:
    """Find the grid points of regions.

    Args:
        names: Names of ``BOXES``, ``all``, ``land``, ``sea``, ``NAME=NORTH/WEST/SOUTH/EAST``, ``NAME=FILE.geojson``;
            None for those of ``DEFAULT`` that hold grid points, and not all of them.
        latitude: Degrees north, [H] or [H, W].
        longitude: Degrees east, [W] or [H, W].
        land: Land-sea mask, 1 on land, [H, W]; None where there is none.

    Raises:
        SettingsError: a name means nothing, or a region holds no grid point.
    """
    north, east = latitude, longitude
    if latitude.ndim == 1:
        north, east = np.meshgrid(latitude, longitude, indexing="ij")
    areas = area_weights(latitude, None if latitude.ndim == 1 else longitude)
    if areas.ndim == 1:
        areas = np.broadcast_to(areas[:, None], north.shape)
    found: dict[str, Mask] = {}
    for text in DEFAULT if names is None else names:
        name, mask = _masked(text, north, east, land)
        if names is None and name != ALL and (not mask.any() or mask.all()):
            continue
        if not mask.any():
            msg = (
                f"regions: {name} holds no point of the grid, which reaches from {north.min():g} to {north.max():g} "
                f"degrees north and from {east.min():g} to {east.max():g} degrees east; leave it out"
            )
            raise SettingsError(msg)
        if name in found:
            msg = f"regions: {name} is named twice; give each region a name of its own"
            raise SettingsError(msg)
        found[name] = mask
    return Regions(tuple(found), np.stack([areas * mask for mask in found.values()]))


def _masked(text: str, north: Degrees, east: Degrees, land: npt.NDArray[np.float32] | None) -> tuple[str, Mask]:
    """Return the name and the grid points of a region."""
    name, given, place = text.partition("=")
    if given:
        if place.endswith((".json", ".geojson")):
            return name, _within_polygons(Path(place), north, east)
        return name, _within(_box(text, place), north, east)
    if name == ALL:
        return name, np.ones(north.shape, dtype=bool)
    if name in BOXES:
        return name, _within(BOXES[name], north, east)
    if name not in (LAND, SEA):
        known = [ALL, LAND, SEA, *BOXES]
        near = near_names(name, known, count=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        msg = (
            f"regions: {name!r} is no region{meant}; known are {', '.join(known)}, and of your own "
            "NAME=NORTH/WEST/SOUTH/EAST (degrees) or NAME=FILE.geojson"
        )
        raise SettingsError(msg)
    if land is None:
        msg = f"regions: {name} needs a land-sea mask, and the store has no static variable lsm; leave {name} out"
        raise SettingsError(msg)
    # Half of a cell: where a coast runs through it, as ECMWF's land-sea masks are read.
    return name, np.asarray((land >= 0.5) == (name == LAND))


def _box(text: str, place: str) -> Box:
    parts = place.split("/")
    try:
        north, west, south, east = map(float, parts)
    except ValueError as error:
        msg = f"regions: expected NAME=NORTH/WEST/SOUTH/EAST in degrees or NAME=FILE.geojson, got {text!r}"
        raise SettingsError(msg) from error
    finite = all(map(math.isfinite, (north, west, south, east)))
    if not finite or not -90 <= south < north <= 90 or not all(-360 <= value <= 360 for value in (west, east)):
        msg = f"regions: {text!r}: expected 90 >= NORTH > SOUTH >= -90 and WEST, EAST from -360 to 360 degrees"
        raise SettingsError(msg)
    return north, west, south, east


def _within(box: Box, north: Degrees, east: Degrees) -> Mask:
    top, west, bottom, end = box
    width = (end - west) % 360
    inside = (north <= top) & (north >= bottom)
    # West and east may be the same meridian: the whole circle.
    if width == 0:
        return np.asarray(inside)
    return np.asarray(inside & (distance_east(east, west % 360) <= width))


def _within_polygons(file: Path, north: Degrees, east: Degrees) -> Mask:
    """Find the points inside the polygons of a GeoJSON file (RFC 7946), holes left out."""
    from matplotlib.path import Path as Outline

    inside = np.zeros(north.shape, dtype=bool)
    for rings in _polygons(file):
        within = np.zeros(north.shape, dtype=bool)
        for number, ring in enumerate(rings):
            corners = np.asarray(ring, dtype=np.float64)[:, :2]
            # A ring's longitudes may lie west or east of Greenwich; points are compared on the circle from its west.
            west = corners[:, 0].min()
            points = np.stack([west + distance_east(east, west % 360), north], axis=-1).reshape(-1, 2)
            contained = Outline(corners, closed=True).contains_points(points, radius=1e-9).reshape(north.shape)
            within = contained if number == 0 else within & ~contained
        inside |= within
    return inside


def _polygons(file: Path) -> list[list[list[list[float]]]]:
    """Read the polygons of a GeoJSON file, each a list of rings: its outline, then its holes."""
    try:
        document = read_json(file)
        polygons = list(_rings(document))
        corners = sum(len(ring) for rings in polygons for ring in rings)
        sound = all(_is_sound(ring) for rings in polygons for ring in rings)
    except (OSError, DocumentError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"regions: {file}: cannot be read as GeoJSON ({error})"
        raise SettingsError(msg) from error
    if not polygons or not sound or corners > _MOST_POINTS:
        msg = (
            f"regions: {file}: expected GeoJSON with Polygon or MultiPolygon, rings of at least four corners "
            f"(longitude, latitude in degrees) and at most {_MOST_POINTS:,} of them, found {len(polygons)} polygons "
            f"with {corners:,} corners"
        )
        raise SettingsError(msg)
    return polygons


def _is_sound(ring: Any) -> bool:
    values = np.asarray(ring, dtype=object)
    if values.ndim != 2 or len(values) < 4 or values.shape[1] < 2:
        return False
    try:
        corners = values[:, :2].astype(np.float64)
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite(corners).all() and (np.abs(corners[:, 1]) <= 90).all())


def _rings(document: Any) -> Iterable[list[list[list[float]]]]:
    kind = document["type"]
    if kind == "FeatureCollection":
        for feature in document["features"]:
            yield from _rings(feature)
    elif kind == "Feature":
        yield from _rings(document["geometry"])
    elif kind == "GeometryCollection":
        for geometry in document["geometries"]:
            yield from _rings(geometry)
    elif kind == "Polygon":
        yield document["coordinates"]
    elif kind == "MultiPolygon":
        yield from document["coordinates"]
