"""Forecasts on the disk: NetCDF or Zarr v3, CF attributes, one chunk for each lead time, written as it goes.

Dimensions are ``member`` (of an ensemble), ``time`` (the initial time), ``lead_time``, ``level``, ``latitude`` and
``longitude``; ``valid_time`` is a coordinate of ``time`` and ``lead_time``. On a curvilinear grid the last two are
``y`` and ``x``, and latitudes and longitudes are coordinates of both.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kit.data.store.format import COORDINATES, CURVILINEAR, GRID, consolidate, plain_attributes
from kit.io.atomic import published, remove_leftovers
from kit.io.errors import CheckpointError, SettingsError

Float32 = npt.NDArray[np.float32]

_FULL = 2**20
"""Free bytes below which a failed write was a full disk's."""
_GIB = 2**30
_SECONDS = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}


@dataclass(frozen=True)
class ForecastLayout:
    """Variables, dimensions and attributes of a forecast.

    Attributes:
        surface: Attributes of the variables at the surface, by name.
        atmospheric: Attributes of the variables on levels, by name.
        levels: Pressure levels, hPa.
        latitude: Degrees north, [H]; [H, W] on a curvilinear grid.
        longitude: Degrees east, [W] or [H, W].
        starts: Initial times, UTC.
        timestep: Time from one lead time to the next.
        steps: Number of lead times.
        members: Number of members of an ensemble; 0 where there is no such dimension.
        numbers: Numbers of the members; by default 0, 1 and so on.
        attributes: Attributes of the whole file.
    """

    surface: Mapping[str, Mapping[str, Any]]
    atmospheric: Mapping[str, Mapping[str, Any]]
    levels: Sequence[float]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    starts: Sequence[datetime]
    timestep: timedelta
    steps: int
    members: int = 0
    numbers: Sequence[int] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every dimension, in the order of a variable's axes."""
        sizes = {"time": len(self.starts), "lead_time": self.steps, "level": len(self.levels)}
        if self.members:
            sizes = {"member": self.members, **sizes}
        return sizes | dict(zip(self.grid, self.shape, strict=True))

    @property
    def grid(self) -> tuple[str, str]:
        """Dimensions of rows and columns."""
        return CURVILINEAR if self.latitude.ndim == 2 else GRID

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.latitude.shape[0], self.longitude.shape[-1]

    def dimensions(self, name: str) -> tuple[str, ...]:
        """Dimensions of a variable."""
        return tuple(key for key in self.sizes if key != "level" or name in self.atmospheric)

    def chunks(self, name: str) -> tuple[int, ...]:
        """Chunk of a variable: one member's, one initial time's, one lead time's values."""
        # What one step of a roll-out writes, so that no chunk is ever written in part.
        sizes = self.sizes | dict.fromkeys(("member", "time", "lead_time"), 1)
        return tuple(sizes[key] for key in self.dimensions(name))

    def lengths(self, name: str) -> tuple[int, ...]:
        """Length of each dimension of a variable."""
        return tuple(self.sizes[key] for key in self.dimensions(name))

    @property
    def bytes(self) -> int:
        """Size of all values, in float32."""
        return 4 * sum(math.prod(self.lengths(name)) for name in self.variables)

    @property
    def variables(self) -> dict[str, Mapping[str, Any]]:
        """Attributes of all variables."""
        return {**self.surface, **self.atmospheric}

    def coordinates(self) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any], dict[str, Any]]]:
        """Return dimensions, values and attributes of every coordinate."""
        starts = np.array([int(start.timestamp()) for start in self.starts])
        leads = self.timestep.total_seconds() * np.arange(1, self.steps + 1)
        hours = leads / 3600
        if np.array_equal(hours.astype(np.int64), hours):
            hours = hours.astype(np.int64)
        found: dict[str, tuple[tuple[str, ...], npt.NDArray[Any], dict[str, Any]]] = {
            "time": (
                ("time",),
                starts,
                {"standard_name": "forecast_reference_time", "long_name": "initial time", **_SECONDS},
            ),
            "lead_time": (
                ("lead_time",),
                hours,
                # The type tells xarray to read a duration, and others that it is hours.
                {"standard_name": "forecast_period", "units": "hours", "dtype": "timedelta64[ns]"},
            ),
            "valid_time": (
                ("time", "lead_time"),
                starts[:, None] + leads.astype(np.int64)[None],
                {"standard_name": "time", "long_name": "time that is predicted", **_SECONDS},
            ),
        }
        for name, values in (("level", self.levels), ("latitude", self.latitude), ("longitude", self.longitude)):
            dimensions: tuple[str, ...] = (name,)
            if np.ndim(values) == 2:
                dimensions = self.grid
            found[name] = (dimensions, np.asarray(values, dtype=np.float64), dict(COORDINATES[name]))
        if self.members:
            numbers = np.array(self.numbers or range(self.members))
            found["member"] = (("member",), numbers, {"standard_name": "realization"})
        return found

    def described(self, name: str) -> dict[str, Any]:
        """Attributes of a variable, as they are written."""
        coordinates = ["valid_time"]
        if self.grid == CURVILINEAR:
            # CF asks for the names of coordinates that are no dimensions.
            coordinates += GRID
        return {**plain_attributes(self.variables[name]), "coordinates": " ".join(coordinates)}


