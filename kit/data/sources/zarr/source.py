"""Zarr stores, at an address or in a folder: ARCO-ERA5, WeatherBench 2, and any other that xarray reads.

Only chunks that are needed are read: variables, levels, times and the region are chosen before.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from kit.data.region import cropped
from kit.data.source_names import window
from kit.data.sources.base import Pieces, Request, SourceData, SourceLocation
from kit.data.sources.coordinates import canonical_coordinates, coordinate_names
from kit.data.sources.dates import decode_dates
from kit.data.sources.fields import name_at_one_level
from kit.data.sources.leads import LEAD, TIME_DIMENSION, split_by_lead
from kit.data.sources.levels import with_level_dimension
from kit.data.sources.versions import final_before_preliminary, with_versions
from kit.data.sources.verticals import in_hectopascals
from kit.data.sources.winds import OTHER_COMPONENT
from kit.data.sources.wrf import is_wrf
from kit.data.sources.zarr.address import is_address, opened_store
from kit.data.sources.zarr.reading import FILLED, SelectedTimes, ZarrArrays, hours_between, lazy
from kit.data.sources.zarr.retry_store import RetryStore, any_array
from kit.data.store.format import GRID, STATIC_PREFIX
from kit.data.variables import lookup
from kit.data.zarr_guard import GuardedStore
from kit.io.errors import KitError, StoreError
from kit.io.retry import Limits

_logger = logging.getLogger(__name__)

REMOTE = Limits()
LOCAL = Limits(attempts=2, backoff=0.1)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, ArithmeticError)
_LISTED = 12
"""Most names of unknown arrays in a note."""


@contextmanager
def open_source(paths: Sequence[SourceLocation], request: Request) -> Iterator[SourceData]:
    """Open Zarr stores.

    Args:
        paths: folders, zips and addresses; several are put together as files are.
        request: what is taken; nothing else is read.

    Raises:
        SettingsError: an address that cannot be read here.
        StoreError: no store that xarray opens, or one that cannot be brought into the store's form.
        UnavailableError: it did not answer.
    """
    pieces, files, licences = Pieces(request), [], []
    requests = download_bytes = 0
    with ExitStack() as stack:
        for path in map(str, paths):
            dataset, arrays = stack.enter_context(opened(path))
            taking = _Taking(dataset, arrays, pieces)
            files.append(taking.take())
            licences.append(taking.licence)
            if is_address(path):
                requests += taking.requests
                download_bytes += taking.download_bytes
            _logger.info("%s: opened with %d requests", path, arrays.store.requests)
        yield SourceData(
            pieces.merged(),
            tuple(sorted(pieces.names)),
            tuple(files),
            tuple(pieces.notes),
            "; ".join(dict.fromkeys(filter(None, licences))),
            origins=pieces.origins(),
            requests=requests or None,
            download_bytes=download_bytes or None,
        )


@contextmanager
def opened(path: str) -> Iterator[tuple[xr.Dataset, ZarrArrays]]:
    """Open one store lazily: dates decoded, coordinates in memory and under the store's names.

    Args:
        path: Folder, zip or address.

    Raises:
        KitError: What ``open_source`` raises.
    """
    # A file that cannot be read is given up sooner than a server.
    limits = REMOTE if is_address(path) else LOCAL
    with opened_store(path, limits) as place:
        store = RetryStore(GuardedStore(place, path), path, limits)
        try:
            yield _open(store)
        finally:
            store.end()


def _open(store: RetryStore) -> tuple[xr.Dataset, ZarrArrays]:
    """Open a store as xarray does, without any value but those of its coordinates."""
    # Coordinates that equal their fill value are not written by many a library.
    store.may_lack = any_array
    try:
        with warnings.catch_warnings():
            # Metadata that are not consolidated, types of Zarr 3 that others may not know: no matter for reading.
            warnings.simplefilter("ignore")
            arrays = ZarrArrays(store)
            dataset = xr.open_zarr(
                store,
                chunks=None,
                decode_times=False,
                decode_timedelta=False,
                consolidated=arrays.consolidated,
                zarr_format=arrays.format,
            )
            if is_wrf(dataset):
                msg = (
                    f"{store.address}: WRF's own output as a Zarr store, which the kit reads as NetCDF alone; give the "
                    "wrfout files with --source netcdf"
                )
                raise StoreError(msg)
            dataset = with_versions(decode_dates(dataset, store.address))
            dataset = dataset.rename(coordinate_names(dataset))
            dataset = dataset.set_coords([name for name in GRID if name in dataset.data_vars])
            for coordinate in dataset.coords.values():
                coordinate.load()
    except KitError:
        raise
    except _UNREADABLE as error:
        msg = f"{store.address}: not readable as a Zarr store ({type(error).__name__}: {error})"
        raise StoreError(msg) from error
    store.may_lack = frozenset[str]().__contains__
    # A web server without consolidated metadata looks like an empty store.
    if not dataset.data_vars:
        msg = (
            f"{store.address}: a Zarr group without arrays. A web server cannot be asked for the names of arrays: "
            "there a store needs consolidated metadata. A group inside a store is named by its own path"
        )
        raise StoreError(msg)
    # Positions of states are divided by the lengths of chunks; a damaged store may state zeros.
    for name, array in dataset.data_vars.items():
        if not all(array.encoding.get("chunks") or (1,)):
            msg = f"{store.address}: {name} has chunks of the shape {array.encoding['chunks']}, which hold nothing"
            raise StoreError(msg)
    return dataset, arrays


class _Taking:
    """What is taken of one store."""

    def __init__(self, dataset: xr.Dataset, arrays: ZarrArrays, pieces: Pieces) -> None:
        self._where, self._arrays, self._pieces = arrays.store.address, arrays, pieces
        self._request = pieces.request
        dataset = with_level_dimension(dataset, self._where, pieces.request.levels_rules, pieces.note)
        self._given = dataset
        # Vectors of coordinates that are none are named before anything is done by them.
        # By themselves: a level that is a number is a coordinate of everything.
        present = {name: dataset[name].reset_coords(drop=True) for name in GRID if name in dataset.coords}
        if all(coordinate.ndim < len(GRID) for coordinate in present.values()):
            canonical_coordinates(xr.Dataset(coords=present), self._where, lambda _: None)
        self._parts: list[tuple[xr.Dataset, SelectedTimes]] = []
        outside: list[StoreError] = []
        for states in split_by_lead(dataset, self._where):
            self._along = states.encoding.get(TIME_DIMENSION, "time")
            try:
                times = SelectedTimes.of(states, self._request, self._where, pieces.note)
            except StoreError as error:
                # Forecasts of some leads may be valid after the period.
                outside.append(error)
                continue
            self._parts.append((cropped(states, self._request.region, self._where), times))
        if not self._parts:
            raise outside[0]
        self._dataset, self._times = self._parts[0]
        self.licence = str(dataset.attrs.get("licence", dataset.attrs.get("license", ""))).strip()
        self.requests = 0
        self.download_bytes = 0

    def take(self) -> dict[str, Any]:
        """Hand over the fields that are wanted; returns what is recorded of the store."""
        chosen = self._choose()
        store, wanted = self._arrays.store, self._request.absent_chunks
        ours = {source: name.removeprefix(STATIC_PREFIX) for source, name in chosen.items()}
        without_effect = wanted.difference(ours.values())
        if without_effect:
            read = ", ".join(sorted(set(ours.values())))
            listed = ",".join(sorted(without_effect))
            msg = f"--absent_chunks {listed} has no effect: of {self._where} are read {read}"
            raise StoreError(msg)
        store.may_lack = frozenset(source for source, name in ours.items() if name in wanted).__contains__
        metadata_hash = self._arrays.pin(list(chosen))
        store.versions = self._arrays.version_chunks({source: self._given[source] for source in chosen})
        # Where a chunk holds several states, the next block of them needs it again.
        store.repeated = frozenset(source for source in chosen if self._states_of_chunk(source) > 1)
        for part in self._parts:
            self._dataset, self._times = part
            for name in dict.fromkeys(chosen.values()):
                if not self._is_wanted(name):
                    continue
                # Several arrays of one variable are compared with each other.
                dataset = xr.Dataset()
                for source in chosen:
                    if chosen[source] == name:
                        dataset = dataset.assign(self._lazy(source, name).data_vars).assign_attrs(self._given.attrs)
                        self._count(source, name)
                combined = final_before_preliminary(dataset, self._pieces.note)
                self._pieces.add(combined, self._where, self._dataset)
        facts = {"name": self._where, "metadata_sha256": metadata_hash, "arrays": len(chosen)}
        if not is_address(self._where):
            facts["name"] = Path(self._where).name
        return facts | {key: str(self._given.attrs[key]) for key in FILLED if key in self._given.attrs}

    def _is_wanted(self, name: str) -> bool:
        """Whether a part is of a lead that is taken: of accumulations all are, of static fields those of the first."""
        leads = self._dataset.coords.get(LEAD)
        if leads is None:
            return True
        if name.startswith(STATIC_PREFIX):
            return self._dataset is self._parts[0][0]
        # Where no lead is chosen, all are handed over, and refused by name.
        return (
            _is_accumulated(name)
            or self._is_chosen(self._dataset)
            or not any(self._is_chosen(dataset) for dataset, _ in self._parts)
        )

    def _is_chosen(self, dataset: xr.Dataset) -> bool:
        """Whether a part has states of the chosen leads."""
        first, last = self._request.leads or (0.0, 0.0)
        return bool(((dataset[LEAD] >= first) & (dataset[LEAD] <= last)).any())

    def _choose(self) -> dict[str, str]:
        """Choose arrays: ours by the store's names."""
        grid = {dimension for name in GRID for dimension in self._dataset[name].dims}
        candidates: dict[str, list[str]] = {}
        unknown = []
        for key, array in self._dataset.data_vars.items():
            if not grid <= set(array.dims):
                continue
            name, variable = name_at_one_level(array, is_stated=self._request.levels_rules.at is not None)
            self._pieces.names.add(name)
            other = OTHER_COMPONENT.get(name, name)
            # A wind along the grid's axes is turned with both of its components.
            turns_other = len(grid & set(GRID)) == 0 and self._request.takes(other, known=variable is not None)
            if turns_other or self._request.takes(name, known=variable is not None):
                candidates.setdefault(name, []).append(str(key))
            elif variable is None:
                unknown.append(str(key))
        if unknown:
            more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
            self._pieces.note(
                f"left out, not in the kit's table of variables: {', '.join(sorted(unknown)[:_LISTED])}{more}; ask for "
                "one by name to have it"
            )
        chosen = {}
        for name, keys in candidates.items():
            if _is_accumulated(name):
                chosen[self._best(name, keys)] = name
            else:
                chosen |= dict.fromkeys(keys, name)
        return chosen

    def _best(self, name: str, keys: list[str]) -> str:
        """Choose of the same rain over several windows the one whose window is the step of the states."""
        if len(keys) == 1:
            return keys[0]
        step = self._request.step or hours_between(self._times.values)
        windows = {key: window(key) or 1 for key in sorted(keys)}
        best = min(windows, key=lambda key: (windows[key] != step, windows[key]))
        others = ", ".join(key for key in windows if key != best)
        self._pieces.note(f"{name} taken from {best}; {others} left out")
        return best

    def _states_of_chunk(self, source: str) -> int:
        """Return the number of states in a chunk of an array; 1 where it has no time."""
        array = self._given[source]
        stored = array.encoding.get("chunks") or (1,) * array.ndim
        return int(dict(zip(array.dims, stored, strict=False)).get(self._along, 1))

    def _lazy(self, source: str, name: str) -> xr.Dataset:
        """Lay one array out as a dataset in the store's own order, with what is not wanted left out."""
        array, times, moments = self._dataset[source], self._times, None
        is_static = name.startswith(STATIC_PREFIX)
        if "time" in array.dims:
            # A constant field that comes with each state is compared between the first and the last of them.
            if is_static:
                times = times.ends
            array, moments = array.isel(time=times.indexer), times.values
        if "level" in array.dims:
            # Only chunks that are needed are asked for: levels are chosen before anything is read.
            array = array.isel(level=self._level_indexer(array["level"]))
        values = lazy(array.variable, source, self._arrays, moments, times.positions)
        field = xr.DataArray(values, array.coords, array.dims, source, array.attrs)
        if is_static:
            field = field.compute()
        return field.to_dataset().assign_attrs(self._given.attrs)

    def _count(self, source: str, name: str) -> None:
        """Add the chunks of an array to what is asked for; their sizes where nothing is built."""
        array, positions = self._dataset[source], self._times.positions
        if name.startswith(STATIC_PREFIX) or "time" not in array.dims:
            # Those have been read.
            return
        # What accumulates is needed at the hours between the states, too.
        sums_hours = "level" not in array.dims and _is_accumulated(name)
        if self._request.step is not None and not sums_hours:
            hours = self._times.values.astype("datetime64[h]").astype(np.int64)
            positions = positions[hours % self._request.step == 0]
        given, lengths = self._given[source], dict(array.sizes)
        if self._request.levels is not None and "level" in array.dims:
            lengths["level"] = len(set(self._request.levels))
        stored = given.encoding.get("shards") or given.encoding.get("chunks") or given.shape
        sizes = dict(zip(map(str, given.dims), map(int, stored), strict=True))
        chunks = len(np.unique(positions // sizes[self._along]))
        for dimension, size in sizes.items():
            if dimension != self._along and dimension in lengths:
                chunks *= math.ceil(lengths[dimension] / size)
        self.requests += chunks
        if self._request.sample and len(positions):
            # The first chunk of the first state stands for all.
            first = dict.fromkeys(sizes, 0) | {self._along: int(positions[0]) // sizes[self._along]}
            self.download_bytes += chunks * self._arrays.chunk_bytes(source, list(first.values()))

    def _level_indexer(self, level: xr.DataArray) -> slice | list[int]:
        """Select the wanted levels, in the store's order."""
        wanted = self._request.levels
        if wanted is None:
            return slice(None)
        held = np.round(in_hectopascals(level), 6).tolist()
        # What is missing is reported later, where the levels of all sources are known.
        if not set(wanted) <= set(held):
            return slice(None)
        return sorted(map(held.index, set(wanted)))


def _is_accumulated(name: str) -> bool:
    variable = lookup(name, "surface")
    return variable is not None and variable.accumulated
