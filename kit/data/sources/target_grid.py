"""Grids that a build brings fields to: of the globe at a spacing, or those of another store or file.

Dimension letters: H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from zarr.storage import LocalStore

from kit.data.grid import from_western_edge, is_closed
from kit.data.sources.coordinates import canonical_coordinates
from kit.data.sources.groups import groups_with_fields
from kit.data.sources.netcdf_files import check_length
from kit.data.zarr_guard import GuardedStore
from kit.io.errors import StoreError

# Digits of a coordinate in degrees; what is beyond is rounding.
DIGITS = 9
# Degrees by which coordinates of the same place may differ between two sources.
TINY = 1e-6

Degrees = npt.NDArray[np.float64]
Points = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TargetGrid:
    """Points to bring fields to.

    Attributes:
        latitude: Degrees north, decreasing, [H].
        longitude: Degrees in [0, 360), increasing, [W].
        is_global: Whole globe at one spacing, of which a build takes what its data cover.
        label: Name of the grid, for messages: its spacing or its file.
    """

    latitude: Degrees
    longitude: Degrees
    is_global: bool
    label: str

    @classmethod
    def of_spacing(cls, spacing: float) -> TargetGrid:
        """Make the grid of the globe with both poles and Greenwich, as upstream's are: 0.4 degrees are 451 x 900.

        Raises:
            StoreError: the spacing does not divide 180 degrees.
        """
        rows = round(180 / spacing)
        if rows < 2 or abs(rows * spacing - 180) > 1e-6:
            msg = f"--regrid {spacing:g}: expected degrees that divide 180, such as 0.1, 0.25, 0.4 or 1.5"
            raise StoreError(msg)
        # The spacing may be rounded, such as 0.3333; this one divides the globe.
        exact = 180 / rows
        return cls(
            np.round(90 - exact * np.arange(rows + 1), DIGITS),
            np.round(exact * np.arange(2 * rows), DIGITS),
            is_global=True,
            label=f"{exact:g} degrees",
        )

    @classmethod
    def like(cls, reference: str) -> TargetGrid:
        """Read the grid of a store or of a NetCDF file.

        Raises:
            StoreError: it cannot be read, or has no latitudes and longitudes.
        """
        path = Path(reference)
        if not path.is_dir() and not path.is_file():
            msg = f"--regrid_like {reference}: no such store or file"
            raise StoreError(msg)
        source: Any = path
        try:
            if path.is_dir():
                engine, source = "zarr", GuardedStore(LocalStore(path, read_only=True), reference)
            else:
                engine = "netcdf4"
                check_length(path)
                groups_with_fields(path)
            with xr.open_dataset(source, engine=engine, decode_times=False) as opened:
                grid = canonical_coordinates(_coordinates_alone(opened), reference, lambda _: None)
        except StoreError as error:
            msg = f"--regrid_like {error}"
            raise StoreError(msg) from error
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            msg = f"--regrid_like {reference}: has no latitudes and longitudes that can be read ({error})"
            raise StoreError(msg) from error
        latitude = np.asarray(grid["latitude"].values, dtype=np.float64)
        longitude = np.asarray(grid["longitude"].values, dtype=np.float64)
        return cls(latitude, longitude, is_global=False, label=path.name)

    @property
    def spacing(self) -> float:
        """Degrees between neighbours."""
        return spacing_of(self.latitude, self.longitude)

    @property
    def margin(self) -> float:
        """Degrees around a region that its points may need."""
        # Enough for data that are a degree and one and a half spacings apart; a build checks that they are no coarser.
        return 2 * self.spacing + 1

    def within(self, field: xr.DataArray) -> TargetGrid:
        """The part of a global target that lies between the outermost points of a field."""
        if not self.is_global:
            return self
        rows, columns = self._covered(field["latitude"].values, field["longitude"].values, DIGITS)
        if rows.sum() < 2 or columns.sum() < 2:
            msg = f"--regrid to {self.label}: fewer than two points lie within the data; choose a finer grid"
            raise StoreError(msg)
        return TargetGrid(self.latitude[rows], self.longitude[columns], is_global=False, label=self.label)

    def check_covered(self, latitude: Degrees, longitude: Degrees) -> None:
        """Check that the outermost points of data enclose these, or lie less than a row from the poles.

        Raises:
            StoreError: They do not, or are too few.
        """
        if len(latitude) < 2 or len(longitude) < 2:
            msg = f"--regrid: the data have {len(latitude)} x {len(longitude)} points; two rows and columns are needed"
            raise StoreError(msg)
        rows, columns = self._covered(latitude, longitude, 6)
        if not rows.all() or not columns.all():
            msg = (
                f"--regrid to {self.label}: its points lie beyond the data's, {points_described(latitude, longitude)}; "
                "give data that cover it, or a smaller grid"
            )
            raise StoreError(msg)

    def _covered(self, latitude: Degrees, longitude: Degrees, digits: int) -> tuple[Points, Points]:
        """Which rows and which columns lie between the outermost points of data, or as close to a pole as those."""
        rows = (self.latitude <= latitude.max() + TINY) & (self.latitude >= latitude.min() - TINY)
        # Data whose outermost rows are within a row of the poles cover the globe.
        step = float(np.abs(np.diff(latitude)).max(initial=0.0))
        rows |= latitude.max() + step >= 90 and latitude.min() - step <= -90
        eastwards = from_western_edge(longitude)
        offset = np.round((self.longitude - eastwards[0]) % 360, digits) % 360
        columns = (offset <= eastwards[-1] - eastwards[0] + TINY) | is_closed(eastwards)
        return np.asarray(rows), np.asarray(columns)


def spacing_of(latitude: Degrees, longitude: Degrees) -> float:
    """Return the usual distance of neighbours in degrees, the wider one of rows and columns."""
    rows, columns = np.abs(np.diff(latitude)), np.abs(np.diff(longitude))
    return float(max(np.median(rows), np.median(columns)))


def same_points(mine: Degrees, theirs: Degrees) -> bool:
    """Whether two vectors of coordinates mean the same points."""
    return len(mine) == len(theirs) and bool(np.abs(mine - theirs).max() < TINY)


def points_described(latitude: Degrees, longitude: Degrees) -> str:
    """Describe points on rows and columns in words."""
    return (
        f"{len(latitude)} x {len(longitude)} points {abs(latitude[1] - latitude[0]):g} degrees apart, "
        f"{latitude[0]:g} to {latitude[-1]:g} degrees north"
    )


def _coordinates_alone(dataset: xr.Dataset) -> xr.Dataset:
    """Latitudes and longitudes of a dataset, whatever its dimensions and other variables are called."""
    known = {str(name).lower(): name for name in dataset.variables}
    found: dict[str, Any] = {}
    for spelling, name in (
        ("latitude", "latitude"),
        ("lat", "latitude"),
        ("longitude", "longitude"),
        ("lon", "longitude"),
    ):
        if spelling in known and name not in found:
            variable = dataset[known[spelling]]
            found[name] = (variable.dims, variable.values)
            # A vector lies on the dimension of its name, whatever the file calls that.
            if variable.ndim == 1:
                found[name] = ((name,), variable.values)
    return xr.Dataset(coords=found)
