"""Reader of a store: a folder in Zarr v3, which ``kit.data.store.writer`` makes.

Arrays are float32 with one chunk per time step; a missing value is NaN. Dimensions are ``time`` (naive,
meaning UTC), ``level`` (hPa, increasing), ``latitude`` (strictly decreasing) and ``longitude`` (strictly
increasing in [0, 360)). On a curvilinear grid (Lambert's, say) they are ``time``, ``level``, ``y`` and ``x``, and
``latitude`` and ``longitude`` are matrices: latitudes decrease along every column, longitudes increase along every
row. Static variables carry the prefix ``static_``.

Dimension letters: T time, C level, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors

from kit.data.chunks import Chunks, ChunkSlice, Columns, damage
from kit.data.settings import Period
from kit.data.statistics import StoreStatistics, channel_key
from kit.data.store.format import (
    COORDINATES,
    CURVILINEAR,
    GRID,
    STATIC_PREFIX,
    STORE_FORMAT,
    Times,
    check_coordinates,
    period_indices,
    statistics_file,
)
from kit.data.store.verify import verify
from kit.data.zarr_guard import open_group
from kit.io.errors import StoreError
from kit.io.hashes import new_sha256

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Store:
    """A store, opened for reading; open it with ``Store.open``."""

    path: Path
    surface: tuple[str, ...]
    atmospheric: tuple[str, ...]
    static: tuple[str, ...]
    """Static variables without their prefix."""
    levels: tuple[int | float, ...]
    """Pressure in hPa, increasing; empty where there are no atmospheric variables."""
    latitude: npt.NDArray[np.float64]
    """Degrees north, [H]; [H, W] on a curvilinear grid."""
    longitude: npt.NDArray[np.float64]
    """Degrees east in [0, 360), [W]; [H, W] on a curvilinear grid."""
    times: Times
    """``datetime64[s]``, UTC, strictly increasing, shape [T]."""
    splits: dict[str, Period]
    attributes: dict[str, Any]
    statistics: StoreStatistics
    _group: zarr.Group = field(repr=False)
    _chunks: dict[str, Chunks] = field(default_factory=dict, repr=False)
    """Chunks of the variables that were read, by name."""

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store and check what every reader relies on.

        Raises:
            StoreError: there is no such folder, it is no store, its coordinates are out of order, or its
                statistics are missing.
        """
        path = Path(path)
        if not path.is_dir():
            msg = f"{path}: no such store; build one with `kit data build`, or name a folder that exists"
            raise StoreError(msg)
        try:
            group = open_group(path, consolidated=True)
        except StoreError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zarr.errors.BaseZarrError) as error:
            msg = f"{path}: not a store: no readable Zarr v3 group ({error}); build one with `kit data build`"
            raise StoreError(msg) from error
        attributes: dict[str, Any] = dict(group.attrs)
        if attributes.get("kit_store") != STORE_FORMAT:
            msg = (
                f"{path}: not a store of this kit: its attribute kit_store is {attributes.get('kit_store')!r}, "
                f"{STORE_FORMAT} expected; build one with `kit data build`"
            )
            raise StoreError(msg)
        latitude, longitude = (_coordinate(group, path, name).astype(np.float64) for name in GRID)
        levels = np.empty(0)
        if "level" in group:
            levels = _coordinate(group, path, "level").astype(np.float64)
        times = _coordinate(group, path, "time").astype("datetime64[s]")
        check_coordinates(path, latitude, longitude, times, levels)
        grid = CURVILINEAR if latitude.ndim == 2 else GRID
        sizes = {"level": len(levels), grid[0]: latitude.shape[0], grid[1]: longitude.shape[-1]}
        surface, atmospheric, static = [], [], []
        for name, array in sorted(group.arrays()):
            dimensions = tuple(getattr(array.metadata, "dimension_names", None) or ())
            if name in COORDINATES:
                continue
            # A state is read into memory of its stated shape. Times are left out: an append adds to them one by one.
            for dimension, length in zip(dimensions, array.shape, strict=False):
                if length != sizes.get(dimension, length):
                    msg = (
                        f"{path}: {name} has {length} values along {dimension}, whose coordinate has "
                        f"{sizes[dimension]}; the store was changed: build it again with `kit data build`"
                    )
                    raise StoreError(msg)
            if dimensions == ("time", *grid):
                surface.append(name)
            # What else a group may hold is nothing that the kit reads.
            elif "level" in dimensions and len(dimensions) == 4:
                atmospheric.append(name)
            elif dimensions == grid:
                static.append(name.removeprefix(STATIC_PREFIX))
        return cls(
            path=path,
            surface=tuple(surface),
            atmospheric=tuple(atmospheric),
            static=tuple(static),
            # Whole pressures as whole numbers, as upstream's ``atmos_levels`` has them.
            levels=tuple(int(level) if level == int(level) else float(level) for level in levels),
            latitude=latitude,
            longitude=longitude,
            times=times,
            splits={name: Period.parse(text) for name, text in attributes.get("splits", {}).items()},
            attributes=attributes,
            statistics=StoreStatistics.load(statistics_file(path, attributes)),
            _group=group,
        )

    @property
    def curvilinear(self) -> bool:
        """Whether latitude and longitude are matrices."""
        return self.latitude.ndim == 2

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.latitude.shape[0], self.longitude.shape[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the store itself.
        return Store.open, (self.path,)

    def _array(self, name: str, known: tuple[str, ...], prefix: str = "") -> zarr.Array[Any]:
        if name not in known:
            msg = f"{self.path}: the store has no variable {name!r} of this kind; it has {', '.join(known) or 'none'}"
            raise StoreError(msg)
        array = self._group[prefix + name]
        assert isinstance(array, zarr.Array)
        return array

    def read(
        self,
        name: str,
        times: Sequence[int] | slice,
        rows: slice = slice(None),
        columns: Columns = slice(None),
        levels: Sequence[int] | None = None,
    ) -> Float32:
        """Read states of a surface or atmospheric variable.

        Args:
            name: Aurora's short name.
            times: positions in ``times``.
            rows: latitudes.
            columns: longitudes, a run or positions, of which negative ones are counted from the end.
            levels: positions in ``levels`` in the order wanted; all by default.

        Returns:
            float32, shape [T, H, W], or [T, C, H, W] for an atmospheric variable.

        Raises:
            StoreError: the store has no such variable, or a chunk of it is damaged.
        """
        if isinstance(times, slice):
            times = range(len(self.times))[times]
        # Of no state at all, the shape is that of the first.
        shape = self.chunk_slice(name, 0, rows, columns, levels).shape
        states = np.empty((len(times), *shape), dtype=np.float32)
        for index, state in zip(times, states, strict=True):
            self.chunk_slice(name, int(index), rows, columns, levels).read(state)
        return states

    def chunk_slice(
        self,
        name: str,
        index: int,
        rows: slice = slice(None),
        columns: Columns = slice(None),
        levels: Sequence[int] | None = None,
    ) -> ChunkSlice:
        """Name a part of one state, to be read into memory that is there, in any thread or process.

        Args:
            name: Aurora's short name.
            index: position in ``times``.
            rows: latitudes.
            columns: longitudes, a run or positions, of which negative ones are counted from the end.
            levels: positions in ``levels``, in the order wanted; all by default, and without effect at the surface.

        Raises:
            StoreError: the store has no such variable.
        """
        # Zarr's metadata are asked once for each variable.
        if name not in self._chunks:
            array = self._array(name, self.surface + self.atmospheric)
            self._chunks[name] = Chunks.of(array, self.path / name)
        label = f"{self.path}: {name} at {self.times[index]}"
        return ChunkSlice(self._chunks[name], index, label, rows, columns, levels if name in self.atmospheric else None)

    def read_static(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Float32:
        """Read a static variable by its name without prefix; float32, shape [H, W]."""
        array = self._array(name, self.static, STATIC_PREFIX)
        with damage(f"{self.path}: {STATIC_PREFIX}{name}"):
            return np.asarray(array[rows, columns], dtype=np.float32)

    @property
    def period(self) -> Period:
        """From the first state to the last."""
        first, last = (moment.replace(tzinfo=UTC) for moment in self.times[[0, -1]].tolist())
        return Period(first, last)

    def indices(self, period: Period) -> npt.NDArray[np.int64]:
        """Positions of the states inside a period, ends included."""
        return period_indices(self.times, period)

    def variable_attributes(self, name: str) -> dict[str, Any]:
        """CF attributes of an array by its name in the store: ``units``, ``long_name``, ``cell_methods``, ..."""
        return dict(self._group[name].attrs)

    def statistics_keys(self, name: str) -> list[str]:
        """Return the statistics keys of a surface or atmospheric variable, level by level."""
        if name in self.surface:
            return [name]
        return [channel_key(name, level) for level in self.levels]

    def fingerprint(self) -> str:
        """SHA-256 of what the store says about itself: metadata, hashes of all data as written, statistics."""
        # Hashes of all chunks are in the root's metadata: no chunk is read.
        hasher = new_sha256((self.path / "zarr.json").read_bytes())
        hasher.update(statistics_file(self.path, self.attributes).read_bytes())
        return hasher.hexdigest()

    def verify(self) -> None:
        """Read every file and compare it with the hash that was recorded when it was written.

        Raises:
            StoreError: a file was changed, cut off or lost, or is none of the store's; names the first of them.
        """
        problems = verify(self.path).problems
        if problems:
            first, others, more = problems[0], len(problems) - 1, ""
            if others:
                more = f", and {others} more (all: kit data verify {self.path})"
            msg = (
                f"{self.path}: {first.file} {first.problem}{more}; the store was changed or damaged: build it again "
                "with `kit data build`"
            )
            raise StoreError(msg)


def _coordinate(group: zarr.Group, path: Path, name: str) -> npt.NDArray[Any]:
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        msg = f"{path}: the store has no coordinate {name!r}; build it again with `kit data build`"
        raise StoreError(msg)
    with damage(f"{path}: {name}"):
        return np.asarray(array[:])
