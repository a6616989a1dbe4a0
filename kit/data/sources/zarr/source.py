"""Zarr stores, at an address or in a folder: ARCO-ERA5, WeatherBench 2, and any other that xarray reads.

Only chunks that are needed are read: variables, levels, times and the region are chosen before.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from kit.data.region import cropped
from kit.data.sources.base import Pieces, Request, SourceData, SourceLocation
from kit.data.sources.coordinates import canonical_coordinates, coordinate_names
from kit.data.sources.fields import canonical_name
from kit.data.sources.merging import merge
from kit.data.sources.zarr.address import is_address, opened_store
from kit.data.sources.zarr.reading import FILLED, Arrays, Times, hours_between, lazy
from kit.data.sources.zarr.retry_store import PatientStore
from kit.data.store.format import GRID, STATIC_PREFIX
from kit.data.units import canonical_units
from kit.data.variables import lookup, window
from kit.io.errors import KitError, StoreError
from kit.io.retry import Limits

__all__ = ["open_source"]

_logger = logging.getLogger(__name__)

REMOTE = Limits()
LOCAL = Limits(attempts=2, backoff=0.1)
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, ArithmeticError)
_LEADS = ("prediction_timedelta", "lead_time", "step")
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
    pieces, files, names, licences = Pieces(request), [], set[str](), []
    requests, download_bytes = 0, 0
    with ExitStack() as stack:
        for path in map(str, paths):
            limits = REMOTE if is_address(path) else LOCAL
            store = PatientStore(stack.enter_context(opened_store(path, limits)), path, limits)
            stack.callback(store.end)
            found = _Found(*_opened(store), pieces)
            files.append(found.take())
            names |= found.names
            licences.append(found.licence)
            if is_address(path):
                requests, download_bytes = requests + found.requests, download_bytes + found.download_bytes
            _logger.info("%s: opened with %d requests", path, store.requests)
        fields = merge(pieces.found, pieces.note)
        licence = "; ".join(dict.fromkeys(filter(None, licences)))
        yield SourceData(
            fields,
            tuple(sorted(names)),
            tuple(files),
            tuple(pieces.notes),
            licence,
            requests=requests or None,
            download_bytes=download_bytes or None,
        )


def _opened(store: PatientStore) -> tuple[xr.Dataset, Arrays]:
    """Open a store as xarray does, without any value but those of its coordinates."""
    # Coordinates that equal their fill value are not written by many a library.
    store.sparse = _Everything()
    try:
        with warnings.catch_warnings():
            # Metadata that are not consolidated, types of Zarr 3 that others may not know: no matter for reading.
            warnings.simplefilter("ignore")
            arrays = Arrays(store)
            dataset = xr.open_zarr(
                store, chunks=None, decode_timedelta=False, consolidated=arrays.consolidated, zarr_format=arrays.format
            )
            dataset = dataset.rename(coordinate_names(dataset))
            dataset = dataset.set_coords([name for name in GRID if name in dataset.data_vars])
            for coordinate in dataset.coords.values():
                coordinate.load()
    except KitError:
        raise
    except _UNREADABLE as error:
        msg = f"{store.address}: not readable as a Zarr store ({type(error).__name__}: {error})"
        raise StoreError(msg) from error
    store.sparse = frozenset()
    if not dataset.data_vars:
        msg = (
            f"{store.address}: a Zarr group without arrays. A web server cannot be asked for the names of arrays: "
            "there a store needs consolidated metadata. A group inside a store is named by its own path"
        )
        raise StoreError(msg)
    for name, array in dataset.data_vars.items():
        if not all(array.encoding.get("chunks") or (1,)):
            msg = f"{store.address}: {name} has chunks of the shape {array.encoding['chunks']}, which hold nothing"
            raise StoreError(msg)
    return dataset, arrays


class _Everything(frozenset[str]):
    """A set that holds all."""

    def __contains__(self, _: object) -> bool:
        return True


class _Found:
    """One store, and what of it is taken."""

    _is_forecast = False

    def __init__(self, dataset: xr.Dataset, arrays: Arrays, pieces: Pieces) -> None:
        self._where, self._arrays, self._pieces = arrays.store.address, arrays, pieces
        self._request = pieces.request
        self._given = dataset
        self._check_grid()
        self._dataset = cropped(self._one_lead(dataset), self._request.region, self._where)
        self._times = self._chosen_times()
        self.names: set[str] = set()
        self.requests = 0
        self.download_bytes = 0

    def _check_grid(self) -> None:
        """Speak of coordinates that are none before anything is done by them."""
        present = {name: self._given[name] for name in GRID if name in self._given.coords}
        if all(coordinate.ndim < len(GRID) for coordinate in present.values()):
            canonical_coordinates(xr.Dataset(coords=present), self._where, lambda _: None)

    @property
    def licence(self) -> str:
        """As the store states it."""
        return str(self._given.attrs.get("licence", self._given.attrs.get("license", ""))).strip()

    def take(self) -> dict[str, Any]:
        """Hand over the fields that are wanted; returns what is recorded of the store."""
        chosen = self._chosen()
        self._arrays.store.sparse = self._sparse(chosen)
        digest = self._arrays.pin(list(chosen))
        self._arrays.store.repeated = frozenset(source for source in chosen if self._is_repeated(source))
        for source, name in chosen.items():
            self._pieces.add(self._lazy(source, name), self._where)
            self._count(source, name)
        told = {key: str(self._given.attrs[key]) for key in FILLED if key in self._given.attrs}
        name = self._where if is_address(self._where) else Path(self._where).name
        return {"name": name, "metadata_sha256": digest, "arrays": len(chosen), **told}

    def _one_lead(self, dataset: xr.Dataset) -> xr.Dataset:
        """Of forecasts, the states that they start from."""
        for name in _LEADS:
            if name not in dataset.dims:
                continue
            start = np.flatnonzero(np.asarray(dataset[name].values).astype(np.int64) == 0)
            if not start.size:
                msg = (
                    f"{self._where}: holds forecasts, and none of their {dataset.sizes[name]} lead times ({name}) is "
                    "0; a store is built from analyses"
                )
                raise StoreError(msg)
            if dataset.sizes[name] > 1:
                self._pieces.note(f"lead time 0 taken of {dataset.sizes[name]} along {name}: the analysis")
                self._is_forecast = True
            dataset = dataset.isel({name: int(start[0])}, drop=True)
        return dataset

    def _chosen(self) -> dict[str, str]:
        """The store's names of what is taken, and ours."""
        grid = {dimension for name in GRID for dimension in self._dataset[name].dims}
        named: dict[str, list[str]] = {}
        unknown = []
        for key, array in self._dataset.data_vars.items():
            if not grid <= set(array.dims):
                continue
            name, variable = canonical_name(array)
            self.names.add(name)
            if self._request.takes(name, known=variable is not None):
                named.setdefault(name, []).append(str(key))
            elif variable is None:
                unknown.append(str(key))
        if unknown:
            more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
            self._pieces.note(
                f"left out, not in the kit's table of variables: {', '.join(sorted(unknown)[:_LISTED])}{more}; ask for "
                "one by name to have it"
            )
        self._pieces.names |= self.names
        return {self._best(name, keys): name for name, keys in named.items() if self._fits(name)}

    def _sparse(self, chosen: Mapping[str, str]) -> frozenset[str]:
        """Arrays whose absent chunks stand for missing values."""
        wanted = self._request.absent_chunks
        ours = {source: name.removeprefix(STATIC_PREFIX) for source, name in chosen.items()}
        if strange := sorted(wanted - set(ours.values())):
            read = ", ".join(sorted(set(ours.values())))
            msg = f"--absent_chunks {','.join(strange)} has no effect: of {self._where} are read {read}"
            raise StoreError(msg)
        return frozenset(source for source, name in ours.items() if name in wanted)

    def _fits(self, name: str) -> bool:
        variable = lookup(name, "surface")
        if not self._is_forecast or variable is None or not variable.accumulated:
            return True
        if self._request.variables is not None:
            msg = f"{self._where}: {name} is accumulated, and forecasts have nothing of it at lead time 0; leave it out"
            raise StoreError(msg)
        self._pieces.note(f"{name} left out: it is accumulated, and forecasts have nothing of it at lead time 0")
        return False

    def _best(self, name: str, keys: list[str]) -> str:
        """Of the same rain over several windows, the one whose window is the step of the states."""
        if len(keys) == 1:
            return keys[0]
        step = self._request.step or hours_between(self._times.values)
        windows = {key: window(key) or 1 for key in sorted(keys)}
        best = min(windows, key=lambda key: (windows[key] != step, windows[key]))
        others = ", ".join(key for key in sorted(keys) if key != best)
        self._pieces.note(f"{name} taken from {best}; {others} left out")
        return best

    def _chosen_times(self) -> Times:
        return Times.of(self._given, self._request, self._where, self._pieces.note)

    def _is_repeated(self, source: str) -> bool:
        """Whether a chunk holds several states, so that the next block of them needs it again."""
        array = self._given[source]
        stored = array.encoding.get("chunks") or (1,) * array.ndim
        return "time" in array.dims and int(stored[array.dims.index("time")]) > 1

    def _lazy(self, source: str, name: str) -> xr.Dataset:
        """One array as a dataset in the store's own order, with what is not wanted left out."""
        array = self._dataset[source]
        times = self._times
        if "time" in array.dims:
            # A constant field that comes with each state is compared between the first and the last of them.
            times = times.ends if name.startswith(STATIC_PREFIX) else times
            array = array.isel(time=times.indexer)
        if "level" in array.dims:
            array = array.isel(level=self._levels(array))
        moments = times.values if "time" in array.dims else None
        values = lazy(array.variable, source, self._arrays, moments, times.positions)
        hours = window(source)
        attributes = {**array.attrs, **({"accumulation_hours": hours} if hours else {})}
        fresh = xr.DataArray(values, array.coords, array.dims, source, attributes)
        return (fresh.compute() if name.startswith(STATIC_PREFIX) else fresh).to_dataset()

    def _count(self, source: str, name: str) -> None:
        """Add the chunks of an array to what is asked for; their sizes where nothing is built."""
        array, positions = self._dataset[source], self._times.positions
        if name.startswith(STATIC_PREFIX) or "time" not in array.dims:
            # Those have been read.
            return
        variable = lookup(name, "surface")
        summed = "level" not in array.dims and variable is not None and variable.accumulated
        if self._request.step is not None and not summed:
            hours = self._times.values.astype("datetime64[h]").astype(np.int64)
            positions = positions[hours % self._request.step == 0]
        given = self._given[source]
        stored = given.encoding.get("shards") or given.encoding.get("chunks") or given.shape
        levels = self._request.levels if "level" in array.dims else None
        held = dict(array.sizes) | ({} if levels is None else {"level": len(set(levels))})
        sizes = dict(zip(map(str, given.dims), map(int, stored), strict=True))
        states = len(np.unique(positions // sizes["time"]))
        others = (-(-held[dim] // size) for dim, size in sizes.items() if dim != "time" and dim in held)
        chunks = states * math.prod(others)
        self.requests += chunks
        if self._request.sample and len(positions):
            self.download_bytes += chunks * self._arrays.chunk_bytes(
                source, [int(positions[0]) // sizes["time"] * (dim == "time") for dim in sizes]
            )

    def _levels(self, array: xr.DataArray) -> Any:
        level = array["level"]
        scale = 0.01 if canonical_units(str(level.attrs.get("units", "hPa"))) == "Pa" else 1.0
        held = np.round(np.asarray(level.values, dtype=np.float64) * scale, 6).tolist()
        wanted = self._request.levels
        if wanted is None or not set(wanted) <= set(held):
            # What is missing is told where all levels are known.
            return slice(None)
        return sorted(held.index(value) for value in set(wanted))