class Writer(Protocol):
    """Writer of fields, one lead time at a time."""

    def write(self, name: str, index: tuple[int, ...], values: Float32) -> None:
        """Write a variable's values, [H, W] or [C, H, W], of (member,) initial time and lead time."""

    def read(self, name: str, index: tuple[int, ...]) -> Float32:
        """Read back what was written there."""

    def close(self) -> None:
        """Write what is left to write."""


@contextmanager
def writing(out: Path, layout: ForecastLayout) -> Iterator[Writer]:
    """Open a new forecast; it stands at ``out`` when the body is done, and nothing does if it fails.

    Args:
        out: Path that ends in ``.nc`` or ``.zarr``.
        layout: Variables and dimensions to write.

    Raises:
        SettingsError: something is there, or the disk has no room for it.
        OSError: the disk fills up, or refuses.
    """
    remove_leftovers(out.parent)
    with published(out) as part:
        free = shutil.disk_usage(part.parent).free
        # NetCDF is not compressed; of Zarr nobody knows how far it will be.
        if out.suffix == ".nc" and layout.bytes > free:
            msg = (
                f"{out}: the forecast takes {layout.bytes / _GIB:.2f} GiB, and the disk has {free / _GIB:.2f} free; "
                "ask for fewer steps or starts, or choose another disk with --out"
            )
            raise SettingsError(msg)
        writer = _WRITERS[out.suffix](part, layout)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()


class ZarrWriter:
    """Writer of a Zarr group, of its own or one that is there.

    Args:
        folder: Folder of the group.
        layout: Variables and dimensions of a new group; None to write into the one that is there.
    """

    def __init__(self, folder: Path, layout: ForecastLayout | None) -> None:
        import zarr

        self._folder = folder
        if layout is not None:
            _make_group(folder, layout)
        # Never consolidated before the end: the arrays are found one by one.
        self._root = zarr.open_group(folder, mode="r+", zarr_format=3, use_consolidated=False)
        self._arrays: dict[str, Any] = {}

    def check(self, layout: ForecastLayout) -> None:
        """Check that a layout is that of the group.

        Raises:
            CheckpointError: variables, dimensions or coordinates differ; names the first of them.
        """
        coordinates = layout.coordinates()
        wanted = {name: layout.lengths(name) for name in layout.variables}
        found = {name: array.shape for name, array in self._root.arrays() if name not in coordinates}
        differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        differing += [name for name, (_, values, _) in coordinates.items() if not self._holds(name, values)]
        if differing:
            msg = (
                f"a checkpoint predicts other variables, levels or grid points than the one before it: they differ in "
                f"{', '.join(differing)}, and one ensemble has one layout"
            )
            raise CheckpointError(msg)

    def _holds(self, name: str, values: npt.NDArray[Any]) -> bool:
        return name in self._root and np.array_equal(self._array(name)[...], values)

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self._root[name]
        return self._arrays[name]

    def write(self, name: str, index: tuple[int, ...], values: Float32) -> None:
        """Write a chunk."""
        self._array(name)[index] = values

    def read(self, name: str, index: tuple[int, ...]) -> Float32:
        """Read a chunk back."""
        return np.asarray(self._array(name)[index], dtype=np.float32)

    def close(self) -> None:
        """Put all metadata into one file."""
        consolidate(self._folder)

    def abandon(self) -> None:
        """Do nothing: nothing is open."""


