"""Where the values of a GRIB message lie whose rows and columns are no parallels and meridians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kit.data.sources.grib_grid import DECIMALS, MOST, Grid, Header, Values

__all__ = ["CURVED", "read_curved"]

CURVED = ("lambert", "polar_stereographic", "mercator", "lambert_azimuthal_equal_area", "rotated_ll")
"""Kinds of grid whose points eccodes places, row by row."""
_NORTHWARDS = 0x40
"""Scanning mode: rows go east, one after the other to the north."""
_NEAR = 1e-2
"""Degrees between the first point that a header states and the one that is computed; GRIB 1 counts in thousandths."""
_RELATIVE = 0x08
"""Flag table 3.3 of GRIB 2, and 7 of GRIB 1: components of vectors are those along the grid's own axes."""


def read_curved(header: Header, kind: str) -> Grid:
    """Read the grid of a message from the points that eccodes computes.

    Args:
        header: of the message.
        kind: of grid, one of ``CURVED``.

    Returns:
        Latitudes and longitudes are matrices, [H, W], the northernmost row first.
    """
    found = [header.number(key) for key in ("Ni", "Nj", "scanningMode")]
    if any(value is None for value in found):
        return Grid(kind, problem=f"lies on a {kind} grid whose header does not count its rows and columns")
    columns, rows, flags = (int(value) for value in found if value is not None)
    if flags != _NORTHWARDS and (flags or kind != "rotated_ll"):
        # eccodes places the points of a projection as if their rows went east and north, whatever the header says.
        problem = f"lies on a {kind} grid in an order in which its points cannot be placed (scanning mode {flags})"
        return Grid(kind, problem=problem)
    if not (0 < rows <= MOST and 0 < columns <= MOST):
        return Grid(kind, problem=f"lies on a {kind} grid of {rows} x {columns} points, which cannot be")
    # Before any memory is taken: a damaged header may claim billions.
    if (points := int(header.number("numberOfDataPoints") or 0)) != rows * columns:
        return Grid(kind, problem=f"lies on a {kind} grid of {rows} x {columns}, but its header counts {points} points")
    placed = header.places()
    if isinstance(placed, str) or placed[0].size != rows * columns:
        why = placed if isinstance(placed, str) else f"{placed[0].size} of them for {rows} x {columns}"
        return Grid(kind, problem=f"lies on a {kind} grid whose points eccodes cannot compute ({why})")
    latitude, longitude = (values.reshape(rows, columns) for values in placed)
    northwards = flags == _NORTHWARDS
    # A rotated grid states its first point in its own, rotated degrees.
    problem = "" if kind == "rotated_ll" else _far_off(header, latitude, longitude)
    if northwards:
        latitude, longitude = latitude[::-1], longitude[::-1]
    latitude, longitude = np.round(latitude, DECIMALS), np.round(longitude, DECIMALS) % 360
    return Grid(
        kind=kind,
        problem=problem or _disorder(kind, latitude, longitude),
        latitude=latitude,
        longitude=longitude,
        northwards=northwards,
        relative=bool(int(header.number("resolutionAndComponentFlags") or 0) & _RELATIVE),
        cone=_cone(header, kind),
        projection=_projection(header, kind),
    )


def _far_off(header: Header, latitude: Values, longitude: Values) -> str:
    stated = [header.number(f"{name}OfFirstGridPointInDegrees") for name in ("latitude", "longitude")]
    computed = (float(latitude[0, 0]), float(longitude[0, 0]))
    if any(value is None for value in stated):
        return ""
    away = [abs((a - b + 180) % 360 - 180) for a, b in zip(stated, computed, strict=True) if a is not None]
    if max(away) <= _NEAR:
        return ""
    return f"begins at {stated[0]:g} N {stated[1]:g} E by its header, but at {computed[0]:g} N {computed[1]:g} E"


def _disorder(kind: str, latitude: Values, longitude: Values) -> str:
    """Why points have no order that the store could keep, if so: upstream's model asks for it."""
    eastwards = np.diff(longitude, axis=1) > 0
    if not eastwards.all():
        row, column = map(int, np.argwhere(~eastwards)[0])
        before, after = longitude[row, column], longitude[row, column + 1]
        crosses = "crosses Greenwich" if before > 270 and after < 90 else "has columns that do not go east throughout"
        return f"lies on a {kind} grid that {crosses} ({before:g} E, then {after:g} E in row {row})"
    southwards = np.diff(latitude, axis=0) < 0
    if not southwards.all():
        row, column = map(int, np.argwhere(~southwards)[0])
        found = f"{latitude[row, column]:g} N, then {latitude[row + 1, column]:g} N in column {column}"
        return f"lies on a {kind} grid whose rows do not follow each other southwards throughout ({found})"
    return ""


def _cone(header: Header, kind: str) -> tuple[float, float] | None:
    """The cone that winds are turned by: its constant, and its central meridian in degrees east.

    Snyder, Map Projections - A Working Manual (USGS Professional Paper 1395, 1987): eq. 15-3 of a sphere, for one
    standard parallel its sine; a polar stereographic grid is the cone of constant 1 around its pole.
    """
    if kind == "mercator":
        return (0.0, 0.0) if not header.number("orientationOfTheGridInDegrees") else None
    if kind == "polar_stereographic":
        meridian = header.number("orientationOfTheGridInDegrees")
        south = bool(int(header.number("projectionCentreFlag") or 0) & 0x80)
        return None if meridian is None else (-1.0 if south else 1.0, meridian)
    parallels, meridian = _parallels(header), header.number("LoVInDegrees")
    if kind != "lambert" or len(parallels) != 2 or meridian is None:
        return None
    one, two = map(math.radians, parallels)
    if abs(one - two) < 1e-9:
        return math.sin(one), meridian
    tangents = [math.tan(math.pi / 4 + angle / 2) for angle in (one, two)]
    return math.log(math.cos(one) / math.cos(two)) / math.log(tangents[1] / tangents[0]), meridian


def _parallels(header: Header) -> list[float]:
    found = [header.number(f"Latin{index}InDegrees") for index in (1, 2)]
    return [value for value in found if value is not None]


def _projection(header: Header, kind: str) -> dict[str, Any]:
    """The attributes of a CF grid mapping (CF conventions, appendix F); empty where they are not known whole."""
    radius, meridian = header.number("radius"), header.number("LoVInDegrees")
    if kind != "lambert" or radius is None or radius <= 0 or meridian is None:
        return {}
    parallels = list(dict.fromkeys(_parallels(header)))
    origin = header.number("LaDInDegrees")
    return {
        "grid_mapping_name": "lambert_conformal_conic",
        "standard_parallel": parallels[0] if len(parallels) == 1 else parallels,
        "longitude_of_central_meridian": meridian,
        "latitude_of_projection_origin": parallels[0] if origin is None else origin,
        "earth_radius": radius,
    }
