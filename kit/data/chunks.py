"""Chunks of a store, each of one state of one variable, read straight into the memory that they are wanted in.

Zarr reads a chunk through an event loop, a thread of its own, and copies: a new array, then the caller's. Where chunks
are packed the way this kit packs them, one state is one file and one call of the unpacker. Anything else that Zarr can
read, Zarr reads.

Processes that read data import this module and little else: see ``kit.data.reader_processes``.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from kit.io.errors import StoreError

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Columns = slice | Sequence[int]
"""A run of longitudes, or their positions in the order wanted; negative ones are counted from the end."""
_TYPE = np.dtype("<f4")
_CHECKSUM = 4
"""Bytes of a CRC32C."""
_HEADER = 16
"""Bytes of Blosc's header."""


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Report what cannot be read as damage of the store.

    Raises:
        StoreError: the body failed as it does on files that are gone or not what was written.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, MemoryError, zarr.errors.BaseZarrError) as error:
        msg = f"{what} cannot be read ({error}); the store is damaged: build it again with `kit data build`"
        raise StoreError(msg) from error


@dataclass(frozen=True)
class Chunks:
    """Chunks of one variable: one for each state, [H, W] or [C, H, W].

    Attributes:
        folder: Folder of the array.
        shape: Shape of a state.
        packed: Whether Blosc packed the bytes.
        checked: Whether a CRC32C ends them.
        array: Array of Zarr, where the chunks are not of the kit's form and Zarr reads them.
    """

    folder: Path
    shape: tuple[int, ...]
    packed: bool
    checked: bool
    array: zarr.Array[Any] | None = None

    @classmethod
    def of(cls, array: zarr.Array[Any], folder: Path) -> Chunks:
        """Find out how an array with time as its first dimension is stored."""
        shape = array.shape[1:]
        foreign = cls(folder, shape, packed=False, checked=False, array=array)
        plain = array.metadata.to_dict()
        key = {"name": "default", "configuration": {"separator": "/"}}
        if plain["zarr_format"] != 3 or plain["chunk_key_encoding"] != key:
            return foreign
        if array.dtype != _TYPE or array.chunks != (1, *shape):
            return foreign
        first, *rest = array.metadata.codecs  # type: ignore[union-attr]
        if not isinstance(first, BytesCodec) or first.endian is None or first.endian.value != sys.byteorder:
            return foreign
        # Of the kit's form: bytes as this machine has them, packed by Blosc or not, with a checksum or without.
        packed = bool(rest) and isinstance(rest[0], BloscCodec)
        checked = bool(rest) and isinstance(rest[-1], Crc32cCodec)
        if len(rest) != packed + checked:
            return foreign
        return cls(folder, shape, packed, checked)

    def file(self, index: int) -> str:
        """Return the path of the chunk of a state by its index."""
        if self.array is None:
            return f"{self.folder}/c/{index}{'/0' * len(self.shape)}"
        return f"{self.folder}/{self.array.metadata.encode_chunk_key((index, *[0] * len(self.shape)))}"

    def read(self, index: int, out: Float32) -> None:
        """Read a state.

        Args:
            index: Index of the state.
            out: Memory for it, contiguous, of its shape.

        Raises:
            OSError: the chunk is gone or cannot be read.
            ValueError: the chunk is damaged: too short, of another size, or not what was written.
            RuntimeError: the same, as the unpacker says it.
        """
        file = self.file(index)
        if self.array is not None:
            out[...] = np.asarray(self.array[index], dtype=np.float32)
            # Zarr reads a chunk that is not there as missing values.
            if out.size and np.isnan(out.flat[0]) and not Path(file).exists():
                msg = f"{file} is gone"
                raise FileNotFoundError(msg)
            return
        target = body = out.reshape(-1).view(np.uint8)
        checksum = np.empty(_CHECKSUM * self.checked, dtype=np.uint8)
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError as error:
            msg = f"{file} is gone"
            raise FileNotFoundError(msg) from error
        try:
            status = os.fstat(descriptor)
            size = status.st_size - checksum.size
            if self.packed:
                body = _scratch.bytes("file", max(size, 0))
            if size != body.size or os.readv(descriptor, [body.data, checksum.data]) != status.st_size:
                msg = f"{file} holds {size} bytes, {body.size} expected"
                raise ValueError(msg)
        finally:
            os.close(descriptor)
        # Once for each process, and again when a file's size or time of change differ:
        # what is read again and again would take a third more of it.
        known = hash((file, status.st_size, status.st_mtime_ns))
        if self.checked and known not in _compared:
            # The library takes nothing that could change meanwhile.
            fixed = body.view()
            fixed.flags.writeable = False
            found = int(google_crc32c.value(fixed)).to_bytes(_CHECKSUM, "little")
            if found != checksum.tobytes():
                msg = f"its CRC32C is {found.hex()}, {checksum.tobytes().hex()} was recorded when it was written"
                raise ValueError(msg)
            _compared.add(known)
        if self.packed:
            _unpack(body, target)


