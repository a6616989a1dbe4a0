"""The store under examination, opened without trusting it.

``Store.open`` refuses a store that is out of order; here it is opened all the same, so that everything that is
wrong with it can be said at once.

Dimensions: T time, C level, H latitude, W longitude.
"""

import itertools
import math
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors

from kit.checks.results import Severity
from kit.data import variables
from kit.data.statistics import StoreStatistics, VariableStatistics, channel_key, point_weights
from kit.data.store.format import CURVILINEAR, GRID, STATIC_PREFIX, STATISTICS_FILE, period_indices
from kit.data.zarr_guard import open_group
from kit.io.errors import StoreError

Array = npt.NDArray[Any]

DIMENSIONS: dict[variables.Kind, tuple[str, ...]] = {
    "surface": ("time", "latitude", "longitude"),
    "atmospheric": ("time", "level", "latitude", "longitude"),
    "static": ("latitude", "longitude"),
}
"""Dimensions of each kind of variable in a store of a regular grid; on any other the last two are ``CURVILINEAR``."""

READ_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, MemoryError,
    zarr.errors.BaseZarrError,
)  # fmt: skip
"""What a damaged chunk, a foreign codec or a broken description raises."""

_CHUNKS = 10**8
"""More than any store has: a century of hours, a hundred variables."""


@dataclass(frozen=True)
class Position:
    """Indices into a variable; None where it has no such dimension, or all of it is meant."""

    time: int | None = None
    level: int | None = None
    row: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class Channel:
    """One variable of the store that has the layout of its kind."""

    name: str
    """Under its name in the store: static variables with their prefix."""
    kind: variables.Kind
    array: zarr.Array[Any]
    folder: Path
    """Of its chunks."""

    @property
    def known(self) -> variables.Variable | None:
        """The table's entry, if it has one."""
        name = self.name.removeprefix(STATIC_PREFIX) if self.kind == "static" else self.name
        return variables.lookup(name, self.kind)

    @property
    def may_be_zero(self) -> bool:
        """Whether it may be zero everywhere at times, as rain is in a dry hour; most of its values are then small."""
        return self.known is not None and self.known.non_negative

    @property
    def accumulated(self) -> bool:
        """Whether the values belong to the hours before their time stamps."""
        return self.kind == "surface" and self.known is not None and self.known.accumulated

    @property
    def units(self) -> str | None:
        """As the store has them; None where it says nothing."""
        units = self.array.attrs.get("units")
        return None if units is None else str(units)

    @property
    def window_hours(self) -> float | None:
        """Hours that an accumulated variable is accumulated over; None where the store does not say."""
        hours = self.array.attrs.get("accumulation_hours")
        return float(hours) if isinstance(hours, int | float) else None

    @property
    def lead_hours(self) -> list[float]:
        """Distinct leads of the states, in hours, 0 for analyses; empty where the store does not say."""
        stated = self.array.attrs.get("lead_hours")
        leads = stated if isinstance(stated, list) else [stated]
        return sorted({float(lead) for lead in leads if isinstance(lead, int | float)})

    @property
    def meaning(self) -> dict[str, Any]:
        """What the values are of, as the store states it: leads, window, and CF's cell methods."""
        keys = ("lead_hours", "accumulation_hours", "averaging_hours", "cell_methods")
        return {key: self.array.attrs.get(key) for key in keys}

    @property
    def states(self) -> int:
        """Number of time steps; a static variable has one."""
        return 1 if self.kind == "static" else int(self.array.shape[0])

    def read(self, time: int) -> npt.NDArray[np.float32]:
        """Read one state, shape [C, H, W] with C = 1 where there are no levels.

        Raises:
            OSError: a chunk of it is gone, or is no file; and whatever else ``READ_ERRORS`` names.
        """
        check_chunks(self.folder, self.array, None if self.kind == "static" else time)
        values = self.array[... if self.kind == "static" else time]
        # Float64 beyond float32's range becomes infinite, which a check reports: numpy need not warn of it too.
        with np.errstate(over="ignore"):
            field = np.asarray(values, dtype=np.float32)
        return field if self.kind == "atmospheric" else field[None]


