"""Climatologies, made of the states of a store: what is usual at each day of the year and hour of the day.

As WeatherBench 2 has them (Rasp et al. 2024, "WeatherBench 2: A Benchmark for the Next Generation of Data-Driven Global
Weather Models", Journal of Advances in Modeling Earth Systems 16, e2023MS004019; google-research/weatherbench2,
``weatherbench2/utils.py``, ``compute_hourly_stat``): at each hour of the day the mean over all years and over a window
of days around the day, whose weights fall linearly to zero. Missing values are left out. Days that the store does not
cover are not made up: upstream gives whatever is missing the values of day 365, which this does for day 366 alone.

Every state is read once, those around the turn of the year twice; and all of it again for every block of rows, where
the sums of a window's days do not fit into ``MEMORY`` at once.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr

from kit.config.suggestions import near_names
from kit.data.climatology.calendar import Calendar, window_weights
from kit.data.climatology.fields import AveragedField
from kit.data.climatology.seeps import RAIN, RainField
from kit.data.climatology.settings import ClimatologySettings
from kit.data.store.build import open_store
from kit.data.store.executor import BuildProgressCallback
from kit.data.store.format import (
    CLIMATOLOGY_FORMAT,
    CLIMATOLOGY_KEY,
    COORDINATES,
    CURVILINEAR,
    GRID,
    INTEGRITY,
    compressors,
    plain_attributes,
)
from kit.data.store.manifest import MANIFEST, ChunkFact, Manifest, file_hash, group_document
from kit.data.store.reader import Store
from kit.data.variables import WIND_SPEEDS
from kit.io.atomic import check_free, published, remove_leftovers
from kit.io.errors import SettingsError

MEMORY = 2**30
"""Bytes of sums that are held at once, beside one state of one variable."""
_CHUNK_BYTES = 4 * 2**20
_REFERENCES = "Rasp et al. 2024, WeatherBench 2, https://doi.org/10.1029/2023MS004019"
_COPIED = ("source", "licence", "projection", "registry")
"""Attributes of a store that its climatology has too."""


class ClimateField(Protocol):
    """What is made of a variable: one array of a climatology or some, of its states at an hour around each day."""

    names: tuple[str, ...]
    attributes: tuple[Mapping[str, Any], ...]
    shape: tuple[int, ...]
    dimensions: tuple[str, ...]

    def blocks(self, window: int, memory: int) -> list[slice]:
        """Divide the rows so that what is held of one of them fits into so many bytes."""

    def statistics(
        self, calendar: Calendar, hour: int, rows: slice, weights: npt.NDArray[np.float64]
    ) -> Iterator[tuple[npt.NDArray[np.float64], ...]]:
        """Yield the values of each array for each day of a calendar."""


@dataclass(frozen=True)
class ClimatologyResult:
    """What was made.

    Attributes:
        climatology: Folder of the climatology.
        store: Folder of the store.
        period: From the first state that was averaged to the last, UTC.
        states: Number of states.
        hours: Hours of the day, UTC.
        days: Number of days of the year that it holds, 366 of whole years.
        window_days: Days around a day that were averaged.
        variables: Names of its variables.
        synthetic: Whether the states are made up.
    """

    climatology: str
    store: str
    period: str
    states: int
    hours: Sequence[int]
    days: int
    window_days: int
    variables: Sequence[str]
    synthetic: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what ``kit data climatology --json`` prints."""
        return dict(vars(self))


def build_climatology(settings: ClimatologySettings, watch: BuildProgressCallback | None = None) -> ClimatologyResult:
    """Average the states of a store by day of the year and hour of the day.

    Args:
        settings: Store, period, window and variables.
        watch: Callback that receives the progress, day by day.

    Returns:
        Facts about the climatology.

    Raises:
        SettingsError: ``out`` exists, or a variable is unknown.
        StoreError: the store cannot be read, or the period holds nothing to average.
        OSError: the disk is full; nothing is left behind.
    """
    check_free(settings.out)
    remove_leftovers(settings.out.parent)
    store = open_store(settings.store)
    calendar = Calendar.of(store, settings.period or store.splits["train"])
    weights = window_weights(settings.window_days)
    names = _chosen(store, settings.variables)
    fields: list[ClimateField] = [AveragedField(store, name) for name in names]
    if RAIN in names and settings.seeps:
        fields.append(RainField(store, calendar))
    blocks = [field.blocks(settings.window_days, MEMORY) for field in fields]
    progress = _Progress(watch)
    progress.begin(sum(map(len, blocks)) * len(calendar.hours) * len(calendar.days))
    with published(settings.out) as part:
        group = zarr.create_group(part, zarr_format=3)
        _write_coordinates(group, store, calendar)
        for field, of_rows in zip(fields, blocks, strict=True):
            arrays = _create(group, field, calendar, of_rows[0])
            for rows in of_rows:
                for hour in calendar.hours:
                    _write(arrays, field, calendar, hour, rows, weights, progress)
        _finish(part, _attributes(store, calendar, settings))
    return ClimatologyResult(
        climatology=str(settings.out),
        store=str(store.path),
        period=str(calendar.period),
        states=calendar.count,
        hours=calendar.hours,
        days=len(calendar.days),
        window_days=settings.window_days,
        variables=[name for field in fields for name in field.names],
        synthetic=bool(store.attributes.get("synthetic")),
    )


