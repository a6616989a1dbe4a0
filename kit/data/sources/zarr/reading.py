"""Arrays of a Zarr store as dask reads them: a few states at a time, again where a chunk cannot be unpacked.

What the store says of its arrays is compared now and then, and with the last state, with what it said at first.
"""

from __future__ import annotations

import hashlib
import json
import logging
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

from kit.data.settings import Period
from kit.data.sources.base import Request
from kit.data.sources.fields import Note
from kit.data.sources.zarr.retry_store import AbsentChunkError, PatientStore, described, keys_read
from kit.data.store.format import period_indices
from kit.io.errors import KitError, StoreError, UnavailableError

__all__ = ["Arrays", "FILLED", "Times", "hours_between", "lazy"]

_logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 2**20
"""Most of an array that is computed at once, where the store's own chunks hold many states."""
_EVERY = 120.0
"""Seconds between looks at what the store says of its arrays."""
_UNDECODABLE = (RuntimeError, ValueError, TypeError, EOFError, OSError, MemoryError, zlib.error, ArithmeticError)
"""What codecs raise for bytes that they cannot unpack."""

Positions = npt.NDArray[np.intp]


class Arrays:
    """What a store says of those of its arrays that are read."""

    def __init__(self, store: PatientStore) -> None:
        self.store = store
        group = zarr.open_group(store, mode="r")
        self.format = int(group.metadata.zarr_format)
        self.consolidated = group.metadata.consolidated_metadata is not None
        self._told: dict[str, str] = {}
        self._looked = time.monotonic()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs."""
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state of ``__getstate__``; the clock is another one."""
        self.__dict__.update(state | {"_lock": threading.Lock(), "_looked": time.monotonic()})

    def pin(self, names: Sequence[str]) -> str:
        """Remember what the store says of these arrays.

        Returns:
            SHA-256 of it.
        """
        group = self._group()
        self._told = {name: _told(group[name]) for name in sorted(names)}
        arrays = {name: group[name] for name in names}
        self.store.blosc = {name for name, array in arrays.items() if _is_blosc(array)}
        return hashlib.sha256(json.dumps(self._told, sort_keys=True).encode()).hexdigest()

    def chunk_bytes(self, name: str, place: Sequence[int]) -> int:
        """Size of a chunk of an array, as it is stored; 0 where nobody says.

        Only its size is asked for.
        """
        array: Any = self._group()[name]
        key = f"{name}/{array.metadata.encode_chunk_key(tuple(place))}"
        try:
            return sync(self.store.size_of(key))
        except (OSError, ValueError):
            return 0

    def confirm(self, *, now: bool) -> None:
        """Look whether the store still says of its arrays what it said at first.

        Args:
            now: look in any case; else only if the last look was some time ago.

        Raises:
            StoreError: it does not.
        """
        with self._lock:
            if not now and time.monotonic() - self._looked < _EVERY:
                return
            changed = self._changed()
            self._looked = time.monotonic()
        if changed:
            msg = (
                f"{self.store.address}: what the store says of {', '.join(changed[:5])} changed while it was read, so "
                "that states before and after may not belong together; remove what was built so far and build again"
            )
            raise StoreError(msg)

    def _changed(self) -> list[str]:
        try:
            group = self._group()
            return [name for name, told in self._told.items() if name not in group or _told(group[name]) != told]
        except KitError:
            raise
        except (*_UNDECODABLE, KeyError) as error:
            return [f"its arrays ({type(error).__name__}: {error})"]

    def read(self, name: str, take: Callable[[], npt.NDArray[Any]], when: str) -> npt.NDArray[Any]:
        """Read a part of an array; again if a chunk cannot be unpacked.

        Raises:
            StoreError: a chunk is absent, or the store changed.
            UnavailableError: chunks came damaged each time, or not at all.
        """
        limits, failures = self.store.limits, 0
        while True:
            with keys_read() as keys:
                try:
                    return take()
                except AbsentChunkError as error:
                    raise StoreError(self._absent(name, error, when)) from error
                except KitError:
                    raise
                except _UNDECODABLE as error:
                    failures += 1
                    self.store.forget(keys)
                    self.confirm(now=True)
                    chunks = ", ".join(described(key) for key in list(dict.fromkeys(keys))[:3]) or name
                    if failures >= limits.attempts:
                        msg = (
                            f"{self.store.address}: {chunks}{when} cannot be unpacked ({error}); given up after "
                            f"{failures} attempts. It is damaged there, or came damaged each time"
                        )
                        raise UnavailableError(msg) from error
                    wait = min(limits.backoff * 2 ** (failures - 1), limits.longest)
                    _logger.warning("%s cannot be unpacked (%s); trying again in %.3g s", chunks, error, wait)
                    time.sleep(wait)

    def _absent(self, name: str, error: AbsentChunkError, when: str) -> str:
        fill = getattr(self._group()[name], "fill_value", None)
        return (
            f"{error}{when}. Zarr would give its fill value ({fill}) for it, but it may as well have been lost, or not "
            f"been written yet: choose other --times, or name {name} in --absent_chunks if there absent chunks stand "
            "for that value"
        )

    def _group(self) -> zarr.Group:
        fmt: Any = self.format
        return zarr.open_group(self.store, mode="r", zarr_format=fmt, use_consolidated=self.consolidated)


