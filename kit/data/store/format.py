"""Form of every store: names, coordinates and their order, periods, and its arrays before they hold any chunk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec

from kit.data.settings import Codec, Period
from kit.io.documents import parse_json
from kit.io.errors import StoreError

if TYPE_CHECKING:
    # For annotations alone: the checks read stores without xarray, which takes a second to import.
    import xarray as xr

STORE_FORMAT = 1
STATIC_PREFIX = "static_"
STATISTICS_FILE = "stats.json"
REPORT_FILE = "qa.json"
"""Report of the checks on a store, which is kept beside it; anyone may remove it."""
INTEGRITY = "integrity"
"""Attribute of a store that holds the hashes of its files."""
CLIMATOLOGY_FORMAT = 1
CLIMATOLOGY_KEY = "kit_climatology"
"""Attribute of a climatology of the kit's, which holds its format, as ``kit_store`` does in a store."""
Times = npt.NDArray[np.datetime64]
GRID = ("latitude", "longitude")
"""Dimensions of a grid of parallels and meridians, whose coordinates are vectors."""
CURVILINEAR = ("y", "x")
"""Dimensions of any other grid, whose coordinates are matrices."""
TO_REGULAR_GRID = "bring the data to a regular grid first, such as with `cdo remapbil,GRID IN OUT`"
"""What goes on where rows and columns have no order that a store could keep, for messages."""
TIME_CHUNK = 4096
"""Times in a chunk: more than there are, as a rule, so that later times are added without a change of its size."""
COORDINATES: dict[str, dict[str, str]] = {
    "time": {"standard_name": "time", "units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    "level": {"standard_name": "air_pressure", "units": "hPa", "positive": "down"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east"},
}


