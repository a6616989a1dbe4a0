"""The small Zarr that sums are kept in, so that scores are added to and no forecast is made again.

``sums`` has the dimensions start, lead, forecast, channel, region, moment; what was never summed up is NaN. Attributes
hold the names along its dimensions, and of what the sums are: which checkpoint, which data, in which precision. Sums of
anything else lie in a Zarr of their own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from kit.data.store.format import compressors, consolidate
from kit.data.zarr_guard import open_group
from kit.io.atomic import exchange, move, publish, remove_tree, scratch, sync_tree
from kit.io.errors import SettingsError
from kit.io.hashes import sha256_of_text
from kit.verification.sums import MOMENTS

FORMAT = 1
SUMS = "sums"
DIMENSIONS = ("start", "lead", "forecast", "channel", "region", "moment")
_NAMES = "names"
"""Attribute that holds the coordinates that are text."""
_NUMBERS: Mapping[str, Mapping[str, Any]] = {
    "start": {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    "lead": {"units": "hours"},
}
"""Coordinates that are numbers, with their attributes."""


@dataclass(frozen=True)
class Axes:
    """What sums are of.

    Attributes:
        starts: Initial times, UTC, in order.
        leads: Lead times in hours, in order.
        forecasts: Names of forecasts: ``model``, ``persistence``, ``climatology``, ``base``.
        channels: Variables at the surface, and on each level.
        regions: Names of regions.
    """

    starts: Sequence[datetime]
    leads: Sequence[float]
    forecasts: Sequence[str]
    channels: Sequence[str]
    regions: Sequence[str]

    def coordinates(self) -> dict[str, npt.NDArray[Any]]:
        """Return the values of each dimension, as xarray reads them."""
        return {
            "start": starts_of(self.starts),
            "lead": np.asarray(self.leads, dtype=np.float64),
            "forecast": np.asarray(self.forecasts, dtype=str),
            "channel": np.asarray(self.channels, dtype=str),
            "region": np.asarray(self.regions, dtype=str),
            "moment": np.asarray(MOMENTS, dtype=str),
        }


def starts_of(times: Sequence[datetime]) -> npt.NDArray[np.datetime64]:
    """Return initial times as an archive has them: in UTC, which NumPy does not name."""
    return np.array([time.astimezone(UTC).replace(tzinfo=None) for time in times], dtype="datetime64[s]")


def archive_name(made_of: Mapping[str, Any]) -> str:
    """Name the Zarr of what was scored: by the store, and a hash of everything."""
    digest = sha256_of_text(json.dumps(made_of, sort_keys=True))[:12]
    return f"{made_of['store_name']}-{digest}.zarr"


@dataclass(frozen=True)
class Archive:
    """Sums that are kept, read a lead at a time.

    Attributes:
        path: Zarr that holds them.
        attributes: What was scored, and on what.
        coordinates: Values of each dimension.
        array: Sums, by the dimensions in order.
    """

    path: Path
    attributes: Mapping[str, Any]
    coordinates: Mapping[str, npt.NDArray[Any]]
    array: "zarr.Array[Any]"

    def of_lead(self, lead: float, starts: npt.NDArray[np.datetime64] | None = None) -> xr.DataArray:
        """Read the sums of one lead, of all start dates or of some: start, forecast, channel, region, moment."""
        position = self.coordinates["lead"].tolist().index(lead)
        held = np.asarray(self.array[:, position])
        coordinates = {name: self.coordinates[name] for name in DIMENSIONS if name != "lead"}
        sums = xr.DataArray(held, dims=tuple(coordinates), coords=coordinates)
        if starts is not None:
            sums = sums.sel(start=starts)
        return sums


def read_archive(path: Path) -> Archive:
    """Open sums.

    Raises:
        SettingsError: it is no archive of sums, or one of a newer kit.
    """
    # Not by xarray: it would import every package that can open files, eccodes among them with its old SQLite.
    try:
        group = open_group(path)
        attributes: dict[str, Any] = dict(group.attrs)
        array = group[SUMS]
        coordinates = {name: np.asarray(group[name]) for name in _NUMBERS}
        coordinates |= {name: np.asarray(values, dtype=str) for name, values in attributes[_NAMES].items()}
        sizes = tuple(len(coordinates[name]) for name in DIMENSIONS)
        complete = isinstance(array, zarr.Array) and array.shape == sizes
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        msg = f"{path}: expected the sums that `kit evaluate` keeps ({error})"
        raise SettingsError(msg) from error
    if attributes.get("format") != FORMAT or not complete:
        msg = f"{path}: expected sums of format {FORMAT}, found {attributes.get('format')}; evaluate with this kit"
        raise SettingsError(msg)
    assert isinstance(array, zarr.Array)
    coordinates["start"] = coordinates["start"].astype("datetime64[s]")
    return Archive(path, attributes, coordinates, array)


class ArchiveWriter:
    """Writer of sums into an open archive."""

    def __init__(self, array: "zarr.Array[Any]", coordinates: Mapping[str, npt.NDArray[Any]]) -> None:
        self._array = array
        self._positions: dict[str, dict[Any, int]] = {}
        for name, values in coordinates.items():
            self._positions[name] = {value: position for position, value in enumerate(values.tolist())}

    def write(
        self,
        start: datetime,
        forecast: str,
        sums: Mapping[float, Mapping[str, npt.NDArray[np.float64]]],
        regions: Sequence[str],
    ) -> None:
        """Write the sums of one start date's forecast.

        Args:
            start: Initial time, UTC.
            forecast: Name of the forecast.
            sums: Sums by lead in hours and channel, [R, M].
            regions: Names of the R regions.
        """
        place = (
            self._positions["start"][start.astimezone(UTC).replace(tzinfo=None)],
            slice(None),
            self._positions["forecast"][forecast],
        )
        held = np.asarray(self._array[place])
        rows = [self._positions["region"][name] for name in regions]
        for lead, channels in sums.items():
            for channel, values in channels.items():
                held[self._positions["lead"][float(lead)], self._positions["channel"][channel], rows] = values
        self._array[place] = held


@contextmanager
def archiving(path: Path, axes: Axes, attributes: Mapping[str, Any]) -> Iterator[ArchiveWriter]:
    """Open an archive for more sums; what it holds stays, and it is exchanged as a whole when the body is done.

    Args:
        path: Zarr to make or to add to.
        axes: What sums will be of.
        attributes: Attributes of the archive.

    Raises:
        SettingsError: something else is there.
        OSError: the disk is full, or refuses; what was there is unchanged.
    """
    earlier = read_archive(path) if path.exists() else None
    coordinates = axes.coordinates()
    if earlier is not None:
        for name in ("start", "lead", "forecast", "channel", "region"):
            coordinates[name] = _joined(earlier.coordinates[name], coordinates[name])
    with scratch(path) as part:
        array = _create(part, coordinates, {"format": FORMAT, **attributes})
        if earlier is not None:
            _copy(earlier, array, coordinates)
        yield ArchiveWriter(array, coordinates)
        consolidate(part)
        if not path.exists():
            publish(part, path)
            return
        sync_tree(part)
        if not exchange(part, path):
            # Only where the file system cannot exchange names is there a moment without either.
            remove_tree(path)
            move(part, path)


def _joined(held: npt.NDArray[Any], more: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Join coordinates: numbers and times in order, names in the order in which they came."""
    if held.dtype.kind in "fM":
        return np.union1d(held.astype(more.dtype), more)
    return np.array([*held, *(name for name in more if name not in held)], dtype=str)


