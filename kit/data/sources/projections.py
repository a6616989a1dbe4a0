"""Angles between the axes of projected and rotated grids and the directions east and north.

All angles are the degrees by which a grid's y axis points east of north, at each point.

Dimension letters: H rows, W columns.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kit.io.errors import SettingsError, StoreError

Degrees = npt.NDArray[np.float64]
Attributes = Mapping[str, Any]
"""Attributes of a CF grid mapping (CF conventions, appendix F)."""
AngleOfPoints = tuple[Degrees, str]
"""Degrees by which a y axis points east of north at each point, and how they were found."""
_FIGURES = (
    "crs_wkt", "earth_radius", "geographic_crs_name", "horizontal_datum_name", "inverse_flattening",
    "reference_ellipsoid_name", "semi_major_axis", "semi_minor_axis", "spatial_ref",
)  # fmt: skip
"""Attributes of a grid mapping that state the figure of the Earth."""
_SPHERE = 6371229.0
"""Radius in metres of a sphere that stands for any other: it scales a projection, and turns no axis."""
_CYLINDRICAL = ("mercator", "lambert_cylindrical_equal_area")
"""Projections whose x axis points east everywhere."""
_MISFIT = 0.01
"""Share of the grid's extent by which rows and columns may leave the axes of a projection that they are said to lie on:
the wrong figure of the Earth makes a tenth of that, another projection many times as much."""
_SKEW = 2.0
"""Degrees by which rows and columns may fail to be at right angles where one angle is to turn both components."""


def mapping_of_grib(kind: str, number: Callable[[str], float]) -> dict[str, Any]:
    """Write the keys of a GRIB grid as attributes of a CF grid mapping.

    Args:
        kind: eccodes' ``gridType``.
        number: Reads a key by eccodes' name; NaN where there is none.

    Returns:
        The attributes; empty for other kinds of grid, or where a key is missing. The figure of the Earth is left out
        where the keys do not state it.
    """
    mapping: dict[str, Any] = {}
    if kind == "lambert":
        parallels = [number("Latin1InDegrees"), number("Latin2InDegrees")]
        mapping = {
            "grid_mapping_name": "lambert_conformal_conic",
            "standard_parallel": parallels if parallels[0] != parallels[1] else parallels[0],
            "longitude_of_central_meridian": number("LoVInDegrees"),
            "latitude_of_projection_origin": number("LaDInDegrees"),
        }
        # GRIB 1 has no such key; it only moves the origin of y.
        if np.isnan(mapping["latitude_of_projection_origin"]):
            mapping["latitude_of_projection_origin"] = parallels[0]
    elif kind == "polar_stereographic":
        flag = number("projectionCentreFlag")
        south = int(flag) & 0x80 > 0 if np.isfinite(flag) else number("southPoleOnProjectionPlane") == 1
        mapping = {
            "grid_mapping_name": "polar_stereographic",
            "straight_vertical_longitude_from_pole": number("orientationOfTheGridInDegrees"),
            "latitude_of_projection_origin": -90.0 if south else 90.0,
            # The parallel of true scale turns no axis; GRIB 1 means 60 degrees.
            "standard_parallel": -60.0 if south else 60.0,
        }
    elif kind == "rotated_ll":
        mapping = {
            "grid_mapping_name": "rotated_latitude_longitude",
            "grid_north_pole_latitude": -number("latitudeOfSouthernPoleInDegrees"),
            "grid_north_pole_longitude": (number("longitudeOfSouthernPoleInDegrees") + 360) % 360 - 180,
        }
    elif kind == "lambert_azimuthal_equal_area":
        mapping = {
            "grid_mapping_name": "lambert_azimuthal_equal_area",
            "latitude_of_projection_origin": number("standardParallelInDegrees"),
            "longitude_of_projection_origin": number("centralLongitudeInDegrees"),
        }
    if not mapping or any(np.isnan(np.atleast_1d(value)).any() for key, value in mapping.items() if key[-4:] != "name"):
        return {}
    radius, major, minor = map(number, ("radius", "earthMajorAxisInMetres", "earthMinorAxisInMetres"))
    if major > minor > 0:
        mapping |= {"semi_major_axis": major, "semi_minor_axis": minor}
    elif radius > 0:
        mapping["earth_radius"] = radius
    return mapping


def angle_of_mapping(mapping: Attributes, latitude: Degrees, longitude: Degrees, where: str) -> AngleOfPoints:
    """Compute the angle of a grid's y axis from its CF grid mapping.

    Of a rotated grid it is the bearing of the rotated pole; of cylinders 0; of any other projection pyproj's meridian
    convergence, by which a wind keeps its speed also where the projection is not conformal. Where the mapping does not
    state the figure of the Earth, a sphere or the ellipsoid WGS 84 is taken, whichever the points lie on.

    Args:
        mapping: Attributes of the grid mapping.
        latitude: Degrees north, [H, W].
        longitude: Degrees east, [H, W].
        where: File and variable, for messages.

    Returns:
        The degrees, [H, W], and how they were found; no degrees, [0], where the mapping is of no projection.

    Raises:
        StoreError: The points are not those of the projection.
        SettingsError: pyproj is needed, and is not installed.
    """
    kind = str(mapping.get("grid_mapping_name", ""))
    candidates: list[tuple[float, Degrees, str]] = []
    if kind == "rotated_latitude_longitude":
        pole_latitude = float(mapping["grid_north_pole_latitude"])
        pole_longitude = float(mapping["grid_north_pole_longitude"])
        y_axis, bearing = _seen_from_pole(latitude, longitude, pole_latitude, pole_longitude)
        said = f"by the bearing of the rotated pole at {pole_latitude:g} N {pole_longitude:g} E"
        candidates.append((_misfit(*y_axis), bearing, said))
    elif kind in _CYLINDRICAL:
        misfit = _misfit(_around_middle(longitude), latitude)
        candidates.append((misfit, np.zeros(latitude.shape), f"whose axes are those of a {kind} projection"))
    else:
        for projection, figure in _projections(mapping):
            x, y = projection(longitude, latitude)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                degrees = np.asarray(projection.get_factors(longitude, latitude).meridian_convergence)
            if np.isfinite(degrees).all() and np.isfinite(x).all():
                candidates.append((_misfit(x, y), degrees, f"by the convergence of meridians in its {kind}{figure}"))
    if not candidates:
        return np.empty(0), ""
    misfit, degrees, said = min(candidates, key=lambda candidate: candidate[0])
    if not misfit <= _MISFIT:
        msg = (
            f"{where}: its points do not lie on the grid of its grid mapping {kind}: rows and columns leave the axes "
            f"by {misfit:.1%} of the grid; correct the attributes of the mapping, or remove it and give --winds_are "
            "grid, by which the angles are taken from the latitudes and longitudes themselves"
        )
        raise StoreError(msg)
    return degrees, said


def _projections(mapping: Attributes) -> Iterator[tuple[Any, str]]:
    """Yield pyproj's projection of a mapping, one for each figure of the Earth that it may mean."""
    try:
        pyproj = importlib.import_module("pyproj")
    except ImportError as error:
        msg = (
            f"winds along the grid of a {mapping.get('grid_mapping_name')} are turned with the package pyproj, which "
            f'cannot be imported ({error}); install it with: pip install "aurora-finetune-kit[projections]"'
        )
        raise SettingsError(msg) from error
    figures: list[tuple[dict[str, float], str]] = [({}, "")]
    if not set(_FIGURES) & set(mapping):
        figures = [({"earth_radius": _SPHERE}, " on a sphere"), ({}, " on the ellipsoid WGS 84")]
    for figure, said in figures:
        try:
            with warnings.catch_warnings():
                # Converting between forms of a projection may lose its name, which nothing here goes by.
                warnings.simplefilter("ignore")
                system = pyproj.CRS.from_cf({**mapping, **figure})
                projection = pyproj.Proj(system)
        except (pyproj.exceptions.ProjError, KeyError, ValueError, TypeError):
            continue
        if system.is_projected:
            yield projection, said