def _make_group(folder: Path, layout: ForecastLayout) -> None:
    import zarr

    root = zarr.create_group(folder, zarr_format=3, attributes=plain_attributes(layout.attributes))
    for name, (dimensions, values, attributes) in layout.coordinates().items():
        root.create_array(name, data=values, chunks=values.shape, dimension_names=dimensions, attributes=attributes)
    for name in layout.variables:
        root.create_array(
            name,
            shape=layout.lengths(name),
            chunks=layout.chunks(name),
            dtype="float32",
            fill_value=float("nan"),
            dimension_names=layout.dimensions(name),
            attributes=layout.described(name),
            # A chunk of nothing but NaN is written too, so that a lost chunk cannot pass for one.
            config={"write_empty_chunks": True},
        )


class _NetCDFWriter:
    def __init__(self, file: Path, layout: ForecastLayout) -> None:
        import netCDF4

        self._file = file
        with self._system_errors():
            self._dataset = netCDF4.Dataset(str(file), "w", format="NETCDF4")
        try:
            with self._system_errors():
                self._define(layout)
        except BaseException:
            # A file that is open cannot be deleted everywhere, and its handle would leak.
            self.abandon()
            raise

    def _define(self, layout: ForecastLayout) -> None:
        self._dataset.setncatts(_as_netcdf(layout.attributes))
        for name, size in layout.sizes.items():
            self._dataset.createDimension(name, size)
        for name, (dimensions, values, attributes) in layout.coordinates().items():
            variable = self._dataset.createVariable(name, values.dtype, dimensions)
            variable.setncatts(attributes)
            variable[:] = values
        for name in layout.variables:
            variable = self._dataset.createVariable(
                name, "f4", layout.dimensions(name), chunksizes=layout.chunks(name), fill_value=np.float32("nan")
            )
            variable.setncatts(_as_netcdf(layout.described(name)))
            # The library would give masked arrays for NaN, which waves have by design.
            variable.set_auto_mask(False)

    def write(self, name: str, index: tuple[int, ...], values: Float32) -> None:
        with self._system_errors():
            self._dataset.variables[name][index] = values

    def read(self, name: str, index: tuple[int, ...]) -> Float32:
        return np.asarray(self._dataset.variables[name][index], dtype=np.float32)

    def close(self) -> None:
        with self._system_errors():
            self._dataset.close()

    def abandon(self) -> None:
        """Close the file, whatever state it is in: it is about to be deleted."""
        if self._dataset.isopen():
            # What could not be written cannot be written now either; the first failure is the one to tell.
            with suppress(RuntimeError):
                self._dataset.close()

    @contextmanager
    def _system_errors(self) -> Iterator[None]:
        """Say what the system said, which the library's errors do not.

        Raises:
            OSError: the body failed; for want of room where there is none.
        """
        try:
            yield
        except RuntimeError as error:
            # HDF5 reports a full disk as any other failure.
            code, reason = errno.EIO, f"the NetCDF library cannot write ({error})"
            if shutil.disk_usage(self._file.parent).free < _FULL:
                code, reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
            raise OSError(code, reason, str(self._file)) from error


_WRITERS: Mapping[str, type[ZarrWriter | _NetCDFWriter]] = {".nc": _NetCDFWriter, ".zarr": ZarrWriter}


def _as_netcdf(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as NetCDF has them: numbers and text."""
    found: dict[str, Any] = {}
    for key, value in plain_attributes(attributes).items():
        if isinstance(value, bool):
            found[key] = str(value).lower()
        elif isinstance(value, int | float):
            found[key] = value
        elif isinstance(value, list):
            found[key] = ", ".join(map(str, value))
        elif isinstance(value, dict):
            found[key] = json.dumps(value)
        elif value is not None:
            found[key] = str(value)
    return found


def portable_name(path: Path) -> str:
    """Name a file or folder without the folders that are this machine's, as ``NAME/checkpoints/best`` or ``NAME``."""
    path = path.absolute()
    if path.parent.name == "checkpoints":
        return "/".join(path.parts[-3:])
    return path.name


def bytes_of(out: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if out.is_file():
        return out.stat().st_size
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
