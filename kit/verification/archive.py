"""The small Zarr that sums are kept in, so that scores are added to and no forecast is made again.

It holds an array for each kind of sums (``TABLES``); what was never summed up is NaN. Attributes hold the names along
dimensions, and of what the sums are: which checkpoint, which data, in which precision. Sums of anything else lie in a
Zarr of their own.
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
from kit.verification.ensemble_sums import MEMBER_MOMENTS, outcome_names
from kit.verification.spectra import MEMBER, TARGET
from kit.verification.sums import CLIMATOLOGY, MODEL, MOMENTS, PERSISTENCE

FORMAT = 2
_READ_FORMATS = (1, FORMAT)
"""The first held ``sums`` alone."""
SUMS, EVENTS, SPECTRA = "sums", "events", "spectra"
MEMBERS, RANKS, EXCEEDANCES = "members", "ranks", "exceedances"
"""Of ensembles: sums of members, ranks of what came among them, and members that reach thresholds."""
TABLES: Mapping[str, tuple[str, ...]] = {
    SUMS: ("start", "lead", "forecast", "channel", "region", "moment"),
    EVENTS: ("start", "lead", "forecast", "rain", "region", "event"),
    SPECTRA: ("start", "lead", "series", "field", "band", "wavenumber"),
    MEMBERS: ("start", "lead", "ensemble", "quantity", "region", "member_moment"),
    RANKS: ("start", "lead", "ensemble", "ranked", "region", "rank"),
    EXCEEDANCES: ("start", "lead", "ensemble", "exceedance", "region", "outcome"),
}
"""Dimensions of each array. Arrays of other lengths have dimensions of other names, so that xarray opens them all."""
_TYPES: Mapping[str, str] = {
    SUMS: "float64",
    EVENTS: "float64",
    SPECTRA: "float32",
    MEMBERS: "float64",
    RANKS: "float64",
    EXCEEDANCES: "float64",
}
_NAMES = "names"
"""Attribute that holds the coordinates that are text."""
_NUMBERS: Mapping[str, Mapping[str, Any]] = {
    "start": {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    "lead": {"units": "hours"},
    "wavenumber": {"units": "1"},
    "rank": {"units": "1"},
}
"""Coordinates that are numbers, with their attributes."""
_READ_AT_ONCE = 2**27
"""Bytes."""


@dataclass(frozen=True)
class Axes:
    """What sums are of.

    Attributes:
        starts: Initial times, UTC, in order.
        leads: Lead times in hours, in order.
        forecasts: Names of forecasts: ``model``, ``persistence``, ``climatology``, ``base``.
        channels: Variables at the surface, and on each level.
        regions: Names of regions.
        rain: Variables whose events are summed up.
        events: Names of sums of events.
        fields: Channels with spectra.
        bands: Bands of latitude with spectra.
        wavenumbers: Zonal wavenumbers, in order.
        members: Number of members of an ensemble; 0 of single forecasts.
        quantities: Channels whose members are summed up.
        ranked: Channels with ranks of what came among the members.
        exceedances: Thresholds that members are counted at.
    """

    starts: Sequence[datetime]
    leads: Sequence[float]
    forecasts: Sequence[str]
    channels: Sequence[str]
    regions: Sequence[str]
    rain: Sequence[str] = ()
    events: Sequence[str] = ()
    fields: Sequence[str] = ()
    bands: Sequence[str] = ()
    wavenumbers: Sequence[int] = ()
    members: int = 0
    quantities: Sequence[str] = ()
    ranked: Sequence[str] = ()
    exceedances: Sequence[str] = ()

    def coordinates(self) -> dict[str, npt.NDArray[Any]]:
        """Return the values of each dimension, as xarray reads them."""
        # Persistence is as rough as the state that it repeats, and climatology as smooth as a mean.
        series = [name for name in self.forecasts if name not in (PERSISTENCE, CLIMATOLOGY)]
        if self.members:
            series.append(MEMBER)
        texts: dict[str, Sequence[str]] = {
            "forecast": self.forecasts,
            "channel": self.channels,
            "region": self.regions,
            "moment": MOMENTS,
            "rain": self.rain,
            "event": self.events,
            "series": [*series, TARGET],
            "field": self.fields,
            "band": self.bands,
            "ensemble": [MODEL] if self.members else [],
            "quantity": self.quantities,
            "member_moment": MEMBER_MOMENTS if self.members else [],
            "ranked": self.ranked,
            "exceedance": self.exceedances,
            "outcome": outcome_names(self.members) if self.members else [],
        }
        return {
            "start": starts_of(self.starts),
            "lead": np.asarray(self.leads, dtype=np.float64),
            **{name: np.asarray(values, dtype=str) for name, values in texts.items()},
            "wavenumber": np.asarray(self.wavenumbers, dtype=np.int64),
            "rank": np.arange(self.members + 1 if self.members else 0),
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
    """Sums that are kept, read some leads at a time.

    Attributes:
        path: Zarr that holds them.
        attributes: What was scored, and on what.
        coordinates: Values of each dimension.
        arrays: Sums by table, by the dimensions in order.
    """

    path: Path
    attributes: Mapping[str, Any]
    coordinates: Mapping[str, npt.NDArray[Any]]
    arrays: "Mapping[str, zarr.Array[Any]]"

    def of_lead(self, lead: float, starts: npt.NDArray[np.datetime64] | None = None, table: str = SUMS) -> xr.DataArray:
        """Read the sums of one lead, of all start dates or of some, with the table's other dimensions."""
        position = self.coordinates["lead"].tolist().index(lead)
        sums = self._labelled(table, np.asarray(self.arrays[table][:, position]))
        if starts is not None:
            sums = sums.sel(start=starts)
        return sums

    def by_lead(self, table: str = SUMS) -> Iterator[tuple[float, xr.DataArray]]:
        """Read the sums of every lead, in order; nothing where the archive has no such table."""
        if table not in self.arrays:
            return
        array = self.arrays[table]
        leads = self.coordinates["lead"].tolist()
        # A chunk holds all leads: to read it for each of them would take as many times as long.
        together = max(1, _READ_AT_ONCE * len(leads) // max(1, array.nbytes))
        for first in range(0, len(leads), together):
            held = np.asarray(array[:, first : first + together])
            for position, lead in enumerate(leads[first : first + together]):
                yield lead, self._labelled(table, held[:, position])

    def _labelled(self, table: str, values: npt.NDArray[Any]) -> xr.DataArray:
        coordinates = {name: self.coordinates[name] for name in TABLES[table] if name != "lead"}
        return xr.DataArray(values, dims=tuple(coordinates), coords=coordinates)


def read_archive(path: Path) -> Archive:
    """Open sums.

    Raises:
        SettingsError: it is no archive of sums, or one of a newer kit.
    """
    # Not by xarray: it would import every package that can open files, eccodes among them with its old SQLite.
    try:
        group = open_group(path)
        attributes: dict[str, Any] = dict(group.attrs)
        coordinates: dict[str, npt.NDArray[Any]] = {}
        for name in _NUMBERS:
            coordinates[name] = np.asarray(group.get(name, []), dtype=np.float64)
        for name in {name for dimensions in TABLES.values() for name in dimensions} - _NUMBERS.keys():
            coordinates[name] = np.asarray(attributes[_NAMES].get(name, []), dtype=str)
        arrays: dict[str, zarr.Array[Any]] = {}
        complete = SUMS in group
        for table, dimensions in TABLES.items():
            array = group.get(table)
            sizes = tuple(len(coordinates[name]) for name in dimensions)
            if isinstance(array, zarr.Array) and array.shape == sizes:
                arrays[table] = array
            elif array is not None:
                complete = False
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        msg = f"{path}: expected the sums that `kit evaluate` keeps ({error})"
        raise SettingsError(msg) from error
    if attributes.get("format") not in _READ_FORMATS or not complete:
        msg = f"{path}: expected sums of format {FORMAT}, found {attributes.get('format')}; evaluate with this kit"
        raise SettingsError(msg)
    coordinates["start"] = coordinates["start"].astype(np.int64).astype("datetime64[s]")
    for name in ("wavenumber", "rank"):
        coordinates[name] = coordinates[name].astype(np.int64)
    return Archive(path, attributes, coordinates, arrays)


class ArchiveWriter:
    """Writer of sums into an open archive."""

    def __init__(
        self, arrays: "Mapping[str, zarr.Array[Any]]", coordinates: Mapping[str, npt.NDArray[Any]], axes: Axes
    ) -> None:
        self._arrays = arrays
        self._positions: dict[str, dict[Any, int]] = {}
        for name, values in coordinates.items():
            self._positions[name] = {value: position for position, value in enumerate(values.tolist())}
        # The archive may hold more than what is written now.
        self._own = {name: self._places(name, values.tolist()) for name, values in axes.coordinates().items()}

    def _places(self, dimension: str, values: Sequence[Any]) -> list[int]:
        return [self._positions[dimension][value] for value in values]

    def write(
        self,
        start: datetime,
        forecast: str,
        sums: Mapping[float, Mapping[str, npt.NDArray[np.float64]]],
        regions: Sequence[str],
        table: str = SUMS,
    ) -> None:
        """Write the sums of one start date's forecast.

        Args:
            start: Initial time, UTC.
            forecast: Name of the forecast; ``TARGET`` for the spectra of what came.
            sums: Sums by lead in hours and channel, [R, M]; spectra are [N, K].
            regions: Names of the R regions.
            table: One of ``TABLES``.
        """
        _, _, series, channel, row, column = TABLES[table]
        array = self._arrays[table]
        place = (
            self._positions["start"][start.astimezone(UTC).replace(tzinfo=None)],
            slice(None),
            self._positions[series][forecast],
        )
        held = np.asarray(array[place])
        rows = self._places(row, regions) if row == "region" else self._own[row]
        inner = np.ix_(rows, self._own[column])
        for lead, channels in sums.items():
            for name, values in channels.items():
                held[self._positions["lead"][float(lead)], self._positions[channel][name]][inner] = values
        array[place] = held


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
        for name, held in earlier.coordinates.items():
            coordinates[name] = _joined(held, coordinates[name])
    with scratch(path) as part:
        arrays = _create(part, coordinates, {"format": FORMAT, **attributes})
        if earlier is not None:
            for table in earlier.arrays:
                _copy(earlier, table, arrays[table], coordinates)
        yield ArchiveWriter(arrays, coordinates, axes)
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
    if held.dtype.kind in "fiM":
        return np.union1d(held.astype(more.dtype), more)
    return np.array([*held, *(name for name in more if name not in held)], dtype=str)


def _create(
    folder: Path, coordinates: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]
) -> "dict[str, zarr.Array[Any]]":
    """Create the tables that hold anything."""
    # Zarr's third version has no array of text that every reader knows.
    names = {name: values.tolist() for name, values in coordinates.items() if name not in _NUMBERS}
    root = zarr.create_group(folder, zarr_format=3, attributes={_NAMES: names, **attributes})
    for name, described in _NUMBERS.items():
        values = coordinates[name]
        held = values.astype(np.int64) if values.dtype.kind == "M" else values
        if held.size:
            root.create_array(name, data=held, chunks=held.shape, dimension_names=(name,), attributes=dict(described))
    arrays = {}
    for table, dimensions in TABLES.items():
        shape = tuple(len(coordinates[name]) for name in dimensions)
        if 0 in shape and table != SUMS:
            continue
        arrays[table] = root.create_array(
            table,
            shape=shape,
            # What one start date's forecast writes, so that no chunk is ever shared.
            chunks=(1, shape[1], 1, *shape[3:]),
            dtype=_TYPES[table],
            fill_value=float("nan"),
            dimension_names=dimensions,
            compressors=compressors(),
        )
    return arrays


def _copy(earlier: Archive, table: str, array: "zarr.Array[Any]", coordinates: Mapping[str, npt.NDArray[Any]]) -> None:
    """Copy earlier sums to their places, one start date at a time."""
    places = []
    for name in TABLES[table][1:]:
        position = {value: number for number, value in enumerate(coordinates[name].tolist())}
        places.append([position[value] for value in earlier.coordinates[name].tolist()])
    starts = coordinates["start"].tolist()
    for number, start in enumerate(earlier.coordinates["start"].tolist()):
        held = np.full(array.shape[1:], np.nan)
        held[np.ix_(*places)] = earlier.arrays[table][number]
        array[starts.index(start)] = held