def _seen_from_pole(
    latitude: Degrees, longitude: Degrees, pole_latitude: float, pole_longitude: float
) -> tuple[tuple[Degrees, Degrees], Degrees]:
    """Compute the longitudes and latitudes around another pole, and the bearing of that pole, all in degrees.

    Spherical trigonometry: the y axis of a rotated grid points along the great circle to its pole.
    """
    north, pole = np.radians(latitude), np.radians(pole_latitude)
    away = np.radians(pole_longitude - longitude)
    east_part = np.sin(away) * np.cos(pole)
    north_part = np.cos(north) * np.sin(pole) - np.sin(north) * np.cos(pole) * np.cos(away)
    height = np.clip(np.sin(north) * np.sin(pole) + np.cos(north) * np.cos(pole) * np.cos(away), -1, 1)
    around = np.arctan2(
        -np.cos(north) * np.sin(away), np.sin(north) * np.cos(pole) - np.cos(north) * np.sin(pole) * np.cos(away)
    )
    rotated = _around_middle(np.degrees(around)), np.degrees(np.arcsin(height))
    return rotated, np.degrees(np.arctan2(east_part, north_part))


def _around_middle(longitude: Degrees) -> Degrees:
    """Count longitudes from the one in the middle of the grid, so that they do not jump."""
    middle = longitude[longitude.shape[0] // 2, longitude.shape[1] // 2]
    return np.asarray((longitude - middle + 180) % 360 - 180)


def _misfit(x: Degrees, y: Degrees) -> float:
    """Compute how far rows and columns leave the axes of a plane, as a share of the grid's extent."""
    extent = max(float(np.ptp(x)), float(np.ptp(y)))
    # Rows run along either axis.
    ways = []
    for along, across in ((x, y), (y, x)):
        rows = across - across.mean(axis=1, keepdims=True)
        columns = along - along.mean(axis=0, keepdims=True)
        ways.append(float(np.sqrt(max(np.square(rows).mean(), np.square(columns).mean()))))
    return min(ways) / extent if extent else 0.0


def angle_of_points(latitude: Degrees, longitude: Degrees, where: str) -> AngleOfPoints:
    """Compute the angle of a grid's y axis from its points alone: the x axis points along the rows.

    Differences of the points on the sphere, central ones inside the grid and one-sided ones of the same, second order
    at its edges. On Lambert grids at 30 to 65 degrees north the error is up to 2e-5 degrees where points are 10 km
    apart, 6e-4 where they are 60 km apart, from coordinates in double precision.

    Args:
        latitude: Degrees north, [H, W], the northernmost row first.
        longitude: Degrees east, [H, W], columns eastwards.
        where: File and variable, for messages.

    Returns:
        The degrees, [H, W], and how they were found.

    Raises:
        StoreError: There are too few points, or rows and columns are not at right angles.
    """
    if min(latitude.shape) < 3:
        msg = f"{where}: the angles of a grid of {latitude.shape} points cannot be taken from them; three are needed"
        raise StoreError(msg)
    north, east = np.radians(latitude), np.radians(longitude)
    points = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])
    to_east = np.stack([-np.sin(east), np.cos(east), np.zeros_like(east)])
    to_north = np.stack([-np.sin(north) * np.cos(east), -np.sin(north) * np.sin(east), np.cos(north)])
    along_rows = np.gradient(points, axis=2, edge_order=2)
    # Rows go south.
    along_columns = -np.gradient(points, axis=1, edge_order=2)
    degrees = -np.degrees(np.arctan2((along_rows * to_north).sum(0), (along_rows * to_east).sum(0)))
    columns = np.degrees(np.arctan2((along_columns * to_east).sum(0), (along_columns * to_north).sum(0)))
    skew = float(np.abs((columns - degrees + 180) % 360 - 180).max())
    if skew > _SKEW:
        msg = (
            f"{where}: rows and columns of the grid are up to {skew:.1f} degrees from being at right angles, and "
            "components along them cannot be turned by one angle; turn them to east and north first"
        )
        raise StoreError(msg)
    said = (
        "by the directions of the rows, which are differences of latitudes and longitudes on the sphere (columns are "
        f"at right angles to them within {skew:.2g} degrees)"
    )
    return degrees, said
