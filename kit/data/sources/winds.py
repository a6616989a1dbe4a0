"""Winds along the rows and columns of a grid, turned to east and north.

On grids of parallels and meridians both are the same; on all others a file says which it means, or is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from kit.data.sources.coordinates import coordinate_names, mapping_of_fields
from kit.data.sources.fields import Note
from kit.data.sources.projections import AngleOfPoints, angle_of_mapping, angle_of_points, mapping_of_grib
from kit.data.store.format import CURVILINEAR
from kit.io.errors import StoreError
from kit.io.hashes import sha256_of_bytes

_PAIRS = (("u", "v"), ("10u", "10v"), ("100u", "100v"))
OTHER_COMPONENT = {"u": "v", "v": "u", "10u": "10v", "10v": "10u", "100u": "100v", "100v": "100u"}
"""The other component of each component of a wind."""
UNTURNED = frozenset(
    {"ustm", "vstm", "vucsh", "vvcsh", "uflx", "vflx", "utaua", "vtaua", "ugwd", "vgwd", "ewss", "nsss"}
)
"""Short names of components that come without a rule here by which they could be turned: storm motion, stresses."""
X_ANGLE = "angle_of_rotation_from_east_to_x"
"""Standard name of a file's own angles, counted from east to the x axis, towards north (CF standard names)."""
ORIGIN = "turned_from_grid"
"""Attribute of turned components, and of angles, which says how the angles were found."""
_ALONG_GRID = ("x_wind", "y_wind", "grid_eastward_wind", "grid_northward_wind")
_ALONG_PARALLELS = ("eastward_wind", "northward_wind")
_SAME_ANGLE = 1e-3
"""Degrees by which angles of the same points may differ between files."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Direction of a grid's y axis.

    Attributes:
        degrees: Degrees by which it points east of north, [H, W].
        origin: How they were found.
    """

    degrees: xr.DataArray
    origin: str


AxisOfPiece = tuple[str, Axis | None]
"""Name of a file, and the axis along which its component points; None where it points east or north."""


def direction_stated(array: xr.DataArray) -> str:
    """Read whether a component points along the ``grid`` or as on the ``earth``; empty where nothing says so."""
    flag = str(array.attrs.get("GRIB_uvRelativeToGrid", "")).strip()
    if flag in ("0", "1"):
        return "grid" if flag == "1" else "earth"
    if _standard_name(array) in _ALONG_GRID:
        return "grid"
    # Programs that convert GRIB name a component by its number, and call those along a grid eastward, too.
    if _standard_name(array) in _ALONG_PARALLELS and "GRIB_gridType" not in array.attrs:
        return "earth"
    return ""


def _standard_name(array: xr.DataArray) -> str:
    return str(array.attrs.get("standard_name", "")).strip().lower()


