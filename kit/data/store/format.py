"""What every store looks like: names, order of coordinates, periods as positions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec

from kit.data.settings import Codec, Period
from kit.io.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CURVILINEAR",
    "GRID",
    "INTEGRITY",
    "STATIC_PREFIX",
    "REPORT_FILE",
    "STATISTICS_FILE",
    "STORE_FORMAT",
    "Times",
    "check_coordinates",
    "compressors",
    "grid_dimensions",
    "listed",
    "pending_statistics",
    "period_indices",
    "plain_attributes",
    "statistics_file",
]

STORE_FORMAT = 1
STATIC_PREFIX = "static_"
STATISTICS_FILE = "stats.json"
REPORT_FILE = "qa.json"
"""Report of the checks on a store, which is kept beside it; anyone may remove it."""
INTEGRITY = "integrity"
"""Attribute of a store that holds the hashes of its files."""
Times = npt.NDArray[np.datetime64]
GRID = ("latitude", "longitude")
"""Dimensions of a grid of parallels and meridians, whose coordinates are vectors."""
CURVILINEAR = ("y", "x")
"""Dimensions of any other grid, whose coordinates are matrices."""


def grid_dimensions(data: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Rows and columns of data that carry ``latitude`` and ``longitude``: ``GRID`` or ``CURVILINEAR``."""
    return CURVILINEAR if data["latitude"].ndim == 2 else GRID


_BYTES = 4
_PACKED: Mapping[Codec, tuple[BytesBytesCodec, ...]] = {
    "fast": (BloscCodec(typesize=_BYTES, cname="lz4", clevel=5, shuffle="shuffle"),),
    "small": (BloscCodec(typesize=_BYTES, cname="zstd", clevel=5, shuffle="shuffle"),),
    "none": (),
}


def compressors(codec: Codec = "fast") -> tuple[BytesBytesCodec, ...]:
    """What ``create_array`` is given as compressors for a store's float32 chunks.

    All are codecs of the Zarr v3 specification. Each chunk ends with its CRC32C, which readers compare: without it a
    changed bit is mostly read as a changed value, whichever way the chunk is packed.
    """
    return (*_PACKED[codec], Crc32cCodec())


def pending_statistics(store: Path, attributes: Mapping[str, Any]) -> Path:
    """Where the statistics that attributes speak of lie while an append exchanges them for the earlier ones."""
    return store / f"stats-{str(attributes.get(INTEGRITY, {}).get('statistics'))[:16]}.json"


def statistics_file(store: Path, attributes: Mapping[str, Any]) -> Path:
    """Where the statistics that attributes speak of lie: in ``stats.json``, but for the end of an append."""
    pending = pending_statistics(store, attributes)
    return pending if pending.exists() else store / STATISTICS_FILE


def period_indices(times: Times, period: Period) -> npt.NDArray[np.int64]:
    """Positions of the times inside a period, ends included."""
    start, end = (np.datetime64(moment.replace(tzinfo=None), "s") for moment in (period.start, period.end))
    return np.flatnonzero((times >= start) & (times <= end))


def check_coordinates(
    where: object,
    latitude: npt.NDArray[np.float64],
    longitude: npt.NDArray[np.float64],
    times: Times,
    levels: npt.NDArray[np.float64],
) -> None:
    """Check the order that upstream's ``Metadata`` and every reader rely on.

    Args:
        where: the store, for messages.
        latitude: [H], or [H, W] of a curvilinear grid.
        longitude: [W], or [H, W].
        times: [T].
        levels: [C].

    Raises:
        StoreError: names the coordinate, the first offending pair and the remedy.
    """
    if latitude.ndim == longitude.ndim == 2:
        _matrices_in_order(where, latitude, longitude)
    else:
        _in_order(where, "latitude", -latitude, latitude, "strictly decreasing")
        _in_order(where, "longitude", longitude, longitude, "strictly increasing")
    _in_order(where, "time", times.astype("datetime64[s]").astype(np.int64), times, "strictly increasing")
    _in_order(where, "level", levels, levels, "strictly increasing")
    for name, values, inside in (
        ("latitude", latitude, np.abs(latitude) <= 90),
        ("longitude", longitude, (longitude >= 0) & (longitude < 360)),
    ):
        if not inside.all():
            limits = "[-90, 90]" if name == "latitude" else "[0, 360)"
            msg = f"{where}: {name} {values[~inside][0]:g} is outside {limits}; build the store again"
            raise StoreError(msg)


def _matrices_in_order(where: object, latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64]) -> None:
    """Latitudes fall along every column, longitudes rise along every row.

    Also in single precision, in which models take them: upstream asks this of the longitudes of a matrix, and of its
    latitudes only that neighbours differ (``aurora/batch.py``).
    """
    if latitude.shape != longitude.shape or not latitude.size:
        msg = f"{where}: latitude has the shape {latitude.shape}, longitude {longitude.shape}; both must be (y, x)"
        raise StoreError(msg)
    for name, values, axis, order, run in (
        ("latitude", latitude, 0, "strictly decrease along y", "column"),
        ("longitude", longitude, 1, "strictly increase along x", "row"),
    ):
        steps = np.diff(values.astype(np.float32), axis=axis) * (1 if axis else -1)
        wrong = np.argwhere(~(steps > 0))
        if wrong.size:
            row, column = map(int, wrong[0])
            after = values[row + 1 - axis, column + axis]
            msg = (
                f"{where}: {name} must {order}, but in {run} {column if axis == 0 else row} {values[row, column]:g} is "
                f"followed by {after:g}. Build the store with `kit data build`, which turns grids around; a grid that "
                "holds a pole or crosses Greenwich has no such order: crop it, or regrid it"
            )
            raise StoreError(msg)


def _in_order(where: object, name: str, ranks: npt.NDArray[Any], values: npt.NDArray[Any], order: str) -> None:
    if ranks.ndim != 1:
        msg = f"{where}: {name} has the shape {ranks.shape}, one dimension expected; regrid the data"
        raise StoreError(msg)
    wrong = np.flatnonzero(~(np.diff(ranks) > 0))
    if wrong.size:
        first = int(wrong[0])
        msg = (
            f"{where}: {name} must be {order}, but {values[first]} is followed by {values[first + 1]}; "
            "build the store with `kit data build`, which puts it in order"
        )
        raise StoreError(msg)


def listed(values: Sequence[float]) -> str:
    """Numbers as a reader wants them in a message."""
    return ", ".join(f"{value:g}" for value in values)


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON knows them; NumPy scalars become numbers, anything else its text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(attributes), default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
