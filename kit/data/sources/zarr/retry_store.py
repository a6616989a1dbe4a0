"""A Zarr store that asks again, counts what it asks, and takes no absent chunk for missing values.

Zarr gives the fill value for a chunk that is not there, so that a chunk that was lost looks like a field of missing
values. Here it is an error, but for variables of which it was said that their absent chunks stand for that.

Own code around Zarr's and fsspec's, which try again silently, or not at all, and take a chunk that was cut for a whole
one where Blosc packed it (docs/decisions.md, 2026-11-22).
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from zarr.abc.store import ByteRequest, Store
from zarr.storage import WrapperStore

from kit.data.zarr_guard import is_metadata
from kit.io.errors import KitError, StoreError, UnavailableError
from kit.io.retry import (
    RETRY_STATUS,
    Limits,
    RetryableError,
    SourceError,
    reason,
    retry_after,
    wait_before_retry,
)

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

_logger = logging.getLogger(__name__)

_CACHE_BYTES = 256 * 2**20
"""Chunks that are kept, packed, for the next block of states: those of small grids hold hundreds of states each."""
_BLOSC_HEADER = 16
_REFUSED = (401, 403)

_keys_read: ContextVar[list[str] | None] = ContextVar("keys of chunks that one reading asked for", default=None)


class AbsentChunkError(StoreError):
    """A chunk that the store does not have."""


@contextmanager
def keys_read() -> Iterator[list[str]]:
    """Collect the keys of the chunks that are asked for inside the block, by this thread or for it."""
    keys: list[str] = []
    token = _keys_read.set(keys)
    try:
        yield keys
    finally:
        _keys_read.reset(token)


def describe_key(key: str) -> str:
    """Word a key as a reader wants it in a message."""
    array, _, chunk = key.rpartition("/c/" if "/c/" in key else "/")
    return key if is_metadata(key) or not array else f"chunk {chunk} of {array}"


def any_array(_: str) -> bool:
    """Allow chunks of any array to be absent."""
    return True


class RetryStore(WrapperStore[Store]):
    """A store that is asked again where it does not answer.

    Attributes:
        address: where it is, for messages.
        limits: waiting times and number of attempts.
        requests: how often anything was asked for.
        may_lack: whether absent chunks of an array, by its name, stand for missing values.
        repeated: arrays whose chunks are kept, because the next block of states needs them again.
        blosc: arrays packed by Blosc, which takes a chunk that lacks its end for a whole one.
        versions: arrays with a dimension of versions: its axis, and the number of chunks along it. Of these a chunk may
            be absent where another version has it.
    """

    def __init__(self, store: Store, address: str, limits: Limits) -> None:
        super().__init__(store)
        self.address = address
        self.limits = limits
        self.requests = 0
        self.may_lack: Callable[[str], bool] = frozenset[str]().__contains__
        self.repeated: Collection[str] = frozenset()
        self.blosc: Collection[str] = frozenset()
        self.versions: Mapping[str, tuple[int, int]] = {}
        self._start()

    def _start(self) -> None:
        """Set up what a process has for itself: chunks, the lock, and the tasks that wait for an answer."""
        # Neither chunks nor locks go to other processes, and tasks are of this one's event loop.
        self._chunks: OrderedDict[str, Buffer] = OrderedDict()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    def _with_store(self, store: Store) -> RetryStore:
        # Zarr wraps another store in the same way, such as for read-only access: the same tasks end with both.
        other = RetryStore.__new__(RetryStore)
        other.__dict__ = self.__dict__ | {"_store": store}
        return other

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs."""
        return self.__dict__ | dict.fromkeys(("_chunks", "_lock", "_ended", "_tasks"))

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take a state of ``__getstate__``."""
        self.__dict__.update(state)
        self._start()

    def end(self) -> None:
        """Cancel what is under way and refuse what comes later: a thread that waits would keep the process."""
        self._ended.set()
        for task in tuple(self._tasks):
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read what lies under a key; None for metadata, and for chunks that may be absent.

        Raises:
            AbsentChunkError: a chunk is not there that should be.
            UnavailableError: the store did not answer, however often it was asked.
            StoreError: it refuses to give the key.
        """
        if is_metadata(key):
            return await self._ask(key, prototype, byte_range)
        if (keys := _keys_read.get()) is not None:
            keys.append(key)
        kept = self._chunks.get(key)
        if kept is not None and byte_range is None:
            return kept
        value = await self._ask(key, prototype, byte_range)
        array = _array_of(key)
        # Libraries leave out chunks that hold nothing but the fill value, so that lost and empty look the same.
        if value is None and not self.may_lack(array) and not await self._has_other_version(key, prototype):
            msg = f"{self.address}: {describe_key(key)} is absent"
            raise AbsentChunkError(msg)
        if value is not None and byte_range is None and array in self.repeated:
            # The longest kept goes first, and one always stays, however large.
            with self._lock:
                self._chunks[key] = value
                while len(self._chunks) > 1 and sum(map(len, self._chunks.values())) > _CACHE_BYTES:
                    self._chunks.popitem(last=False)
        return value

    async def _has_other_version(self, key: str, prototype: BufferPrototype) -> bool:
        """Ask whether another version has the chunk of the same place."""
        array = _array_of(key)
        axis, count = self.versions.get(array, (0, 0))
        # Digits alone are indices, whatever lies between them.
        parts = re.split(r"(\d+)", key.removeprefix(f"{array}/"))
        for index in range(count):
            parts[2 * axis + 1] = str(index)
            other = f"{array}/{''.join(parts)}"
            if other != key and await self._ask(other, prototype, None) is not None:
                return True
        return False

    async def size_of(self, key: str) -> int:
        """Return the number of bytes under a key, without reading them.

        Raises:
            OSError: it is not there, or nobody says.
        """
        self.requests += 1
        return await self._store.getsize(key)

    def forget(self, keys: Collection[str]) -> None:
        """Ask for these chunks again the next time."""
        with self._lock:
            for key in keys:
                self._chunks.pop(key, None)

    async def _ask(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        """Ask for a key until there is an answer; ``end`` cancels the task meanwhile."""
        task, failures = asyncio.current_task(), 0
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                if self._ended.is_set():
                    msg = f"{self.address}: {describe_key(key)} was asked for after the store had been closed"
                    raise UnavailableError(msg)
                # Counted by attempts, as servers do.
                self.requests += 1
                try:
                    return await self._attempt(key, prototype, byte_range)
                except RetryableError as failure:
                    failures += 1
                    wait = wait_before_retry(failure, failures, self.limits)
                    _logger.warning("%s: %s; trying again in %.3g s", describe_key(key), failure, wait)
                await asyncio.sleep(wait)
        except SourceError as error:
            msg = f"{self.address}: {describe_key(key)}: {error}. The same command goes on where this one stopped"
            raise UnavailableError(msg) from error
        finally:
            self._tasks.discard(task)

    async def _attempt(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        try:
            value = await self._store.get(key, prototype, byte_range)
        except KitError:
            raise
        # What a library of whatever storage raises has no common class; what cannot be mended by waiting says so.
        except Exception as error:
            status = _status(error)
            if status is None and not isinstance(error, (OSError, TimeoutError, *_client_errors())):
                raise
            if status in _REFUSED or "Forbidden" in str(error):
                # Where nobody may list a bucket, it says so of every key that is not there.
                if is_metadata(key):
                    return None
                msg = f"{self.address}: {describe_key(key)} is refused: {reason(error)} {error}. It is not open to all"
                raise StoreError(msg) from error
            if status is not None and status not in RETRY_STATUS:
                where = f"{self.address}: {describe_key(key)}"
                msg = f"{where}: the server answers {status}; see whether the address is right"
                raise StoreError(msg) from error
            why = reason(error) if status is None else f"the server answers {status}"
            raise RetryableError(why, retry_after(getattr(error, "headers", None) or {})) from error
        # Blosc unpacks a chunk that lacks its last bytes to other numbers, without an error.
        whole_chunk = byte_range is None and not is_metadata(key)
        if value is not None and whole_chunk and _array_of(key) in self.blosc:
            _check_blosc(value.to_bytes())
        return value


def _array_of(key: str) -> str:
    """Name of the array that a chunk belongs to: ``t/0.0.0`` and ``t/c/0/0/0`` are of ``t``."""
    return key.partition("/")[0]


def _status(error: Exception) -> int | None:
    """Read the HTTP status that an error of a library states."""
    if type(error.__cause__).__module__.startswith("aiohttp.http"):
        # What aiohttp makes of an answer that is none has a status, too, that nobody sent.
        return None
    status = str(getattr(error, "status", None) or getattr(error, "code", None))
    return int(status) if status.isdigit() else None


def _client_errors() -> tuple[type[Exception], ...]:
    """List errors of connections that are no ``OSError``."""
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
    header = "too few for its header"
    if len(chunk) >= _BLOSC_HEADER:
        (length,) = struct.unpack_from("<I", chunk, 12)
        if length == len(chunk):
            return
        header = f"its header states {length}"
    msg = f"the chunk has {len(chunk)} bytes, {header}: it came cut off or damaged"
    raise RetryableError(msg)