@dataclass(frozen=True)
class StoreReader:
    """A store, opened for examination."""

    path: Path
    attributes: Mapping[str, Any]
    coordinates: Mapping[str, Array]
    """Values of ``time`` (datetime64[s]), ``level``, ``latitude`` and ``longitude``, as far as they can be used."""
    channels: tuple[Channel, ...]
    misfits: Mapping[str, tuple[str, Severity]]
    """What has not the layout of a store, by name: why, and how bad that is."""
    statistics: StoreStatistics | None
    statistics_error: str

    def keys(self, channel: Channel) -> list[str]:
        """List the names of a variable's statistics, one for each level."""
        if channel.kind != "atmospheric":
            return [channel.name]
        return [channel_key(channel.name, level) for level in self.coordinates["level"]]

    def statistics_of(self, channel: Channel) -> list[VariableStatistics | None]:
        """Return the statistics of each level of a variable; None for one that the store has none of."""
        known = {} if self.statistics is None else self.statistics.variables
        return [known.get(key) for key in self.keys(channel)]

    @property
    def training(self) -> frozenset[int]:
        """Indices of the states that the statistics are made of."""
        if self.statistics is None or "time" not in self.coordinates:
            return frozenset()
        return frozenset(period_indices(self.coordinates["time"], self.statistics.train).tolist())

    @property
    def weights(self) -> Array | None:
        """Weights of the points in the statistics; None where all weigh 1, or where the grid's areas are not known."""
        if self.statistics is None or self.statistics.weights == "none" or not self.coordinates.keys() >= set(GRID):
            return None
        try:
            return point_weights(self.statistics.weights, self.coordinates["latitude"], self.coordinates["longitude"])
        except ValueError:
            # A check of its own says what is wrong with the latitudes.
            return None

    @property
    def unweighable(self) -> bool:
        """Whether the statistics are weighted and the weights cannot be computed."""
        return self.statistics is not None and self.statistics.weights != "none" and self.weights is None

    @property
    def curvilinear(self) -> bool:
        """Whether latitudes and longitudes are matrices."""
        return self.coordinates.get("latitude", np.empty(0)).ndim == 2

    def where(self, channel: Channel, position: Position) -> str:
        """Write a position as a reader would look for it: ``2020-01-01T06:00, 500 hPa, 45 N, 3.25 E``."""
        parts = []
        dimensions = DIMENSIONS[channel.kind]
        if "time" in dimensions and position.time is not None:
            parts.append(str(self.coordinates["time"][position.time].astype("datetime64[m]")))
        if "level" in dimensions and position.level is not None:
            parts.append(f"{self.coordinates['level'][position.level]:g} hPa")
        # Every position with a row has a column; on a curvilinear grid a coordinate takes both.
        if position.row is not None:
            point = (position.row, position.column)
            latitude = self.coordinates["latitude"][point if self.curvilinear else position.row]
            longitude = self.coordinates["longitude"][point if self.curvilinear else position.column]
            parts.append(f"{abs(latitude):g} {'N' if latitude >= 0 else 'S'}")
            parts.append(f"{longitude:g} E")
        return ", ".join(parts) or "everywhere"


def open_store_reader(path: Path) -> StoreReader:
    """Open a store for examination.

    Raises:
        StoreError: there is no such folder, or it is no readable Zarr v3 group.
    """
    path = Path(path)
    attributes, arrays = _open_group(path)
    coordinates, misfits = _coordinates(arrays, path)
    channels = []
    for name, array in arrays.items():
        if name in coordinates or name in misfits:
            continue
        # A variable is judged by the coordinates that can be used, so that these are read before.
        kind, complaint = _layout(name, array, coordinates)
        if kind is not None and not complaint:
            channels.append(Channel(name, kind, array, path / name))
        else:
            # Left-overs without a grid, such as a scalar coordinate, are in nobody's way.
            misfits[name] = (complaint, "error" if array.ndim > 1 else "warning")
    statistics, error = None, ""
    try:
        if (path / STATISTICS_FILE).exists():
            check_file(path / STATISTICS_FILE)
        statistics = StoreStatistics.load(path / STATISTICS_FILE)
    except (StoreError, OSError) as failure:
        error = str(failure)
    return StoreReader(path, attributes, coordinates, tuple(channels), misfits, statistics, error)


def _open_group(path: Path) -> tuple[dict[str, Any], dict[str, zarr.Array[Any]]]:
    """Return attributes and arrays of a Zarr v3 group."""
    if not path.is_dir():
        msg = f"{path}: no such store; build one with `kit data build`, or name a folder that exists"
        raise StoreError(msg)
    try:
        check_file(path / "zarr.json")
        group = open_group(path)
        if group.metadata.zarr_format == 3:
            with warnings.catch_warnings():
                # Without consolidated metadata the folder is listed, and stats.json is a stranger in it.
                warnings.filterwarnings("ignore", message="Object at .* is not recognized")
                return dict(group.attrs), dict(sorted(group.arrays()))
        reason = f"its format is {group.metadata.zarr_format}"
    except StoreError:
        raise
    except READ_ERRORS as error:
        reason = str(error)
    msg = f"{path}: not a store: no readable Zarr v3 group ({reason}); build one with `kit data build`"
    raise StoreError(msg)