def lazy(
    variable: xr.Variable, name: str, arrays: Arrays, times: npt.NDArray[np.datetime64] | None, positions: Positions
) -> da.Array:
    """One array as dask reads it, in pieces that end where its chunks end.

    Args:
        variable: lazy, as xarray gives it, with what is not wanted left out; the time, if it has one, comes in any
            place.
        name: the array's own name in the store.
        arrays: the store's.
        times: of its states, for messages; None if it has no time.
        positions: of its states among the array's.
    """
    along = variable.dims.index("time") if "time" in variable.dims else None
    chunks: list[Any] = list(variable.shape)
    if along is not None:
        stored = variable.encoding.get("shards") or variable.encoding.get("chunks") or variable.shape
        largest = max(1, CHUNK_BYTES // max(1, variable.dtype.itemsize * variable.size // variable.shape[along]))
        chunks[along] = _runs(positions // max(1, int(stored[along])), largest)
    reading = _Reading(variable, name, arrays, times, along)
    pieces = tuple(piece if isinstance(piece, tuple) else (piece,) for piece in chunks)
    meta = np.empty((0,) * variable.ndim, variable.dtype)
    array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        reading, chunks=pieces, name=False, fancy=False, asarray=False, meta=meta
    )
    return array


def _runs(groups: Positions, largest: int) -> tuple[int, ...]:
    """Lengths of runs of equal numbers, none longer than ``largest``."""
    edges = np.flatnonzero(np.diff(groups)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(groups)]]))
    return tuple(min(largest, int(n) - start) for n in lengths for start in range(0, int(n), largest))


class _Reading:
    """An array for dask: a shape, a type, and slices of values."""

    def __init__(
        self,
        variable: xr.Variable,
        name: str,
        arrays: Arrays,
        times: npt.NDArray[np.datetime64] | None,
        along: int | None,
    ) -> None:
        self._variable, self._name, self._arrays = variable, name, arrays
        self._times, self._along = times, along
        self.shape, self.dtype, self.ndim = variable.shape, variable.dtype, variable.ndim

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        parts = key if isinstance(key, tuple) else (key,)
        when, last = "", False
        if self._along is not None and self._times is not None:
            taken = np.atleast_1d(self._times[parts[self._along]])
            when = f" at {taken[0].astype('datetime64[m]')}" + (f" and {len(taken) - 1} more times" * (len(taken) > 1))
            last = bool(taken[-1] == self._times[-1])
        values = self._arrays.read(self._name, lambda: np.asarray(self._variable[parts].values), when)
        self._arrays.confirm(now=last)
        return values