@dataclass(frozen=True)
class GridDescription:
    """What a file says of the axes of a curvilinear grid.

    Attributes:
        dataset: The whole file, with the names and the order that it has.
        where: Name of the file, for messages.
        eastwards: Whether the last dimension of its matrices runs east.
        winds_are: Direction of winds as the user states it: ``earth``, ``grid``, or nothing.
        default: Direction where neither file nor user state one.
        known: Angles of a projection at points, which files of one grid share.
    """

    dataset: xr.Dataset
    where: str
    eastwards: bool
    winds_are: str | None
    default: str
    known: dict[tuple[str, ...], AngleOfPoints]

    @classmethod
    def of(
        cls,
        dataset: xr.Dataset,
        where: str,
        winds_are: str | None,
        default: str,
        known: dict[tuple[str, ...], AngleOfPoints],
    ) -> Self:
        """Describe the grid of a file, whatever it calls its coordinates."""
        names = {ours: theirs for theirs, ours in coordinate_names(dataset).items()}
        longitude = dataset.variables.get(names.get("longitude", "longitude"))
        eastwards = False
        if longitude is not None and longitude.ndim == len(CURVILINEAR):
            steps = (np.diff(longitude.values, axis=1) + 180) % 360 - 180
            eastwards = bool((steps > 0).all())
        return cls(dataset, where, eastwards, winds_are, default, known)

    def own_angles(self) -> dict[str, xr.DataArray]:
        """Return the angles between east and the grid's x axis that the file itself holds, by its names."""
        arrays = self.dataset.data_vars.items()
        return {str(key): array for key, array in arrays if array.attrs.get("standard_name") == X_ANGLE}

    def axis(self, array: xr.DataArray, name: str, fields: xr.Dataset, note: Note) -> Axis | None:
        """Find the axis along which a component points; None where it points east or north, or is no component.

        Args:
            array: The component, with the attributes that the file gives it.
            name: The store's name of it.
            fields: The file on the store's ``(y, x)``.
            note: Takes what is odd.

        Raises:
            StoreError: Nothing states its direction, or what the axis is; or it cannot be turned.
            SettingsError: pyproj is needed, and is not installed.
        """
        # A component that the table lacks is known by its standard name alone.
        is_component = name in OTHER_COMPONENT or name in UNTURNED or _standard_name(array) in _ALONG_GRID
        if not is_component:
            return None
        stated = direction_stated(array)
        what = f"{self.where}: {array.name}"
        direction = self.winds_are or stated or self.default
        if not direction:
            msg = (
                f"{what} is a component of a wind on a grid whose rows are no parallels, and nothing in the file says "
                "whether it points east or north, or along the grid's axes (by a standard_name, eastward_wind or "
                f"x_wind); say so with --winds_are earth or --winds_are grid, or leave it out with --leave_out {name}"
            )
            raise StoreError(msg)
        if stated and direction != stated:
            note(f"{name} taken as --winds_are {direction} says, though the file states the other")
        if direction == "earth":
            return None
        if name not in OTHER_COMPONENT:
            msg = (
                f"{what} is a component along the grid's own axes, and the kit turns none of this quantity; leave it "
                f"out with --leave_out {name}, or turn it to east and north first"
            )
            raise StoreError(msg)
        latitude = np.asarray(fields["latitude"].values, dtype=np.float64)
        longitude = np.asarray(fields["longitude"].values, dtype=np.float64)
        degrees, origin = self._own_angle(fields)
        if not degrees.size:
            mapping = self._mapping(array)
            key = (repr(mapping), *(sha256_of_bytes(side.tobytes()) for side in (latitude, longitude)))
            if key not in self.known:
                self.known[key] = angle_of_mapping(mapping, latitude, longitude, what)
            degrees, origin = self.known[key]
        if not degrees.size and self.winds_are == "grid":
            if not self.eastwards:
                msg = (
                    f"{what}: the last dimension of latitude and longitude does not run east, so that they alone do "
                    "not say which is the x axis; add the projection as a CF grid mapping, or turn the winds first"
                )
                raise StoreError(msg)
            degrees, origin = angle_of_points(latitude, longitude, what)
        if not degrees.size:
            msg = (
                f"{what} is a component along the grid's own axes, and the file says nothing of them that the kit "
                f"could turn it by: neither angles ({X_ANGLE}; WRF's COSALPHA and SINALPHA) nor a projection (a CF "
                "grid mapping). Give --winds_are grid to take the axes from the latitudes and longitudes, or turn the "
                "winds to east and north first"
            )
            raise StoreError(msg)
        coordinates = {name: fields[name] for name in ("latitude", "longitude")}
        return Axis(xr.DataArray(degrees, coordinates, CURVILINEAR), origin)

    def _own_angle(self, fields: xr.Dataset) -> AngleOfPoints:
        for key, array in fields.data_vars.items():
            if array.attrs.get("standard_name") == X_ANGLE and array.dims == CURVILINEAR:
                values = np.asarray(array.values, dtype=np.float64)
                if str(array.attrs.get("units", "degree")).lower().startswith("rad"):
                    values = np.degrees(values)
                if not np.isfinite(values).all():
                    msg = f"{self.where}: {key}, the angles of the grid, must hold finite numbers; mend the file"
                    raise StoreError(msg)
                return -values, str(array.attrs.get(ORIGIN, f"by the file's {key}"))
        return np.empty(0), ""

    def _mapping(self, array: xr.DataArray) -> Mapping[str, Any]:
        """Read the grid mapping of a component or of the file's other fields, or GRIB's keys in its attributes."""
        mapping = mapping_of_fields([self.dataset.data_vars.get(array.name, array)], self.dataset)
        mapping = mapping or mapping_of_fields(list(self.dataset.data_vars.values()), self.dataset)

        def number(key: str) -> float:
            try:
                return float(array.attrs.get(f"GRIB_{key}", np.nan))
            except (TypeError, ValueError):
                return np.nan

        return mapping or mapping_of_grib(str(array.attrs.get("GRIB_gridType", "")), number)


