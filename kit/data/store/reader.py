"""The store: a folder in Zarr v3 that training reads; ``write_store`` makes one.

Arrays are float32 with one chunk per time step; a missing value is NaN. Dimensions are ``time`` (naive,
meaning UTC), ``level`` (hPa, increasing), ``latitude`` (strictly decreasing) and ``longitude`` (strictly
increasing in [0, 360)). On a curvilinear grid (Lambert's, say) they are ``time``, ``level``, ``y`` and ``x``, and
``latitude`` and ``longitude`` are matrices: latitudes decrease along every column, longitudes increase along every
row. Static variables carry the prefix ``static_``.

Dimension letters: T time, C level, H latitude, W longitude.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
import zarr.errors

from kit.data.chunks import Chunks, ChunkSlice, Columns, damage
from kit.data.settings import Codec, Period
from kit.data.statistics import StoreStatistics, Weighting
from kit.data.store.executor import ExecutionOptions
from kit.data.store.finalize import StoreExistsError
from kit.data.store.format import (
    CURVILINEAR,
    GRID,
    STATIC_PREFIX,
    STORE_FORMAT,
    Times,
    check_coordinates,
    listed,
    period_indices,
    statistics_file,
)
from kit.data.store.layout import COORDINATES
from kit.data.store.verify import verify
from kit.data.store.writer import write
from kit.io.errors import StoreError

__all__ = ["Store", "StoreExistsError", "write_store"]

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

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store and check what every reader relies on.

        Raises:
            StoreError: there is no such folder, it is no store, its coordinates are out of order, or its
                statistics are missing.
        """
        path = Path(path)
        group = _open_group(path)
        attributes: dict[str, Any] = dict(group.attrs)
        if attributes.get("kit_store") != STORE_FORMAT:
            msg = (
                f"{path}: not a store of this kit: its attribute kit_store is {attributes.get('kit_store')!r}, "
                f"{STORE_FORMAT} expected; build one with `kit data build`"
            )
            raise StoreError(msg)
        names = dict(_dimensions(group))
        latitude, longitude, times, levels = _coordinates(group, path)
        grid = CURVILINEAR if latitude.ndim == 2 else GRID
        return cls(
            path=path,
            surface=tuple(n for n, dims in names.items() if dims == ("time", *grid)),
            atmospheric=tuple(n for n, dims in names.items() if "level" in dims and len(dims) == 4),
            static=tuple(n.removeprefix(STATIC_PREFIX) for n, dims in names.items() if dims == grid),
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
        return Store.open, (self.path,)

    @cached_property
    def _chunks(self) -> dict[str, Chunks]:
        return {}

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
            levels: positions in ``levels`` (see ``level_indices``), in the order wanted; all by default.

        Returns:
            float32, shape [T, H, W], or [T, C, H, W] for an atmospheric variable.

        Raises:
            StoreError: the store has no such variable, or a chunk of it is damaged.
        """
        chosen = range(len(self.times))[times] if isinstance(times, slice) else times
        parts = [self.part(name, int(index), rows, columns, levels) for index in chosen]
        shape = parts[0].shape if parts else self.part(name, 0, rows, columns, levels).shape
        states = np.empty((len(parts), *shape), dtype=np.float32)
        for part, state in zip(parts, states, strict=True):
            part.read(state)
        return states

    def part(
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
        if name not in self._chunks:
            array = self._array(name, self.surface + self.atmospheric)
            self._chunks[name] = Chunks.of(array, self.path / name)
        told = f"{self.path}: {name} at {self.times[index]}"
        return ChunkSlice(self._chunks[name], index, told, rows, columns, levels if name in self.atmospheric else None)

    def read_static(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Float32:
        """Read a static variable by its name without prefix; float32, shape [H, W]."""
        array = self._array(name, self.static, STATIC_PREFIX)
        with damage(f"{self.path}: {STATIC_PREFIX}{name}"):
            return np.asarray(array[rows, columns], dtype=np.float32)

    def level_indices(self, levels: Sequence[float]) -> list[int]:
        """Positions of pressure levels, given in hPa.

        Raises:
            StoreError: the store lacks one of them.
        """
        missing = [level for level in levels if level not in self.levels]
        if missing:
            msg = f"{self.path}: the store lacks the levels {listed(missing)} hPa; it has {listed(self.levels)}"
            raise StoreError(msg)
        return [self.levels.index(level) for level in levels]

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

    def fingerprint(self) -> str:
        """SHA-256 of what the store says about itself: metadata, hashes of all data as written, statistics."""
        digest = hashlib.sha256()
        for file in (self.path / "zarr.json", statistics_file(self.path, self.attributes)):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def verify(self) -> None:
        """Read every file and compare it with the hash that was recorded when it was written.

        Raises:
            StoreError: a file was changed, cut off or lost, or is none of the store's; names the first of them.
        """
        result = verify(self.path)
        if result.problems:
            first, others = result.problems[0], len(result.problems) - 1
            more = f", and {others} more (all: kit data verify {self.path})" if others else ""
            msg = (
                f"{self.path}: {first.file} {first.problem}{more}; the store was changed or damaged: build it again "
                "with `kit data build`"
            )
            raise StoreError(msg)


def write_store(
    dataset: xr.Dataset,
    out: Path,
    *,
    splits: Mapping[str, Period],
    attributes: Mapping[str, Any],
    weights: Weighting = "none",
    codec: Codec = "fast",
    settings: Mapping[str, Any] | None = None,
    how: ExecutionOptions | None = None,
) -> Store:
    """Write a dataset as a store, with statistics of its training states.

    The dataset may be lazy: one state at a time (or 32 MiB of small ones) is computed and held by each thread. Nothing
    is left at ``out`` if this fails for any reason, and nothing beside it unless ``settings`` are given.

    Args:
        dataset: dimensions ``time``, ``level``, ``latitude``, ``longitude`` in the store's order, or ``time``,
            ``level``, ``y``, ``x`` with latitudes and longitudes on ``(y, x)``; static variables prefixed
            ``static_``; attributes of the variables are kept.
        out: folder to be made.
        splits: at least ``train``; ``valid`` and ``test`` beside it.
        attributes: added to the root's attributes.
        weights: how points are weighted in the statistics.
        codec: how chunks are packed.
        settings: what was asked for, where that and ``attributes`` determine what the dataset holds: then an
            interrupted write is gone on with by the next one of the same settings, and several share the work.
        how: threads, cluster, and who is told how it goes.

    Raises:
        StoreExistsError: ``out`` exists.
        StoreError: the dataset is not of the store's form, a split holds none of its states, or an unfinished build of
            something else is in the way.
        OSError: the disk is full or the folder cannot be written.
    """
    write(
        dataset,
        Path(out),
        splits=splits,
        attributes=attributes,
        weights=weights,
        codec=codec,
        settings=settings,
        how=how,
    )
    return Store.open(out)


def _open_group(path: Path) -> zarr.Group:
    if not path.is_dir():
        msg = f"{path}: no such store; build one with `kit data build`, or name a folder that exists"
        raise StoreError(msg)
    try:
        if (path / "zarr.json").exists() and not (path / "zarr.json").is_file():
            # Opening a pipe waits for ever.
            msg = "its zarr.json is no file"
            raise OSError(msg)
        return zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zarr.errors.BaseZarrError) as error:
        msg = f"{path}: not a store: no readable Zarr v3 group ({error}); build one with `kit data build`"
        raise StoreError(msg) from error


def _dimensions(group: zarr.Group) -> list[tuple[str, tuple[str | None, ...]]]:
    arrays = ((name, array.metadata) for name, array in sorted(group.arrays()))
    named = ((name, tuple(getattr(metadata, "dimension_names", None) or ())) for name, metadata in arrays)
    return [(name, dims) for name, dims in named if name not in COORDINATES]


def _coordinates(
    group: zarr.Group, path: Path
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Times, npt.NDArray[np.float64]]:
    def values(name: str) -> npt.NDArray[Any]:
        array = group.get(name)
        if array is None and name == "level":
            return np.empty(0)
        if not isinstance(array, zarr.Array):
            msg = f"{path}: the store has no coordinate {name!r}; build it again with `kit data build`"
            raise StoreError(msg)
        with damage(f"{path}: {name}"):
            return np.asarray(array[:])

    latitude, longitude, levels = (values(n).astype(np.float64) for n in ("latitude", "longitude", "level"))
    times = values("time").astype("datetime64[s]")
    check_coordinates(path, latitude, longitude, times, levels)
    return latitude, longitude, times, levels