def _told(array: Any) -> str:
    """What a store says of an array, as text that does not depend on order."""
    metadata: ArrayV2Metadata | ArrayV3Metadata = array.metadata
    documents: Mapping[str, Any] = metadata.to_buffer_dict(default_buffer_prototype())
    texts = {name: json.loads(buffer.to_bytes()) for name, buffer in documents.items()}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def _is_blosc(array: Any) -> bool:
    """Whether a chunk as it is stored is a buffer of Blosc."""
    metadata = array.metadata
    last = metadata.compressor if isinstance(metadata, ArrayV2Metadata) else (*metadata.codecs,)[-1]
    return "blosc" in type(last).__name__.lower()


# Which states of a Zarr store are taken, before any of them is read.

FILLED = ("valid_time_start", "valid_time_stop")
"""Attributes of ARCO-ERA5: its arrays are allocated for decades to come, and filled between these."""


def hours_between(times: npt.NDArray[np.datetime64]) -> int | None:
    """Hours from state to state; None for one state."""
    return int(np.diff(times).min() / np.timedelta64(1, "h")) if len(times) > 1 else None


@dataclass(frozen=True)
class Times:
    """States that are taken.

    Attributes:
        positions: among the store's.
        values: their times.
    """

    positions: npt.NDArray[np.intp]
    values: npt.NDArray[np.datetime64]

    @classmethod
    def of(cls, dataset: xr.Dataset, request: Request, where: str, note: Note) -> Times:
        """Choose states by the wanted period, as far as the store is filled.

        A sum over a step needs the hours before its first state, so that these are taken, too.

        Raises:
            StoreError: there are none.
        """
        if "time" not in dataset.coords:
            return cls(np.empty(0, np.intp), np.empty(0, "datetime64[s]"))
        values = np.atleast_1d(dataset["time"].values)
        if not np.issubdtype(values.dtype, np.datetime64) or dataset["time"].ndim > 1 or not values.size:
            msg = f"{where}: times of the type {values.dtype} and the shape {values.shape} are no dates of a calendar"
            raise StoreError(msg)
        values = values.astype("datetime64[s]")
        inside = cls._filled(dataset, values, note)
        if request.times is not None:
            early = timedelta(hours=(request.step or 1) - 1)
            wanted = period_indices(values, Period(request.times.start - early, request.times.end))
            inside = inside[np.isin(inside, wanted)]
        if not inside.size:
            first, last = (np.datetime_as_string(values[edge], unit="m") for edge in (0, -1))
            told = "".join(f", {key} {dataset.attrs[key]}" for key in FILLED if key in dataset.attrs)
            msg = f"{where}: no state in --times {request.times}; the store holds {first} to {last}{told}"
            raise StoreError(msg)
        return cls(inside, values[inside])

    @staticmethod
    def _filled(dataset: xr.Dataset, values: npt.NDArray[np.datetime64], note: Note) -> npt.NDArray[np.intp]:
        start, stop = (_edge(dataset.attrs.get(key), late=key == FILLED[1]) for key in FILLED)
        inside = np.ones(len(values), dtype=bool)
        if start is not None:
            inside &= values >= start
        if stop is not None:
            inside &= values <= stop
        if not inside.all():
            note(f"the store is filled from {dataset.attrs.get(FILLED[0])} to {dataset.attrs.get(FILLED[1])}")
        return np.flatnonzero(inside)

    @property
    def indexer(self) -> slice | npt.NDArray[np.intp]:
        """The positions, as a slice where they follow each other."""
        if not len(self.positions):
            return slice(0, 0)
        first, last = int(self.positions[0]), int(self.positions[-1])
        return slice(first, last + 1) if last - first + 1 == len(self.positions) else self.positions

    @property
    def ends(self) -> Times:
        """The first state and the last."""
        edges = [0, -1] if len(self.positions) > 1 else slice(None)
        return Times(self.positions[edges], self.values[edges])


def _edge(text: Any, *, late: bool) -> np.datetime64 | None:
    """A time that an attribute states; of a day, the first or the last second."""
    try:
        moment = np.datetime64(str(text))
    except ValueError:
        return None
    if np.isnat(moment):
        return None
    one: np.datetime64 = moment.astype("datetime64[s]")
    return one + np.timedelta64(86399, "s") if late and moment.dtype == np.dtype("datetime64[D]") else one
