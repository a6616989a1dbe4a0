"""Reads one state of one variable from its file straight into the memory that it is wanted in.

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

__all__ = ["Chunks", "Columns", "ChunkSlice", "damage"]

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Columns = slice | Sequence[int]
"""A run of longitudes, or their positions in the order wanted; negative ones are counted from the end."""
_TYPE = np.dtype("<f4")
_CHECKSUM = 4
_HEADER = 16


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Say of what cannot be read that the store is damaged.

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
    """The chunks of one variable: one for each state, [H, W] or [C, H, W].

    Attributes:
        folder: of the array.
        shape: of a state.
        packed: whether Blosc packed the bytes.
        checked: whether a CRC32C ends them.
        array: as Zarr has it, where the chunks are not of the kit's form and Zarr reads them.
    """

    folder: Path
    shape: tuple[int, ...]
    packed: bool
    checked: bool
    array: zarr.Array[Any] | None = None

    @classmethod
    def of(cls, array: zarr.Array[Any], folder: Path) -> Chunks:
        """Find out how an array with time as its first dimension is stored."""
        form = _form(array)
        return cls(folder, array.shape[1:], *(form or (False, False)), array=array if form is None else None)

    def file(self, index: int) -> str:
        """Path of the chunk of the state at a position."""
        if self.array is None:
            return f"{self.folder}/c/{index}{'/0' * len(self.shape)}"
        return f"{self.folder}/{self.array.metadata.encode_chunk_key((index, *(0 for _ in self.shape)))}"

    def read(self, index: int, out: Float32) -> None:
        """Read a state.

        Args:
            index: position of the state.
            out: where it goes, contiguous, of its shape.

        Raises:
            OSError: the chunk is gone or cannot be read.
            ValueError: the chunk is damaged: too short, of another size, or not what was written.
            RuntimeError: the same, as the unpacker says it.
        """
        if self.array is not None:
            self._read_by_zarr(self.array, index, out)
            return
        target = out.reshape(-1).view(np.uint8)
        checksum = np.empty(_CHECKSUM if self.checked else 0, dtype=np.uint8)
        file = self.file(index)
        with _opened(file) as descriptor:
            status = os.fstat(descriptor)
            size = status.st_size - checksum.size
            body = _scratch.bytes("file", max(size, 0)) if self.packed else target
            if size != body.size or os.readv(descriptor, [body.data, checksum.data]) != status.st_size:
                msg = f"{file} holds {size} bytes, {body.size} expected"
                raise ValueError(msg)
        # Once for each process: what is read again and again would take a third more of it.
        known = hash((file, status.st_size, status.st_mtime_ns))
        if self.checked and known not in _compared:
            _compare(body, checksum)
            _compared.add(known)
        if self.packed:
            _unpack(body, target)

    def _read_by_zarr(self, array: zarr.Array[Any], index: int, out: Float32) -> None:
        out[...] = np.asarray(array[index], dtype=np.float32)
        # Zarr reads a chunk that is not there as missing values.
        if out.size and np.isnan(out.flat[0]) and not Path(self.file(index)).exists():
            msg = f"{self.file(index)} is gone"
            raise FileNotFoundError(msg)


@dataclass(frozen=True)
class ChunkSlice:
    """What is wanted of one state of one variable.

    Attributes:
        chunks: of the variable.
        index: position of the state.
        told: the state in words.
        rows: latitudes.
        columns: longitudes.
        levels: positions of levels in the order wanted; all of them without.
    """

    chunks: Chunks
    index: int
    told: str
    rows: slice
    columns: Columns
    levels: Sequence[int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W], or [C, H, W] for an atmospheric variable."""
        *deep, height, width = self.chunks.shape
        if self.levels is not None:
            deep = [len(self.levels)]
        across = len(range(width)[self.columns]) if isinstance(self.columns, slice) else len(self.columns)
        return (*deep, len(range(height)[self.rows]), across)

    def read(self, out: Float32) -> None:
        """Read it.

        Args:
            out: where it goes, contiguous, of its shape.

        Raises:
            StoreError: the chunk is gone or damaged.
        """
        with damage(self.told):
            if self._is_whole:
                self.chunks.read(self.index, out)
                return
            size = math.prod(self.chunks.shape) * _TYPE.itemsize
            whole = _scratch.bytes("state", size).view(_TYPE).reshape(self.chunks.shape)
            self.chunks.read(self.index, whole)
        band = whole[..., self.rows, :]
        if self.levels is None:
            _take(band, self.columns, out)
            return
        for place, level in enumerate(self.levels):
            _take(band[level], self.columns, out[place])

    @property
    def _is_whole(self) -> bool:
        height, width = self.chunks.shape[-2:]
        return (
            self.levels is None
            and self.rows.indices(height) == (0, height, 1)
            and isinstance(self.columns, slice)
            and self.columns.indices(width) == (0, width, 1)
        )


