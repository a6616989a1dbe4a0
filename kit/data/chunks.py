"""Reads one state of one variable from its file straight into the array that it is wanted in.

Zarr reads a chunk through an event loop, a thread of its own, and copies: a new array, then the caller's. Where chunks
are packed the way this kit packs them, one state is one file and one call of the unpacker. Anything else that Zarr can
read, Zarr reads.
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
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

__all__ = ["Chunks", "Columns"]

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Columns = slice | Sequence[int]
"""A run of longitudes, or their positions in the order wanted."""
_CHECKSUM = 4
_HEADER = 16
_TYPE = np.dtype("<f4")


class _Scratch(threading.local):
    """Memory that a thread uses again and again: fresh pages cost a quarter of the time that unpacking takes."""

    def __init__(self) -> None:
        self._held: dict[str, Bytes] = {}

    def bytes(self, name: str, size: int) -> Bytes:
        """So many bytes, whatever was in them; they are overwritten by the next call in this thread."""
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, dtype=np.uint8)
        return self._held[name][:size]


_scratch = _Scratch()


@dataclass(frozen=True)
class Chunks:
    """The chunks of one variable: one for each state, [H, W] or [C, H, W].

    Attributes:
        array: as Zarr has it.
        folder: of the array.
        shape: of a state.
        packed: whether Blosc packed the bytes; None where the chunks are not of the kit's form and Zarr reads them.
        checked: whether a CRC32C follows them.
    """

    array: zarr.Array[Any]
    folder: Path
    shape: tuple[int, ...]
    packed: bool | None
    checked: bool

    @classmethod
    def of(cls, array: zarr.Array[Any], folder: Path) -> Chunks:
        """Find out how an array with time as its first dimension is stored."""
        shape = array.shape[1:]
        form = _form(array) if array.chunks == (1, *shape) else None
        packed, checked = form or (None, False)
        return cls(array, folder, shape, packed, checked)

    def file(self, index: int) -> Path:
        """Of the state at a position."""
        return self.folder / self.array.metadata.encode_chunk_key((index, *(0 for _ in self.shape)))

    def read(
        self,
        index: int,
        out: Float32,
        rows: slice = slice(None),
        columns: Columns = slice(None),
        levels: Sequence[int] | None = None,
    ) -> None:
        """Read a state, or the part of it that is asked for.

        Args:
            index: position of the state.
            out: where it goes, of the shape of what is asked for.
            rows: latitudes.
            columns: longitudes.
            levels: positions of levels in the order wanted; all by default.

        Raises:
            OSError: the chunk is gone or cannot be read.
            ValueError: the chunk is damaged: too short, of another size, or not what was written.
            RuntimeError: the same, as the unpacker says it.
        """
        if out.shape == self.shape and out.flags.c_contiguous and _is_whole(self.shape, rows, columns, levels):
            self._read_whole(index, out)
            return
        whole = _scratch.bytes("state", math.prod(self.shape) * _TYPE.itemsize).view(_TYPE).reshape(self.shape)
        self._read_whole(index, whole)
        band = whole[..., rows, :]
        for place, level in enumerate(levels) if levels is not None else ():
            _take(band[level], columns, out[place])
        if levels is None:
            _take(band, columns, out)

    def _read_whole(self, index: int, out: Float32) -> None:
        if self.packed is None:
            self._read_by_zarr(index, out)
            return
        with _opened(self.file(index)) as descriptor:
            target = out.reshape(-1).view(np.uint8)
            checksum = np.empty(_CHECKSUM if self.checked else 0, dtype=np.uint8)
            size = os.fstat(descriptor).st_size - checksum.size
            body = _scratch.bytes("file", max(size, 0)) if self.packed else target
            if size != body.size or os.readv(descriptor, [body, checksum]) != size + checksum.size:
                msg = f"{self.file(index)} has {size} bytes, {body.size} expected"
                raise ValueError(msg)
        if self.checked:
            _compare(body, checksum)
        if self.packed:
            _unpack(body, target)

    def _read_by_zarr(self, index: int, out: Float32) -> None:
        out[...] = np.asarray(self.array[index], dtype=np.float32)
        # Zarr reads a chunk that is not there as missing values.
        if out.size and np.isnan(out.flat[0]) and not self.file(index).exists():
            msg = f"{self.file(index)} is gone"
            raise FileNotFoundError(msg)


def _form(array: zarr.Array[Any]) -> tuple[bool, bool] | None:
    """Whether Blosc packed an array's chunks and whether a checksum ends them; None if they are otherwise."""
    head, *rest = array.metadata.codecs if array.metadata.zarr_format == 3 else (None,)
    if not isinstance(head, BytesCodec) or head.endian is None or head.endian.value != sys.byteorder:
        return None
    kinds = [type(codec) for codec in rest]
    known = {(): (False, False), (BloscCodec,): (True, False)}
    known |= {(*before, Crc32cCodec): (packed, True) for before, (packed, _) in known.items()}
    return known.get(tuple(kinds)) if array.dtype == _TYPE else None


def _is_whole(shape: tuple[int, ...], rows: slice, columns: Columns, levels: Sequence[int] | None) -> bool:
    height, width = shape[-2:]
    return (
        (levels is None or list(levels) == list(range(shape[0])))
        and rows.indices(height) == (0, height, 1)
        and isinstance(columns, slice)
        and columns.indices(width) == (0, width, 1)
    )


def _take(band: Float32, columns: Columns, out: Float32) -> None:
    if isinstance(columns, slice):
        out[...] = band[..., columns]
    else:
        np.take(band, columns, axis=-1, out=out, mode="wrap")


@contextmanager
def _opened(file: Path) -> Iterator[int]:
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
    # Blosc's header, 16 bytes: among them the sizes unpacked and packed, at 4 and 12. The library itself looks at
    # neither: it would leave what was in the memory before, or read on behind the end.
    unpacked, packed = np.frombuffer(body[:_HEADER].tobytes(), "<u4")[[1, 3]] if body.size >= _HEADER else (0, 0)
    if (unpacked, packed) != (target.size, body.size):
        msg = f"it unpacks {packed} bytes to {unpacked}; it has {body.size}, and {target.size} are expected"
        raise ValueError(msg)
    blosc.decompress(body, target)