def _create(
    folder: Path, coordinates: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]
) -> "zarr.Array[Any]":
    # Zarr's third version has no array of text that every reader knows.
    names = {name: values.tolist() for name, values in coordinates.items() if name not in _NUMBERS}
    root = zarr.create_group(folder, zarr_format=3, attributes={_NAMES: names, **attributes})
    for name, described in _NUMBERS.items():
        values = coordinates[name]
        held = values.astype(np.int64) if values.dtype.kind == "M" else values
        root.create_array(name, data=held, chunks=held.shape, dimension_names=(name,), attributes=dict(described))
    shape = tuple(len(coordinates[name]) for name in DIMENSIONS)
    return root.create_array(
        SUMS,
        shape=shape,
        # What one start date's forecast writes, so that no chunk is ever shared.
        chunks=(1, shape[1], 1, *shape[3:]),
        dtype="float64",
        fill_value=float("nan"),
        dimension_names=DIMENSIONS,
        compressors=compressors(),
    )


def _copy(earlier: Archive, array: "zarr.Array[Any]", coordinates: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copy earlier sums to their places, one start date at a time."""
    places = []
    for name in DIMENSIONS[1:]:
        position = {value: number for number, value in enumerate(coordinates[name].tolist())}
        places.append([position[value] for value in earlier.coordinates[name].tolist()])
    starts = coordinates["start"].tolist()
    for number, start in enumerate(earlier.coordinates["start"].tolist()):
        held = np.full(array.shape[1:], np.nan)
        held[np.ix_(*places)] = earlier.array[number]
        array[starts.index(start)] = held