def _chosen(store: Store, wanted: Sequence[str] | None) -> list[str]:
    """Choose the variables: all of the store, and the speeds of its winds, or those that are wanted.

    Raises:
        SettingsError: one is none of these.
    """
    held = [*store.surface, *store.atmospheric]
    held += [speed for speed, (east, north) in WIND_SPEEDS.items() if east in held and north in held]
    if wanted is None:
        return held
    for name in wanted:
        if name not in held:
            near = ", ".join(near_names(name, held) or held)
            msg = f"--variables {name}: the store {store.path} has no such variable; the nearest are {near}"
            raise SettingsError(msg)
    return list(dict.fromkeys(wanted))


def _write_coordinates(group: zarr.Group, store: Store, calendar: Calendar) -> None:
    dimensions: dict[str, tuple[str, ...]] = {"latitude": ("latitude",), "longitude": ("longitude",)}
    if store.curvilinear:
        dimensions = dict.fromkeys(GRID, CURVILINEAR)
    values: dict[str, npt.NDArray[Any]] = {
        "hour": np.asarray(calendar.hours, dtype=np.int64),
        "dayofyear": np.asarray(calendar.days, dtype=np.int64),
        "latitude": store.latitude,
        "longitude": store.longitude,
    }
    if store.levels:
        values["level"] = np.asarray(store.levels, dtype=np.float64)
    attributes: dict[str, dict[str, str]] = {
        **COORDINATES,
        "hour": {"long_name": "Hour of the day, UTC"},
        "dayofyear": {"long_name": "Day of the year, from 1 on"},
    }
    for name, held in values.items():
        group.create_array(
            name,
            data=held,
            chunks=held.shape,
            dimension_names=dimensions.get(name, (name,)),
            attributes=dict(attributes[name]),
            config={"write_empty_chunks": True},
        )


def _create(group: zarr.Group, field: ClimateField, calendar: Calendar, rows: slice) -> "list[zarr.Array[Any]]":
    """Make the arrays of a field; a chunk holds one hour of some days, and of a block of rows."""
    *levels, height, width = field.shape
    block = (*levels, rows.stop - rows.start, width)
    days = max(1, min(len(calendar.days), _CHUNK_BYTES // (4 * int(np.prod(block)))))
    arrays = []
    for name, held in zip(field.names, field.attributes, strict=True):
        attributes = plain_attributes(held)
        if field.dimensions[-2:] == CURVILINEAR:
            attributes["coordinates"] = "latitude longitude"
        array = group.create_array(
            name,
            shape=(len(calendar.hours), len(calendar.days), *levels, height, width),
            chunks=(1, days, *block),
            dtype="float32",
            fill_value=float("nan"),
            compressors=compressors(),
            dimension_names=("hour", "dayofyear", *field.dimensions),
            attributes=attributes,
            # A chunk of nothing but missing values is written too, so that a lost one cannot pass for it.
            config={"write_empty_chunks": True},
        )
        arrays.append(array)
    return arrays


def _write(
    arrays: "Sequence[zarr.Array[Any]]",
    field: ClimateField,
    calendar: Calendar,
    hour: int,
    rows: slice,
    weights: npt.NDArray[np.float64],
    progress: "_Progress",
) -> None:
    """Write what is usual at one hour, chunk by chunk."""
    position, days = calendar.hours.index(hour), arrays[0].chunks[1]
    held: list[npt.NDArray[np.float32]] = []
    for number, values in enumerate(field.statistics(calendar, hour, rows, weights), start=1):
        held.append(np.stack(values).astype(np.float32))
        if len(held) == days or number == len(calendar.days):
            for array, series in zip(arrays, np.stack(held, axis=1), strict=True):
                array[position, number - len(held) : number, ..., rows, :] = series
            held.clear()
        progress.advance(sum(one.size for one in values) * 4)


def _attributes(store: Store, calendar: Calendar, settings: ClimatologySettings) -> dict[str, Any]:
    """Describe what a climatology was made of."""
    return {
        **{name: store.attributes[name] for name in _COPIED if name in store.attributes},
        "Conventions": "CF-1.11",
        "title": "Climatology by day of the year and hour of the day",
        "references": _REFERENCES,
        CLIMATOLOGY_KEY: CLIMATOLOGY_FORMAT,
        "kit_version": importlib.metadata.version("aurora-finetune-kit"),
        "period": str(calendar.period),
        "states": calendar.count,
        "window_days": settings.window_days,
        "window_weights": "fall linearly to zero at both ends of the window",
        "store_name": store.path.name,
        "store_fingerprint": store.fingerprint(),
        "synthetic": bool(store.attributes.get("synthetic")),
    }


def _finish(folder: Path, attributes: dict[str, Any]) -> None:
    """Write the list of all files with their hashes, then the group's metadata, which hold those of all arrays."""
    chunks = []
    for file in sorted(folder.glob("*/c/**/*")):
        if file.is_file():
            sha256, size = file_hash(file)
            chunks.append(ChunkFact(file.relative_to(folder).as_posix(), size, sha256))
    manifest = Manifest.of(chunks)
    (folder / MANIFEST).write_bytes(manifest.content)
    integrity = {"data_sha256": manifest.by_variable(), INTEGRITY: {"manifest": manifest.facts()}}
    (folder / "zarr.json").write_bytes(group_document(folder, attributes | integrity))


class _Progress:
    """Days that are done, of all hours and blocks."""

    def __init__(self, watch: BuildProgressCallback | None) -> None:
        self._watch = watch
        self._done = self._size = 0

    def begin(self, count: int) -> None:
        """Start, with the number of days in all."""
        if self._watch is not None:
            self._watch.begin(count, 0)

    def advance(self, size: int) -> None:
        """Count a day and the bytes of its values."""
        self._done, self._size = self._done + 1, self._size + size
        if self._watch is not None:
            self._watch.advance(self._done, self._size)