class _Scratch(threading.local):
    """Memory that a thread uses again and again: to be given fresh pages costs as much time as half the unpacking."""

    def __init__(self) -> None:
        self._held: dict[str, Bytes] = {}

    def bytes(self, name: str, size: int) -> Bytes:
        """So many bytes, whatever was in them; the next call in this thread gives the same."""
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, dtype=np.uint8)
        return self._held[name][:size]


_scratch = _Scratch()
_compared: set[int] = set()
"""Files whose checksum was right in this process, each with its size and time of change; hashes, which are small."""


def _form(array: zarr.Array[Any]) -> tuple[bool, bool] | None:
    """Whether Blosc packed an array's chunks, and whether a checksum ends them; None if they are otherwise."""
    plain = array.metadata.to_dict()
    key = {"name": "default", "configuration": {"separator": "/"}}
    if plain["zarr_format"] != 3 or plain["chunk_key_encoding"] != key:
        return None
    if array.dtype != _TYPE or array.chunks != (1, *array.shape[1:]):
        return None
    first, *rest = array.metadata.codecs  # type: ignore[union-attr]
    if not isinstance(first, BytesCodec) or first.endian is None or first.endian.value != sys.byteorder:
        return None
    packed = bool(rest) and isinstance(rest[0], BloscCodec)
    checked = bool(rest) and isinstance(rest[-1], Crc32cCodec)
    return (packed, checked) if len(rest) == packed + checked else None


@contextmanager
def _opened(file: str) -> Iterator[int]:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError as error:
        msg = f"{file} is gone"
        raise FileNotFoundError(msg) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _compare(body: Bytes, checksum: Bytes) -> None:
    fixed = body.view()
    # What computes it takes nothing that could change meanwhile.
    fixed.flags.writeable = False
    found = int(google_crc32c.value(fixed)).to_bytes(_CHECKSUM, "little")
    if found != checksum.tobytes():
        msg = f"its CRC32C is {found.hex()}, {checksum.tobytes().hex()} was recorded when it was written"
        raise ValueError(msg)


def _unpack(body: Bytes, target: Bytes) -> None:
    # Blosc's header, 16 bytes: among them the sizes unpacked and packed, at 4 and 12. The library would leave what was
    # in the memory before where a chunk is too small.
    unpacked, packed = np.frombuffer(body[:_HEADER].tobytes(), "<u4")[[1, 3]] if body.size >= _HEADER else (0, 0)
    if (unpacked, packed) != (target.size, body.size):
        msg = f"{packed} bytes are to unpack to {unpacked}; there are {body.size}, for {target.size}"
        raise ValueError(msg)
    blosc.decompress(body, target)


def _take(band: Float32, columns: Columns, out: Float32) -> None:
    if isinstance(columns, slice):
        out[...] = band[..., columns]
    else:
        np.take(band, columns, axis=-1, out=out, mode="wrap")
