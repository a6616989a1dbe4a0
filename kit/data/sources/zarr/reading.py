"""Arrays of a Zarr store as dask reads them: a few states at a time, again where a chunk cannot be unpacked.

The metadata of the arrays are compared now and then, and with the last state, with what they were at first.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.core.sync import sync

from kit.data.products import product_of_attributes
from kit.data.settings import Period
from kit.data.sources.base import Request
from kit.data.sources.dates import check_are_dates
from kit.data.sources.fields import Note
from kit.data.sources.leads import BOUND_START, VERSIONS
from kit.data.sources.zarr.retry_store import AbsentChunkError, RetryStore, describe_key, keys_read
from kit.data.store.format import period_indices
from kit.io.documents import parse_json
from kit.io.errors import KitError, StoreError, UnavailableError
from kit.io.hashes import sha256_of_text
from kit.io.progress import ProgressCallback
from kit.io.retry import RetryableError, SourceError, patiently

CHUNK_BYTES = 64 * 2**20
"""Most of an array that is computed at once, where the store's own chunks hold many states."""
_CHECK_SECONDS = 120.0
"""Seconds between comparisons of the metadata."""
_UNDECODABLE = (RuntimeError, ValueError, TypeError, EOFError, OSError, MemoryError, zlib.error, ArithmeticError)
"""What codecs raise for bytes that they cannot unpack."""

Positions = npt.NDArray[np.intp]


