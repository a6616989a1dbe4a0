"""A forecast on the disk: NetCDF or Zarr v3, CF attributes, one chunk for each lead time, written as it goes.

Dimensions are ``member`` (of an ensemble), ``time`` (the initial time), ``lead_time``, ``level``, ``latitude`` and
``longitude``; ``valid_time`` is a coordinate of ``time`` and ``lead_time``. On a curvilinear grid the last two are
``y`` and ``x``, and latitudes and longitudes are coordinates of both.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kit.data.store.format import CURVILINEAR, GRID, plain_attributes
from kit.data.store.layout import COORDINATES, consolidate
from kit.io.atomic import published
from kit.io.errors import SettingsError

__all__ = ["Layout", "Writer", "bytes_of", "writing"]

Float32 = npt.NDArray[np.float32]
T = TypeVar("T")

_FULL = 2**20
"""Free bytes below which a failed write was a full disk's."""
_GIB = 2**30
_SECONDS = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}


@dataclass(frozen=True)
class Layout:
    """What a forecast holds.

    Attributes:
        surface: attributes by variable.
        atmospheric: the same.
        levels: hPa.
        latitude: degrees north, [H]; [H, W] on a curvilinear grid.
        longitude: degrees east, [W] or [H, W].
        starts: initial times, UTC.
        timestep: from one lead time to the next.
        steps: lead times.
        members: of an ensemble; 0 where there is no such dimension.
        attributes: of the whole.
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
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every dimension."""
        sizes = {"member": self.members} if self.members else {}
        sizes |= {"time": len(self.starts), "lead_time": self.steps, "level": len(self.levels)}
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
        """One member's, one initial time's, one lead time's values."""
        return tuple(1 if key in ("member", "time", "lead_time") else self.sizes[key] for key in self.dimensions(name))

    @property
    def bytes(self) -> int:
        """Size of all values, in float32."""
        return 4 * sum(math.prod(self.sizes[key] for key in self.dimensions(name)) for name in self.variables)

    @property
    def variables(self) -> dict[str, Mapping[str, Any]]:
        """Attributes of all variables."""
        return {**self.surface, **self.atmospheric}

    def coordinates(self) -> dict[str, tuple[tuple[str, ...], npt.NDArray[Any], dict[str, Any]]]:
        """Dimensions, values and attributes of every coordinate."""
        starts = np.array([int(start.timestamp()) for start in self.starts])
        leads = self.timestep.total_seconds() * np.arange(1, self.steps + 1)
        hours = leads / 3600
        whole = hours.astype(np.int64)
        found: dict[str, tuple[tuple[str, ...], npt.NDArray[Any], dict[str, Any]]] = {
            "time": (("time",), starts, {"standard_name": "forecast_reference_time", "long_name": "initial time"}),
            "lead_time": (
                ("lead_time",),
                whole if np.array_equal(whole, hours) else hours,
                # The type tells xarray to read a duration, and others that it is hours.
                {"standard_name": "forecast_period", "units": "hours", "dtype": "timedelta64[ns]"},
            ),
            "valid_time": (
                ("time", "lead_time"),
                starts[:, None] + leads.astype(np.int64)[None],
                {"standard_name": "time", "long_name": "time that is predicted"},
            ),
        }
        for name in ("time", "valid_time"):
            found[name][2].update(_SECONDS)
        for name, values in (("level", self.levels), ("latitude", self.latitude), ("longitude", self.longitude)):
            dimensions = self.grid if np.ndim(values) == 2 else (name,)
            found[name] = (dimensions, np.asarray(values, dtype=np.float64), dict(COORDINATES[name]))
        if self.members:
            found["member"] = (("member",), np.arange(self.members), {"standard_name": "realization"})
        return found

    def described(self, name: str) -> dict[str, Any]:
        """Attributes of a variable, as they are written."""
        beside = ["valid_time", *(GRID if self.grid == CURVILINEAR else ())]
        return {**plain_attributes(self.variables[name]), "coordinates": " ".join(beside)}


class Writer(Protocol):
    """Takes fields one lead time at a time."""

    def write(self, name: str, index: tuple[int, ...], values: Float32) -> None:
        """Write a variable's values, [H, W] or [C, H, W], of (member,) initial time and lead time."""

    def read(self, name: str, index: tuple[int, ...]) -> Float32:
        """Read back what was written there."""

    def close(self) -> None:
        """Write what is left to write."""