def grid_dimensions(data: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Name the rows and columns of data that carry ``latitude`` and ``longitude``: ``GRID`` or ``CURVILINEAR``."""
    return CURVILINEAR if data["latitude"].ndim == 2 else GRID


_BYTES = 4
_PACKED: Mapping[Codec, tuple[BytesBytesCodec, ...]] = {
    # Size against raw float32 and speed of one core, on states of 721 x 1440 x 13 (docs/decisions.md, 2026-11-22):
    # 0.48 to 0.65, written at 1 GB/s, read at 3 to 4. The bit shuffle packs regional fields not at all.
    "fast": (BloscCodec(typesize=_BYTES, cname="lz4", clevel=5, shuffle="shuffle"),),
    # 0.36 to 0.57, written at 0.1 to 0.2 GB/s, read at 1.6 to 3.3.
    "small": (BloscCodec(typesize=_BYTES, cname="zstd", clevel=5, shuffle="shuffle"),),
    "none": (),
}


def compressors(codec: Codec = "fast") -> tuple[BytesBytesCodec, ...]:
    """Return the compressors that ``create_array`` is given for a store's float32 chunks.

    All are codecs of the Zarr v3 specification. Each chunk ends with its CRC32C, which readers compare: without it a
    changed bit is mostly read as a changed value, whichever way the chunk is packed.
    """
    return (*_PACKED[codec], Crc32cCodec())


def pending_statistics(store: Path, attributes: Mapping[str, Any]) -> Path:
    """Return the path of the statistics that attributes name, while an append exchanges them for the earlier ones."""
    return store / f"stats-{str(attributes.get(INTEGRITY, {}).get('statistics'))[:16]}.json"


def statistics_file(store: Path, attributes: Mapping[str, Any]) -> Path:
    """Return the path of the statistics that attributes name: ``stats.json``, but for the end of an append."""
    pending = pending_statistics(store, attributes)
    return pending if pending.exists() else store / STATISTICS_FILE


def period_indices(times: Times, period: Period) -> npt.NDArray[np.int64]:
    """Find the indices of the times inside a period, ends included."""
    start, end = (np.datetime64(moment.replace(tzinfo=None), "s") for moment in (period.start, period.end))
    return np.flatnonzero((times >= start) & (times <= end))


def check_coordinates(
    where: object,
    latitude: npt.NDArray[np.float64],
    longitude: npt.NDArray[np.float64],
    times: Times,
    levels: npt.NDArray[np.float64],
    remedy: str = "build the store with `kit data build`, which puts coordinates in order",
) -> None:
    """Check the order that upstream's ``Metadata`` and every reader rely on.

    Args:
        where: the store, for messages.
        latitude: [H], or [H, W] of a curvilinear grid.
        longitude: [W], or [H, W].
        times: [T].
        levels: [C].
        remedy: what goes on, for messages.

    Raises:
        StoreError: names the coordinate, the first offending pair and the remedy.
    """
    if latitude.ndim == longitude.ndim == 2:
        _matrices_in_order(where, latitude, longitude, remedy)
    else:
        _in_order(where, "latitude", -latitude, latitude, "strictly decreasing", remedy)
        _in_order(where, "longitude", longitude, longitude, "strictly increasing", remedy)
    # Pairs, splits and the search for a time rely on it.
    _in_order(where, "time", times.astype("datetime64[s]").astype(np.int64), times, "strictly increasing", remedy)
    _in_order(where, "level", levels, levels, "strictly increasing", remedy)
    for name, values, inside, limits in (
        ("latitude", latitude, np.abs(latitude) <= 90, "[-90, 90]"),
        ("longitude", longitude, (longitude >= 0) & (longitude < 360), "[0, 360)"),
    ):
        if not inside.all():
            msg = f"{where}: {name} {values[~inside][0]:g} is outside {limits}; build the store again"
            raise StoreError(msg)


def _matrices_in_order(
    where: object, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64], remedy: str
) -> None:
    """Check that latitudes fall along every column, and longitudes rise along every row.

    Also in single precision, in which models take them: upstream asks this of the longitudes of a matrix, and of its
    latitudes only that neighbours differ (``aurora/batch.py``).
    """
    if latitude.shape != longitude.shape or not latitude.size:
        msg = f"{where}: latitude has the shape {latitude.shape}, longitude {longitude.shape}; both must be (y, x)"
        raise StoreError(msg)
    for name, values, axis, sign, order, run in (
        ("latitude", latitude, 0, -1, "strictly decrease along y", "column"),
        ("longitude", longitude, 1, 1, "strictly increase along x", "row"),
    ):
        steps = np.diff(values.astype(np.float32), axis=axis) * sign
        wrong = np.argwhere(~(steps > 0))
        if wrong.size:
            first, second = wrong[0], wrong[0].copy()
            second[axis] += 1
            msg = (
                f"{where}: {name} must {order}, but in {run} {first[1 - axis]} {values[tuple(first)]:.7g} is followed "
                f"by {values[tuple(second)]:.7g} (in single precision, as models take them); {remedy}"
            )
            raise StoreError(msg)


def _in_order(
    where: object, name: str, ranks: npt.NDArray[Any], values: npt.NDArray[Any], order: str, remedy: str
) -> None:
    if ranks.ndim != 1:
        msg = f"{where}: {name} has the shape {ranks.shape}, one dimension expected; regrid the data"
        raise StoreError(msg)
    # Not greater, rather than less or equal: a coordinate that is NaN is out of order, too.
    wrong = np.flatnonzero(~(np.diff(ranks) > 0))
    if wrong.size:
        first = int(wrong[0])
        msg = f"{where}: {name} must be {order}, but {values[first]} is followed by {values[first + 1]}; {remedy}"
        raise StoreError(msg)


def listed(values: Sequence[float]) -> str:
    """Write numbers for a message."""
    return ", ".join(f"{value:g}" for value in values)


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert attributes to what JSON knows; NumPy scalars become numbers, anything else its text."""

    def convert(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)

    plain: dict[str, Any] = parse_json(json.dumps(dict(attributes), default=convert))
    return plain


def times_of(dataset: xr.Dataset) -> Times:
    """Return the times of a dataset, ``datetime64[s]``."""
    return dataset["time"].values.astype("datetime64[s]")


def coordinate_values(dataset: xr.Dataset) -> dict[str, npt.NDArray[Any]]:
    """Convert coordinates to the store's types: times to seconds since 1970, the rest to double precision."""
    values: dict[str, npt.NDArray[Any]] = {"time": times_of(dataset).astype(np.int64)}
    for name in ("level", "latitude", "longitude"):
        if name in dataset.coords:
            values[name] = dataset[name].values.astype(np.float64)
    return values


def check_dataset(dataset: xr.Dataset, out: Path) -> None:
    """Check that a dataset has the form of a store.

    Raises:
        StoreError: it has not; names what is other.
    """
    for name in ("time", "latitude", "longitude"):
        if name not in dataset.coords:
            known = ", ".join(sorted(map(str, dataset.coords)))
            msg = f"{out}: the dataset to be written has no coordinate {name!r}; it has {known}"
            raise StoreError(msg)
    grid = grid_dimensions(dataset)
    for name in ("latitude", "longitude"):
        if grid == CURVILINEAR and dataset[name].dims != grid:
            msg = f"{out}: {name} has the dimensions {dataset[name].dims}, expected {grid}"
            raise StoreError(msg)
    for key, array in dataset.data_vars.items():
        allowed: tuple[tuple[str, ...], ...] = (("time", *grid), ("time", "level", *grid))
        if str(key).startswith(STATIC_PREFIX):
            allowed = (grid,)
        if array.dims not in allowed:
            msg = f"{out}: {key} has the dimensions {array.dims}, expected {' or '.join(map(str, allowed))}"
            raise StoreError(msg)
    if not any("time" in array.dims for array in dataset.data_vars.values()):
        msg = f"{out}: nothing to write: no variable has a time"
        raise StoreError(msg)
    values = coordinate_values(dataset)
    levels = values.get("level", np.empty(0))
    remedy = "correct the data"
    if grid == CURVILINEAR:
        # Fields of a build have been turned to this order, as far as their grid has it.
        remedy = f"take a part of the grid where it does with --region NORTH,WEST,SOUTH,EAST, or {TO_REGULAR_GRID}"
    check_coordinates(out, values["latitude"], values["longitude"], times_of(dataset), levels, remedy)


def check_splits(times: Times, splits: Mapping[str, Period], out: Path) -> None:
    """Check that there is a training split, and that every split holds a state.

    Raises:
        StoreError: one of the two.
    """
    if "train" not in splits:
        msg = f"{out}: a store needs a training split, got {sorted(splits)}; give `train` as START/END"
        raise StoreError(msg)
    for name, period in splits.items():
        if not period_indices(times, period).size:
            msg = (
                f"{out}: no state falls in {name} = {period}; "
                f"the data's {len(times)} states run from {times[0]} to {times[-1]}"
            )
            raise StoreError(msg)


def make_skeleton(dataset: xr.Dataset, folder: Path, codec: Codec) -> None:
    """Make a group with the arrays of a dataset, and write its coordinates; no chunk of a variable is written."""
    root = zarr.create_group(folder, zarr_format=3)
    for name, values in coordinate_values(dataset).items():
        chunks = (TIME_CHUNK,) if name == "time" else values.shape
        root.create_array(
            name,
            data=values,
            chunks=chunks,
            dimension_names=tuple(map(str, dataset[name].dims)),
            attributes=dict(COORDINATES[name]),
            # A chunk of nothing but the fill value is written too, so that a lost chunk cannot pass for one.
            config={"write_empty_chunks": True},
        )
    for key, array in dataset.data_vars.items():
        chunks, attributes = array.shape, plain_attributes(array.attrs)
        if "time" in array.dims:
            chunks = (1, *array.shape[1:])
        if grid_dimensions(array) == CURVILINEAR:
            # CF asks it of a field whose coordinates are no dimensions of it (section 5).
            attributes["coordinates"] = "latitude longitude"
        root.create_array(
            str(key),
            shape=array.shape,
            chunks=chunks,
            dtype="float32",
            fill_value=float("nan"),
            compressors=compressors(codec),
            dimension_names=tuple(map(str, array.dims)),
            attributes=attributes,
        )


def chunk_file(name: str, dimensions: int, index: int | None) -> str:
    """Return the path of a state's chunk in a store, or of the one chunk of a static variable.

    Args:
        name: Name of the array.
        dimensions: Number of its dimensions, of which the first is time where there is an index.
        index: Index of the state; None for a static variable.
    """
    return f"{name}/c/{index or 0}" + "/0" * (dimensions - 1)


def consolidate(folder: Path) -> None:
    """Put all metadata of a group into one file."""
    # Zarr warns, as version 3 of its specification does not have it yet.
    with warnings.catch_warnings():
        # All metadata in one file: readers need not list the folder, where stats.json is a stranger.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(zarr.storage.LocalStore(folder), zarr_format=3)