class ZarrArrays:
    """Those arrays of a store that are read, and their metadata."""

    def __init__(self, store: RetryStore) -> None:
        self.store = store
        group = zarr.open_group(store, mode="r")
        self.format = int(group.metadata.zarr_format)
        self.consolidated = group.metadata.consolidated_metadata is not None
        self._pinned: dict[str, str] = {}
        self._compared = time.monotonic()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs."""
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state of ``__getstate__``; the clock is another one."""
        self.__dict__.update(state | {"_lock": threading.Lock(), "_compared": time.monotonic()})

    def pin(self, names: Sequence[str]) -> str:
        """Remember the metadata of these arrays.

        Returns:
            SHA-256 of it.
        """
        group = self._group()
        self._pinned = {name: _metadata_hash(group[name]) for name in sorted(names)}
        self.store.blosc = {name for name in names if _is_blosc(group[name])}
        return sha256_of_text(json.dumps(self._pinned, sort_keys=True))

    def version_chunks(self, arrays: Mapping[str, xr.DataArray]) -> dict[str, tuple[int, int]]:
        """Find the arrays with a dimension of versions: its axis, and the number of chunks along it.

        An array whose fill value is a number like others is none of them: an absent chunk may hold values.

        Args:
            arrays: Arrays as xarray opens them, by their names in the store.
        """
        group = self._group()
        found = {}
        for name, array in arrays.items():
            if VERSIONS not in array.dims:
                continue
            fill: Any = getattr(group[name], "fill_value", None)
            is_nan = isinstance(fill, float | np.floating) and np.isnan(fill)
            if is_nan or (fill is not None and fill == array.encoding.get("_FillValue")):
                axis = array.dims.index(VERSIONS)
                stored = array.encoding.get("shards") or array.encoding["chunks"]
                found[name] = axis, -(-array.shape[axis] // stored[axis])
        return found

    def chunk_bytes(self, name: str, position: Sequence[int]) -> int:
        """Ask for the size of a chunk of an array, as it is stored; 0 where nobody says.

        Only its size is asked for.
        """
        array: Any = self._group()[name]
        key = f"{name}/{array.metadata.encode_chunk_key(tuple(position))}"
        try:
            return sync(self.store.size_of(key))
        except (OSError, ValueError):
            return 0

    def check_unchanged(self, *, now: bool) -> None:
        """Compare the metadata with what they were at first.

        Args:
            now: compare in any case; else only if the last time was some time ago.

        Raises:
            StoreError: they differ.
        """
        with self._lock:
            if not now and time.monotonic() - self._compared < _CHECK_SECONDS:
                return
            # A store of petabytes has no hash: shapes, chunks, types and attributes stand for it. The attributes of the
            # store as a whole do not count, because ARCO-ERA5 moves its valid_time_stop whenever it grows.
            try:
                group = self._group()
                changed = []
                for name, pinned in self._pinned.items():
                    if name not in group or _metadata_hash(group[name]) != pinned:
                        changed.append(name)
            except KitError:
                raise
            except (*_UNDECODABLE, KeyError) as error:
                changed = [f"its arrays ({type(error).__name__}: {error})"]
            self._compared = time.monotonic()
        if changed:
            msg = (
                f"{self.store.address}: what the store says of {', '.join(changed[:5])} changed while it was read, so "
                "that states before and after may not belong together; remove what was built so far and build again"
            )
            raise StoreError(msg)

    def read(self, name: str, take: Callable[[], npt.NDArray[Any]], when: str) -> npt.NDArray[Any]:
        """Read a part of an array; again if a chunk cannot be unpacked.

        Args:
            name: the array's name in the store.
            take: reads the part.
            when: its times, for messages.

        Raises:
            StoreError: a chunk is absent, or the store changed.
            UnavailableError: chunks came damaged each time, or not at all.
        """

        def attempt() -> npt.NDArray[Any]:
            with keys_read() as keys:
                try:
                    return take()
                except KitError:
                    raise
                except _UNDECODABLE as error:
                    self.store.forget(keys)
                    # A chunk that cannot be unpacked may be one of a new version of the store.
                    self.check_unchanged(now=True)
                    chunks = ", ".join(map(describe_key, list(dict.fromkeys(keys))[:3])) or name
                    msg = f"{chunks}{when} cannot be unpacked ({error})"
                    raise RetryableError(msg) from error

        try:
            return patiently(attempt, self.store.limits, ProgressCallback())
        except AbsentChunkError as error:
            fill = getattr(self._group()[name], "fill_value", None)
            msg = (
                f"{error}{when}. Zarr would give its fill value ({fill}) for it, but it may as well have been lost, or "
                f"not been written yet: choose other --times, or name {name} in --absent_chunks if there absent chunks "
                "stand for that value"
            )
            raise StoreError(msg) from error
        except SourceError as error:
            msg = f"{self.store.address}: {error}. It is damaged there, or came damaged each time"
            raise UnavailableError(msg) from error

    def _group(self) -> zarr.Group:
        form: Any = self.format
        return zarr.open_group(self.store, mode="r", zarr_format=form, use_consolidated=self.consolidated)


def lazy(
    variable: xr.Variable,
    name: str,
    arrays: ZarrArrays,
    times: npt.NDArray[np.datetime64] | None,
    positions: Positions,
) -> da.Array:
    """Lay an array out as dask reads it, in pieces that end where its chunks end.

    Args:
        variable: lazy, as xarray gives it, with what is not wanted left out; the time, if it has one, comes in any
            place.
        name: the array's own name in the store.
        arrays: the store's.
        times: of its states, for messages; None if it has no time.
        positions: of its states among the array's.
    """
    axis = variable.dims.index("time") if "time" in variable.dims else None
    pieces: list[tuple[int, ...]] = [(length,) for length in variable.shape]
    if axis is not None:
        stored = variable.encoding.get("shards") or variable.encoding.get("chunks") or variable.shape
        # Stored chunks of small grids may hold years: they are divided, and kept packed meanwhile.
        largest = max(1, CHUNK_BYTES // max(1, variable.dtype.itemsize * variable.size // variable.shape[axis]))
        pieces[axis] = _run_lengths(positions // max(1, int(stored[axis])), largest)
    array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        _LazyArray(variable, name, arrays, times, axis),
        chunks=tuple(pieces),
        name=False,
        fancy=False,
        asarray=False,
        meta=np.empty((0,) * variable.ndim, variable.dtype),
    )
    return array


def _run_lengths(groups: Positions, largest: int) -> tuple[int, ...]:
    """Measure runs of equal numbers, and divide those that are longer than ``largest``."""
    edges = np.flatnonzero(np.diff(groups)) + 1
    lengths = np.diff([0, *edges.tolist(), len(groups)]).tolist()
    return tuple(min(largest, length - start) for length in lengths for start in range(0, length, largest))


class _LazyArray:
    """An array for dask: a shape, a type, and slices of values."""

    def __init__(
        self,
        variable: xr.Variable,
        name: str,
        arrays: ZarrArrays,
        times: npt.NDArray[np.datetime64] | None,
        axis: int | None,
    ) -> None:
        self._variable, self._name, self._arrays = variable, name, arrays
        self._times, self._axis = times, axis
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        parts = key if isinstance(key, tuple) else (key,)
        when, last = "", False
        if self._axis is not None and self._times is not None:
            times = np.atleast_1d(self._times[parts[self._axis]])
            when = f" at {times[0].astype('datetime64[m]')}"
            if len(times) > 1:
                when += f" and {len(times) - 1} more times"
            last = bool(times[-1] == self._times[-1])
        values = self._arrays.read(self._name, lambda: np.asarray(self._variable[parts].values), when)
        # With the last state in any case: what was read before it then belongs together.
        self._arrays.check_unchanged(now=last)
        return values


def _metadata_hash(array: Any) -> str:
    """Hash the metadata of an array, whatever the order of its keys."""
    metadata: ArrayV2Metadata | ArrayV3Metadata = array.metadata
    documents = metadata.to_buffer_dict(default_buffer_prototype())
    texts = {name: parse_json(buffer.to_bytes()) for name, buffer in documents.items()}
    return sha256_of_text(json.dumps(texts, sort_keys=True))


def _is_blosc(array: Any) -> bool:
    """Whether a chunk as it is stored is a buffer of Blosc."""
    metadata = array.metadata
    # The last codec of Zarr 3 makes what is stored.
    packer = metadata.compressor if isinstance(metadata, ArrayV2Metadata) else (*metadata.codecs,)[-1]
    return "blosc" in type(packer).__name__.lower()


# Which states of a Zarr store are taken, before any of them is read.

FILLED = ("valid_time_start", "valid_time_stop")
"""Attributes of ARCO-ERA5: its arrays are allocated for decades to come, and filled between these."""


def hours_between(times: npt.NDArray[np.datetime64]) -> int | None:
    """Compute the hours from state to state; None for one state."""
    if len(times) < 2:
        return None
    return int(np.diff(times).min() / np.timedelta64(1, "h"))


def _needs_state_before(dataset: xr.Dataset, request: Request) -> bool:
    """Whether values may be valid later than their stamps say, or be differences to those of the state before."""
    product = request.product or product_of_attributes(dataset.attrs)
    rules = list(request.windows.values())
    if product is not None:
        rules.append(product.window)
    if BOUND_START in dataset.coords or any(rule.kind != "hours" for rule in rules):
        return True
    return any("cell_methods" in array.attrs for array in dataset.data_vars.values())


@dataclass(frozen=True)
class SelectedTimes:
    """States that are taken.

    Attributes:
        positions: among the store's.
        values: their times.
    """

    positions: npt.NDArray[np.intp]
    values: npt.NDArray[np.datetime64]

    @classmethod
    def of(cls, dataset: xr.Dataset, request: Request, where: str, note: Note) -> SelectedTimes:
        """Choose states by the wanted period, as far as the store is filled.

        A sum over a step needs the hours before its first state, a difference the state before, and a statistic that is
        stamped at the beginning of its hours is valid later: these are taken, too.

        Raises:
            StoreError: there are none.
        """
        if "time" not in dataset.coords:
            if "time" in dataset.dims:
                msg = f"{where}: has the dimension time without its values; add that coordinate"
                raise StoreError(msg)
            return cls(np.empty(0, np.intp), np.empty(0, "datetime64[s]"))
        times = dataset["time"] if dataset["time"].ndim else dataset["time"].expand_dims("time")
        check_are_dates(times, where)
        values = times.values.astype("datetime64[s]")
        filled = np.ones(len(values), dtype=bool)
        first, last = (dataset.attrs.get(key) for key in FILLED)
        # What is no time at all, such as an attribute that is missing, bounds nothing.
        if (start := _moment(first)) is not None:
            filled &= values >= start
        if (stop := _moment(last, late=True)) is not None:
            filled &= values <= stop
        if not filled.all():
            note(f"the store is filled from {first} to {last}")
        chosen = np.flatnonzero(filled)
        if request.times is not None:
            early = timedelta(hours=(request.step or 1) - 1)
            if len(values) > 1 and _needs_state_before(dataset, request):
                early = max(early, timedelta(seconds=int(np.diff(values).max().astype(np.int64))))
            wanted = period_indices(values, Period(request.times.start - early, request.times.end))
            chosen = chosen[np.isin(chosen, wanted)]
        if not chosen.size:
            held = " to ".join(np.datetime_as_string(values[[0, -1]], unit="m"))
            stated = "".join(f", {key} {dataset.attrs[key]}" for key in FILLED if key in dataset.attrs)
            msg = f"{where}: no state in --times {request.times}; the store holds {held}{stated}"
            raise StoreError(msg)
        return cls(chosen, values[chosen])

    @property
    def indexer(self) -> slice | npt.NDArray[np.intp]:
        """The positions, as a slice where they follow each other."""
        if not len(self.positions):
            return slice(0, 0)
        first, last = int(self.positions[0]), int(self.positions[-1])
        if last - first + 1 == len(self.positions):
            return slice(first, last + 1)
        return self.positions

    @property
    def ends(self) -> SelectedTimes:
        """The first state and the last."""
        if len(self.positions) < 2:
            return self
        return SelectedTimes(self.positions[[0, -1]], self.values[[0, -1]])


def _moment(text: Any, *, late: bool = False) -> np.datetime64 | None:
    """Read a time that an attribute states, of a day its first or its last second; None if it is no time."""
    try:
        moment = np.datetime64(str(text))
    except ValueError:
        return None
    if np.isnat(moment):
        return None
    second: np.datetime64 = moment.astype("datetime64[s]")
    if late and moment.dtype == np.dtype("datetime64[D]"):
        second += np.timedelta64(86399, "s")
    return second