def _dimensions(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    return tuple(getattr(array.metadata, "dimension_names", None) or ())


def _coordinates(
    arrays: Mapping[str, zarr.Array[Any]], path: Path
) -> tuple[dict[str, Array], dict[str, tuple[str, Severity]]]:
    """Read the coordinates that a store has, and say what is wrong with the others."""
    coordinates: dict[str, Array] = {}
    misfits: dict[str, tuple[str, Severity]] = {}
    for name in DIMENSIONS["atmospheric"]:
        if name not in arrays:
            continue
        try:
            coordinates[name] = _coordinate(name, arrays[name], path / name)
        except READ_ERRORS as error:
            misfits[name] = (str(error) or type(error).__name__, "error")
    shapes = {name: coordinates[name].shape for name in GRID if name in coordinates}
    distinct = set(shapes.values())
    # Vectors may differ in length; a matrix has a partner of its own shape, or it places no point.
    if len(distinct) > 1 and max(map(len, distinct)) == 2:
        both = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        for name in shapes:
            del coordinates[name]
            misfits[name] = (f"the shapes are {both}; both must be vectors, or matrices of one shape", "error")
    return coordinates, misfits


def _coordinate(name: str, array: zarr.Array[Any], folder: Path) -> Array:
    """Read a coordinate; ValueError says why it cannot be used."""
    is_matrix = name in GRID and _dimensions(array) == CURVILINEAR
    kinds = "i" if name == "time" else "iuf"
    if array.ndim != 1 + is_matrix or 0 in array.shape or array.dtype.kind not in kinds:
        msg = f"its shape is {array.shape} and its type {array.dtype}; one dimension of numbers expected"
        raise ValueError(msg)
    units = str(array.attrs.get("units", ""))
    if name == "time" and not units.startswith("seconds since 1970-01-01"):
        msg = f"its units are {units!r}; 'seconds since 1970-01-01' expected"
        raise ValueError(msg)
    if array.size > 1:
        # A single zero is not written at all.
        check_chunks(folder, array)
    values = np.asarray(array[...])
    return values.astype("datetime64[s]" if name == "time" else np.float64)


def _layout(name: str, array: zarr.Array[Any], coordinates: Mapping[str, Array]) -> tuple[variables.Kind | None, str]:
    """Find a variable's kind by its dimensions, and say what keeps it from being read as one."""
    layouts = dict(DIMENSIONS)
    if coordinates.get("latitude", np.empty(0)).ndim == 2:
        for kind, names in DIMENSIONS.items():
            layouts[kind] = (*names[:-2], *CURVILINEAR)
    dimensions = _dimensions(array)
    kinds: dict[tuple[str | None, ...], variables.Kind] = {names: kind for kind, names in layouts.items()}
    found = kinds.get(dimensions)
    if found is None or (found == "static") != name.startswith(STATIC_PREFIX):
        expected = "; or ".join(map(", ".join, layouts.values()))
        complaint = f"its dimensions are {dimensions}, expected {expected}"
        return None, f"{complaint} (static ones, and no others, are named {STATIC_PREFIX}...)"
    # Whoever reads it converts to float32, whatever number it is.
    if array.dtype.kind not in "iuf":
        return found, f"its type is {array.dtype}, a number expected"
    if 0 in array.chunks:
        return found, f"its chunks have the shape {array.chunks}, which holds nothing"
    missing = [dimension for dimension in DIMENSIONS[found] if dimension not in coordinates]
    if missing:
        return found, f"the store has no usable coordinate {', '.join(missing)}"
    leading = [len(coordinates[dimension]) for dimension in DIMENSIONS[found][:-2]]
    shape = (*leading, coordinates["latitude"].shape[0], coordinates["longitude"].shape[-1])
    return found, "" if array.shape == shape else f"its shape is {array.shape}, the coordinates have {shape}"


# The files of a store: whether what should be a file is one, before anything reads it.
#
# Opening a pipe waits for ever, and a device such as ``/dev/zero`` has no end.


def check_file(file: Path) -> None:
    """Refuse what is no regular file; links are followed.

    Raises:
        OSError: it is absent, or something else.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        msg = f"{file} is gone"
        raise FileNotFoundError(msg) from None
    if not stat.S_ISREG(mode):
        msg = f"{file} is no file"
        raise OSError(msg)


def chunk_files(folder: Path, array: zarr.Array[Any], time: int | None = None) -> Iterator[Path]:
    """Yield the files of an array's chunks (of its shards, where it has some).

    Args:
        folder: Folder of the array.
        array: A variable or a coordinate.
        time: Index along the first dimension, for the files of one state alone.

    Raises:
        ValueError: the array's description cannot be.
    """
    grid = array.shards or array.chunks
    ranges = [range(-(-size // length)) for size, length in zip(array.shape, grid, strict=True)]
    if time is not None:
        ranges[0] = range(time // grid[0], time // grid[0] + 1)
    # Before anything walks them: a spoilt description may claim more chunks than can ever be counted.
    if (count := math.prod(map(len, ranges))) > _CHUNKS:
        msg = f"it claims {count} chunks"
        raise ValueError(msg)
    return (folder / array.metadata.encode_chunk_key(index) for index in itertools.product(*ranges))


def check_chunks(folder: Path, array: zarr.Array[Any], time: int | None = None) -> None:
    """Check that chunks are there, which Zarr would take for missing values, and are files.

    Raises:
        OSError: names the file.
        ValueError: the array's description cannot be.
    """
    for file in chunk_files(folder, array, time):
        check_file(file)