@contextmanager
def writing(out: Path, layout: Layout) -> Iterator[Writer]:
    """Open a new forecast; it stands at ``out`` when the body is done, and nothing does if it fails.

    Args:
        out: ends in ``.nc`` or ``.zarr``.
        layout: what it will hold.

    Raises:
        SettingsError: something is there, or the disk has no room for it.
        OSError: the disk fills up, or refuses.
    """
    with published(out) as part:
        _check_room(part.parent, out, layout)
        writer = _Zarr(part, layout) if out.suffix == ".zarr" else _NetCDF(part, layout)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()


def _check_room(folder: Path, out: Path, layout: Layout) -> None:
    """Refuse what cannot fit; NetCDF is not compressed, of Zarr nobody knows how far it will be."""
    free = shutil.disk_usage(folder).free
    if out.suffix == ".nc" and layout.bytes > free:
        msg = (
            f"{out}: the forecast takes {layout.bytes / _GIB:.2f} GiB, and the disk has {free / _GIB:.2f} free; ask "
            "for fewer steps or starts, or choose another disk with --out"
        )
        raise SettingsError(msg)


class _Zarr:
    def __init__(self, folder: Path, layout: Layout) -> None:
        import zarr

        self._folder = folder
        self._root = zarr.create_group(folder, zarr_format=3, attributes=plain_attributes(layout.attributes))
        for name, (dimensions, values, attributes) in layout.coordinates().items():
            self._root.create_array(
                name, data=values, chunks=values.shape, dimension_names=dimensions, attributes=attributes
            )
        sizes = layout.sizes
        self._arrays = {
            name: self._root.create_array(
                name,
                shape=tuple(sizes[key] for key in layout.dimensions(name)),
                chunks=layout.chunks(name),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=layout.dimensions(name),
                attributes=layout.described(name),
                # A chunk of nothing but NaN is written too, so that a lost chunk cannot pass for one.
                config={"write_empty_chunks": True},
            )
            for name in layout.variables
        }

    def write(self, name: str, index: tuple[int, ...], values: Float32) -> None:
        self._arrays[name][index] = values

    def read(self, name: str, index: tuple[int, ...]) -> Float32:
        return np.asarray(self._arrays[name][index], dtype=np.float32)

    def close(self) -> None:
        consolidate(self._folder)

    def abandon(self) -> None:
        """Nothing is open."""


class _NetCDF:
    def __init__(self, file: Path, layout: Layout) -> None:
        import netCDF4

        self._file = file
        self._dataset = self._told(lambda: netCDF4.Dataset(str(file), "w", format="NETCDF4"))
        try:
            self._told(lambda: self._define(layout))
        except BaseException:
            self.abandon()
            raise

    def _define(self, layout: Layout) -> None:
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
            variable.set_auto_mask(False)

    def write(self, name: str, index: tuple[int, ...], values: Float32) -> None:
        self._told(lambda: self._dataset.variables[name].__setitem__(index, values))

    def read(self, name: str, index: tuple[int, ...]) -> Float32:
        return np.asarray(self._dataset.variables[name][index], dtype=np.float32)

    def close(self) -> None:
        self._told(self._dataset.close)

    def abandon(self) -> None:
        """Close the file, whatever state it is in: it is about to be deleted."""
        if self._dataset.isopen():
            # What could not be written cannot be written now either; the first failure is the one to tell.
            with suppress(RuntimeError):
                self._dataset.close()

    def _told(self, act: Callable[[], T]) -> T:
        """Do something with the library, whose errors do not say what the system said.

        Raises:
            OSError: it failed; for want of room where there is none.
        """
        try:
            return act()
        except RuntimeError as error:
            full = shutil.disk_usage(self._file.parent).free < _FULL
            code = errno.ENOSPC if full else errno.EIO
            told = os.strerror(code) if full else f"the NetCDF library cannot write ({error})"
            raise OSError(code, told, str(self._file)) from error


def _as_netcdf(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as NetCDF has them: numbers and text."""
    plain = plain_attributes(attributes)
    return {key: value if isinstance(value, int | float) and not isinstance(value, bool) else _text(value)
            for key, value in plain.items() if value is not None}  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def bytes_of(out: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if out.is_file():
        return out.stat().st_size
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
