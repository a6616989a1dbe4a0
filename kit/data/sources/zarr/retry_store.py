"""A Zarr store that asks again, counts what it asks, and takes no absent chunk for missing values.

Zarr gives the fill value for a chunk that is not there, so that a chunk that was lost looks like a field of missing
values. Here it is an error, but for variables of which it was said that their absent chunks stand for that.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

from kit.io.errors import KitError, StoreError, UnavailableError
from kit.io.retry import RETRY_STATUS, Limits, RetryableError, reason, retry_after

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["AbsentChunkError", "PatientStore", "described", "keys_read"]

_logger = logging.getLogger(__name__)

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_KEPT_BYTES = 256 * 2**20
"""Chunks that are kept, packed, for the next block of states: those of small grids hold hundreds of states each."""
_BLOSC_HEADER = 16
_REFUSED = (401, 403)

_read: ContextVar[list[str] | None] = ContextVar("keys of chunks that one reading asked for", default=None)


class AbsentChunkError(StoreError):
    """A chunk that the store does not have."""

    def __init__(self, key: str, address: str) -> None:
        super().__init__(f"{address}: {described(key)} is absent")
        self.key = key


@contextmanager
def keys_read() -> Iterator[list[str]]:
    """Collect the keys of the chunks that are asked for inside the block, by this thread or for it."""
    keys: list[str] = []
    token = _read.set(keys)
    try:
        yield keys
    finally:
        _read.reset(token)


def described(key: str) -> str:
    """A key as a reader wants it in a message."""
    array, _, chunk = key.rpartition("/c/") if "/c/" in key else key.rpartition("/")
    return key if _is_metadata(key) or not array else f"chunk {chunk} of {array}"


class _Calls:
    """What is being asked for, so that it can be ended: a thread that waits for an answer would keep the process."""

    def __init__(self) -> None:
        self.ended = False
        self._tasks: set[asyncio.Task[object]] = set()

    def __reduce__(self) -> tuple[type[_Calls], tuple[()]]:
        """Another process has calls of its own."""
        return _Calls, ()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Know of the running task while the block runs."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """Cancel what is under way; what comes later is refused."""
        self.ended = True
        for task in tuple(self._tasks):
            task.get_loop().call_soon_threadsafe(task.cancel)


class PatientStore(WrapperStore[Store]):
    """A store that is read with patience.

    Attributes:
        address: where it is, for messages.
        limits: of patience.
        requests: how often anything was asked for.
        sparse: arrays whose absent chunks stand for missing values.
        repeated: arrays whose chunks are kept, because the next block of states needs them again.
        blosc: arrays packed by Blosc, which takes a chunk that lacks its end for a whole one.
    """

    def __init__(self, store: Store, address: str, limits: Limits) -> None:
        super().__init__(store)
        self.address = address
        self.limits = limits
        self.requests = 0
        self.sparse: Collection[str] = frozenset()
        self.repeated: Collection[str] = frozenset()
        self.blosc: Collection[str] = frozenset()
        self._kept: OrderedDict[str, Buffer] = OrderedDict()
        self._lock = threading.Lock()
        self._calls = _Calls()

    def end(self) -> None:
        """Give up what other threads still wait for: nobody reads any more."""
        self._calls.end()

    def _with_store(self, store: Store) -> PatientStore:
        other = PatientStore(store, self.address, self.limits)
        other.sparse, other.repeated, other.blosc = self.sparse, self.repeated, self.blosc
        other._calls = self._calls
        return other

    def __getstate__(self) -> dict[str, object]:
        """What another process needs: not the chunks, not the lock."""
        return self.__dict__ | {"_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take a state of ``__getstate__``."""
        self.__dict__.update(state | {"_lock": threading.Lock()})

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Give what lies under a key; None for metadata, and for chunks that may be absent.

        Raises:
            AbsentChunkError: a chunk is not there that should be.
            UnavailableError: the store did not answer, however often it was asked.
            StoreError: it refuses to give the key.
        """
        if _is_metadata(key):
            return await self._asked(key, prototype, byte_range)
        if (keys := _read.get()) is not None:
            keys.append(key)
        kept = None if byte_range is not None else self._kept.get(key)
        if kept is not None:
            return kept
        value = await self._asked(key, prototype, byte_range)
        array = _array_of(key)
        if value is None and array not in self.sparse:
            raise AbsentChunkError(key, self.address)
        if value is not None and byte_range is None and array in self.repeated:
            self._keep(key, value)
        return value

    async def size_of(self, key: str) -> int:
        """Bytes under a key, without them.

        Raises:
            OSError: it is not there, or nobody says.
        """
        self.requests += 1
        return await self._store.getsize(key)

    def forget(self, keys: Collection[str]) -> None:
        """Ask for these chunks again the next time."""
        with self._lock:
            for key in keys:
                self._kept.pop(key, None)

    async def _asked(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        with self._calls.counted():
            return await self._insisted(key, prototype, byte_range)

    async def _insisted(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        failures = 0
        while True:
            if self._calls.ended:
                msg = f"{self.address}: {described(key)} was asked for after the store had been closed"
                raise UnavailableError(msg)
            try:
                self.requests += 1
                return await self._attempt(key, prototype, byte_range)
            except RetryableError as interrupted:
                failures += 1
                wait = self.limits.backoff * 2 ** (failures - 1) if interrupted.wait is None else interrupted.wait
                asked = interrupted.wait is not None and wait > self.limits.longest
                if failures >= self.limits.attempts or asked:
                    why = f"the server asks to wait {wait:.0f} s" if asked else f"given up after {failures} attempts"
                    msg = (
                        f"{self.address}: {described(key)}: {interrupted}; {why}. The same command goes on where this "
                        "one stopped"
                    )
                    raise UnavailableError(msg) from interrupted
                wait = min(wait, self.limits.longest)
                _logger.warning("%s: %s; trying again in %.3g s", described(key), interrupted, wait)
                await asyncio.sleep(wait)

    async def _attempt(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        try:
            value = await self._store.get(key, prototype, byte_range)
        except KitError:
            raise
        # What a library of whatever storage raises has no common class; what cannot be mended by waiting says so.
        except Exception as error:
            if (status := _status(error)) is None and not isinstance(error, (OSError, TimeoutError, *_clients())):
                raise
            if status in _REFUSED or "Forbidden" in str(error):
                # Where nobody may list a bucket, it says so of every key that is not there.
                if _is_metadata(key):
                    return None
                msg = f"{self.address}: {described(key)} is refused: {reason(error)} {error}. It is not open to all"
                raise StoreError(msg) from error
            if status is not None and status not in RETRY_STATUS:
                msg = f"{self.address}: {described(key)}: the server answers {status}; see whether the address is right"
                raise StoreError(msg) from error
            why = reason(error) if status is None else f"the server answers {status}"
            raise RetryableError(why, retry_after(getattr(error, "headers", None) or {})) from error
        whole = value is not None and byte_range is None and not _is_metadata(key)
        if value is not None and whole and _array_of(key) in self.blosc:
            _check_blosc(value.to_bytes())
        return value

    def _keep(self, key: str, value: Buffer) -> None:
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in _METADATA


def _array_of(key: str) -> str:
    """Name of the array that a chunk belongs to: ``t/0.0.0`` and ``t/c/0/0/0`` are of ``t``."""
    return key.partition("/")[0]


def _status(error: Exception) -> int | None:
    """HTTP status that an error of a library tells of."""
    if type(error.__cause__).__module__.startswith("aiohttp.http"):
        # What aiohttp makes of an answer that is none has a status, too, that nobody sent.
        return None
    told = getattr(error, "status", None) or getattr(error, "code", None)
    return int(told) if isinstance(told, int) or (isinstance(told, str) and told.isdigit()) else None


def _clients() -> tuple[type[Exception], ...]:
    """Errors of connections that are no ``OSError``."""
    try:
        import aiohttp
    except ImportError:
        return ()
    return (aiohttp.ClientError,)


def _check_blosc(chunk: bytes) -> None:
    """Compare a chunk's length with the one that its header states.

    Raises:
        RetryableError: they differ; the next answer may be whole.
    """
    if len(chunk) < _BLOSC_HEADER or (stated := struct.unpack_from("<I", chunk, 12)[0]) != len(chunk):
        told = f"its header states {stated}" if len(chunk) >= _BLOSC_HEADER else "too few for its header"
        msg = f"the chunk has {len(chunk)} bytes, {told}: it came cut off or damaged"
        raise RetryableError(msg)