@dataclass(frozen=True)
class ChunkSlice:
    """Part of one state of one variable, to be read.

    Attributes:
        chunks: Chunks of the variable.
        index: Index of the state.
        label: The state in words, for messages.
        rows: Latitudes.
        columns: Longitudes.
        levels: Indices of levels in the order wanted; all of them without.
    """

    chunks: Chunks
    index: int
    label: str
    rows: slice
    columns: Columns
    levels: Sequence[int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W], or [C, H, W] for an atmospheric variable."""
        *deep, height, width = self.chunks.shape
        if self.levels is not None:
            deep = [len(self.levels)]
        columns = self.columns
        if isinstance(columns, slice):
            columns = range(width)[columns]
        return (*deep, len(range(height)[self.rows]), len(columns))

    def read(self, out: Float32) -> None:
        """Read the slice.

        Args:
            out: Memory for it, contiguous, of its shape.

        Raises:
            StoreError: the chunk is gone or damaged.
        """
        height, width = self.chunks.shape[-2:]
        columns = self.columns
        with damage(self.label):
            # A whole state needs no copy.
            if (
                self.levels is None
                and self.rows.indices(height) == (0, height, 1)
                and isinstance(columns, slice)
                and columns.indices(width) == (0, width, 1)
            ):
                self.chunks.read(self.index, out)
                return
            size = math.prod(self.chunks.shape) * _TYPE.itemsize
            whole = _scratch.bytes("state", size).view(_TYPE).reshape(self.chunks.shape)
            self.chunks.read(self.index, whole)
        band = whole[..., self.rows, :]
        if self.levels is None:
            _take(band, columns, out)
            return
        for place, level in enumerate(self.levels):
            _take(band[level], columns, out[place])


class _Scratch(threading.local):
    """Memory that a thread uses again and again: to be given fresh pages costs as much time as half the unpacking."""

    def __init__(self) -> None:
        self._held: dict[str, Bytes] = {}

    def bytes(self, name: str, size: int) -> Bytes:
        """Return so many bytes, whatever was in them; the next call in this thread returns the same."""
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, dtype=np.uint8)
        return self._held[name][:size]


_scratch = _Scratch()
_compared: set[int] = set()
"""Files whose checksum was right in this process, each with its size and time of change; hashes, which are small."""


def _unpack(body: Bytes, target: Bytes) -> None:
    # Blosc's header has the sizes unpacked and packed, at 4 and 12. Where a chunk is too small, the library would leave
    # what was in the memory before.
    unpacked = packed = 0
    if body.size >= _HEADER:
        unpacked, packed = np.frombuffer(body[:_HEADER].tobytes(), "<u4")[[1, 3]]
    if (unpacked, packed) != (target.size, body.size):
        msg = f"{packed} bytes are to unpack to {unpacked}; there are {body.size}, for {target.size}"
        raise ValueError(msg)
    blosc.decompress(body, target)


def _take(band: Float32, columns: Columns, out: Float32) -> None:
    if isinstance(columns, slice):
        out[...] = band[..., columns]
    else:
        np.take(band, columns, axis=-1, out=out, mode="wrap")