def turn_winds(
    fields: Mapping[str, xr.DataArray], axes: Mapping[str, Sequence[AxisOfPiece]], note: Note
) -> dict[str, xr.DataArray]:
    """Turn pairs of components along a grid's axes to east and north; still lazy.

    NOAA gives the formula for HRRR (HRRR FAQ, https://rapidrefresh.noaa.gov/faq/HRRR.faq.html); the angle is Snyder's
    theta, eq. 14-4, on a cone (USGS Professional Paper 1395, 1987).

    Args:
        fields: All fields of a source, by name.
        axes: Files of each component on a curvilinear grid, with the axes.
        note: Receiver of one sentence for each pair.

    Raises:
        StoreError: Files differ in their axes; a component lacks the other one, or its times or levels.
    """
    result = dict(fields)
    chosen = {name: _one_axis(name, pieces) for name, pieces in axes.items()}
    for pair in _PAIRS:
        along_grid = [name for name in pair if chosen.get(name) is not None]
        if not along_grid:
            continue
        present = along_grid[0]
        where, other = axes[present][0][0], OTHER_COMPONENT[present]
        if other not in fields:
            msg = (
                f"{where}: {present} is a component along the grid's own axes, and {other}, without which it cannot be "
                "turned to east and north, is not there; give both"
            )
            raise StoreError(msg)
        x_axis, y_axis = (chosen.get(name) for name in pair)
        if x_axis is None or y_axis is None:
            msg = f"{where}: {present} points along the grid's axes, {other} as on parallels; give both of one kind"
            raise StoreError(msg)
        x, y = (fields[name] for name in pair)
        _check_alike(where, x, y)
        _check_same_axis(f"{pair[0]} and {pair[1]}", axes[pair[0]][0], axes[pair[1]][0])
        # In double precision, whatever the components have.
        angle = np.radians(x_axis.degrees.drop_vars(("latitude", "longitude")))
        sine, cosine = np.sin(angle), np.cos(angle)
        add = partial(xr.apply_ufunc, _combined, dask="parallelized", output_dtypes=[np.float32], join="exact")
        turned = add(x, cosine, y, sine), add(y, cosine, x, -sine)
        for name, old, new in zip(pair, (x, y), turned, strict=True):
            new = new.transpose(*old.dims).assign_coords(old.coords)  # noqa: PLW2901
            new.attrs = {**old.attrs, ORIGIN: x_axis.origin}
            result[name] = new.rename(name)
        note(f"{pair[0]} and {pair[1]} turned from the grid's axes to east and north, {x_axis.origin}")
    return result


def _combined(first: Any, one: Any, second: Any, other: Any) -> npt.NDArray[np.float32]:
    """Add two products, rounded once; what single precision cannot hold becomes infinite, which the checks report."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(first * one + second * other).astype(np.float32)


def _one_axis(name: str, pieces: Sequence[AxisOfPiece]) -> Axis | None:
    """Take the axis of a component that all files share.

    Raises:
        StoreError: They do not.
    """
    first_where, first = pieces[0]
    for where, axis in pieces[1:]:
        if (axis is None) != (first is None):
            along, parallels = (where, first_where) if first is None else (first_where, where)
            msg = f"{along} holds {name} along the grid's axes, {parallels} along parallels; give files of one kind"
            raise StoreError(msg)
        _check_same_axis(name, pieces[0], (where, axis))
    return first


def _check_same_axis(what: str, one: AxisOfPiece, other: AxisOfPiece) -> None:
    (first_where, first), (where, axis) = one, other
    if first is None or axis is None:
        return
    apart = float(np.abs((axis.degrees.values - first.degrees.values + 180) % 360 - 180).max())
    if apart > _SAME_ANGLE:
        msg = (
            f"{what}: the axes of the grids of {where} and {first_where} differ by up to {apart:g} degrees at the same "
            f"points ({axis.origin}; {first.origin}); give files of one grid"
        )
        raise StoreError(msg)


def _check_alike(where: str, x: xr.DataArray, y: xr.DataArray) -> None:
    for name in ("time", "level"):
        mine, theirs = (array[name].values if name in array.dims else np.empty(0) for array in (x, y))
        if not np.array_equal(mine, theirs):
            msg = (
                f"{where}: {x.name} and {y.name} are components along the grid's own axes, which are turned together, "
                f"but they differ in their {name}s; give both for the same ones"
            )
            raise StoreError(msg)
