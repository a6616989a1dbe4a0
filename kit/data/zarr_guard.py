"""The way to every Zarr store, the kit's own and others': nothing is read, and nothing decoded, beyond what is due.

``GuardedStore`` lies between Zarr and where a store's bytes are. It reads the descriptions of arrays before Zarr does,
and refuses codecs that could do more than unpack numbers. It then knows how many bytes a chunk may have, and refuses
larger ones, files that are none, and chunks that would unpack to more. Own code, because Zarr's codecs take whatever a
chunk's header asks for (numcodecs 0.16).
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore, ZipStore

from kit.data.zarr_layout import ChunkLayout, read_layout
from kit.io.documents import MAX_BYTES, DocumentError, parse_json
from kit.io.errors import StoreError
from kit.io.expansion import is_bomb

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
"""Names of the files that describe groups and arrays."""
_DESCRIPTIONS = ("zarr.json", ".zarray")
_PIECE = 2**20
_LZMA_MEMORY = 2**28
_MAX_STREAMS = 64
_ABSENT = 2**64 - 1
"""Place and length of a chunk that a shard does not hold."""

answer_limit: ContextVar[int] = ContextVar("most bytes of what a store is asked for", default=MAX_BYTES)
"""For those who read over the network: the size of the present answer."""


def is_metadata(key: str) -> bool:
    """Tell whether a key is that of a description."""
    return key.rpartition("/")[2] in METADATA


class GuardedStore(WrapperStore[Store]):
    """A store whose descriptions and chunks are checked before Zarr decodes them.

    Attributes:
        address: Where the store is, for messages.
    """

    def __init__(self, store: Store, address: str) -> None:
        super().__init__(store)
        self.address = address
        self._layouts: dict[str, ChunkLayout] = {}

    def _with_store(self, store: Store) -> "GuardedStore":
        other = GuardedStore(store, self.address)
        other._layouts = self._layouts
        return other

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read what lies under a key, if it is not more than it may be.

        Raises:
            StoreError: a description has a codec that is not decoded or a size that cannot be, or a chunk of such an
                array is asked for.
            ValueError: there are more bytes than there may be, a chunk unpacks to more, or a description is no JSON.
            OSError: it is no file.
        """
        layout = None if is_metadata(key) else self._layout_of(key)
        limit = MAX_BYTES if layout is None else layout.largest_stored
        size = self._stored_size(key)
        if size is not None and size > limit:
            raise ValueError(_beyond(key, f"holds {size} bytes", limit))
        token = answer_limit.set(limit)
        try:
            value = await self._store.get(key, prototype, byte_range)
        finally:
            answer_limit.reset(token)
        if value is None:
            return None
        if len(value) > limit:
            raise ValueError(_beyond(key, f"holds {len(value)} bytes", limit))
        if layout is None:
            self._learn(key, value.to_bytes())
        else:
            self._check_chunk(key, value, byte_range, layout)
        return value

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Buffer | None]:
        """Read parts of keys, each as ``get`` reads it."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def getsize(self, key: str) -> int:
        """Return the number of bytes under a key, without reading them."""
        return await self._store.getsize(key)

    def _stored_size(self, key: str) -> int | None:
        """Return the size of what lies under a key on this machine; None where it is absent, or elsewhere."""
        if isinstance(self._store, LocalStore):
            file = self._store.root / key
            if file.exists() and not file.is_file() and not file.is_dir():
                # Opening a pipe waits for ever, and a device has no end.
                msg = f"{key} is no file"
                raise OSError(msg)
            return file.stat().st_size if file.is_file() else None
        if isinstance(self._store, ZipStore):
            try:
                return self._store._zf.getinfo(key).file_size
            except KeyError:
                return None
        return None

    def _learn(self, key: str, content: bytes) -> None:
        """Read the layouts of arrays from a description.

        Raises:
            StoreError: there is a codec that is not decoded, or a size that cannot be.
        """
        folder, _, name = key.rpartition("/")
        try:
            document = parse_json(content)
        except DocumentError as error:
            msg = f"{key} is not readable as JSON: {error}"
            raise ValueError(msg) from error
        try:
            for array, description in _arrays(document, folder, name):
                self._layouts[array] = read_layout(description, array)
        except StoreError as error:
            msg = f"{self.address}: {error}"
            raise StoreError(msg) from None

    def _layout_of(self, key: str) -> ChunkLayout:
        """Find the layout of the array that a chunk belongs to."""
        folder = key
        while folder:
            folder = folder.rpartition("/")[0]
            if folder in self._layouts:
                return self._layouts[folder]
        msg = f"{self.address}: {key} belongs to no array that the store describes"
        raise StoreError(msg)

    def _check_chunk(self, key: str, value: Buffer, byte_range: ByteRequest | None, layout: ChunkLayout) -> None:
        """Check that a chunk, or each chunk of a shard, unpacks to no more than it should.

        Raises:
            StoreError: chunks of the array are not decoded.
            ValueError: it unpacks to more.
        """
        if layout.refusal:
            msg = (
                f"{self.address}: {key} is not decoded: {layout.refusal}; write that array as numbers or as text of "
                "fixed length"
            )
            raise StoreError(msg)
        content, inner = value.as_numpy_array().data, layout.inner
        if inner is None:
            self._check_piece(key, content, layout)
        elif byte_range is None:
            for piece in _pieces_of_shard(content, layout):
                self._check_piece(key, piece, inner)
        elif not _is_index(byte_range, layout):
            self._check_piece(key, content, inner)

    def _check_piece(self, key: str, content: memoryview, layout: ChunkLayout) -> None:
        if layout.packer is None:
            return
        packed = content[layout.head : len(content) - layout.tail]
        try:
            unpacked = _SIZES[layout.packer](packed, layout.limit)
        except lzma.LZMAError as error:
            msg = f"{key} cannot be unpacked: {error}"
            raise ValueError(msg) from error
        except (zlib.error, OSError, struct.error):
            # Zarr's unpacker meets the same damage at the same place, and says so.
            return
        if unpacked > layout.limit:
            raise ValueError(_beyond(key, f"unpacks to {unpacked} bytes or more", layout.size))
        if is_bomb(unpacked, len(content)):
            raise ValueError(_beyond(key, f"claims to unpack {len(content)} bytes to {unpacked}", len(content)))


def open_group(path: Path, *, consolidated: bool | None = None) -> zarr.Group:
    """Open a Zarr v3 group on this machine for reading.

    Args:
        path: Folder of the group.
        consolidated: Whether the descriptions of all arrays are taken from the group's; None where it has them.

    Raises:
        StoreError: a description has a codec that the kit does not decode, or a size that cannot be.
        OSError: there is no group; and what else Zarr raises for descriptions that are none.
    """
    store = GuardedStore(LocalStore(path, read_only=True), str(path))
    return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=consolidated)


def _arrays(document: Any, folder: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the arrays that a description describes, by their paths."""
    if not isinstance(document, dict):
        return
    if name == ".zarray" or document.get("node_type") == "array":
        yield folder, document
        return
    consolidated = document if name == ".zmetadata" else document.get("consolidated_metadata")
    if not isinstance(consolidated, dict) or not isinstance(consolidated.get("metadata"), dict):
        return
    for path, description in consolidated["metadata"].items():
        place = f"{folder}/{path}".strip("/")
        if name == ".zmetadata":
            place, _, kind = place.rpartition("/")
            if kind == ".zarray":
                yield place, description
        elif isinstance(description, dict) and description.get("node_type") != "group":
            yield place, description


def _beyond(key: str, what: str, limit: int) -> str:
    return f"{key} {what}, where {limit} are due: it is damaged, or made to fill memory; nothing of it was unpacked"


def _is_index(byte_range: ByteRequest, layout: ChunkLayout) -> bool:
    if layout.index_first:
        return isinstance(byte_range, RangeByteRequest) and byte_range.start == 0
    return isinstance(byte_range, SuffixByteRequest)


def _pieces_of_shard(content: memoryview, layout: ChunkLayout) -> Iterator[memoryview]:
    """Yield the chunks in a shard; what its index names beyond the shard is left to Zarr, which refuses it."""
    index = content[: layout.index] if layout.index_first else content[-layout.index :]
    entries = len(index) // 16
    for place, length in struct.iter_unpack("<QQ", index[: entries * 16]):
        if length != _ABSENT and place + length <= len(content):
            yield content[place : place + length]


# The size that packed bytes unpack to: from a header that the unpacker holds to, or by unpacking piece by piece.


def _blosc_size(packed: memoryview, _limit: int) -> int:
    # Blosc's header: the unpacked size at byte 4.
    return int(struct.unpack_from("<I", packed, 4)[0]) if len(packed) >= 16 else 0


def _lz4_size(packed: memoryview, _limit: int) -> int:
    # numcodecs puts the unpacked size before LZ4's block.
    return int(struct.unpack_from("<I", packed)[0]) if len(packed) >= 4 else 0


def _zstd_size(packed: memoryview, limit: int) -> int:
    """Bound the unpacked size by frames and blocks, RFC 8878, sections 3.1.1 and 3.1.1.2."""
    at = total = 0
    while at + 6 <= len(packed) and total <= limit:
        magic = int.from_bytes(packed[at : at + 4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:
            at += 8 + int.from_bytes(packed[at + 4 : at + 8], "little")
            continue
        if magic != 0xFD2FB528:
            break
        descriptor = packed[at + 4]
        single, width = bool(descriptor & 0x20), (0, 2, 4, 8)[descriptor >> 6]
        # A frame of one segment states its size in one byte at least.
        width = width or int(single)
        at += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
        stated = int.from_bytes(packed[at : at + width], "little") + (256 if width == 2 else 0)
        at, held, is_last = at + width, 0, False
        while not is_last and at + 3 <= len(packed):
            block = int.from_bytes(packed[at : at + 3], "little")
            is_last, kind, size = bool(block & 1), (block >> 1) & 3, block >> 3
            # Raw and repeated blocks state what they unpack to; others have 128 KiB at most.
            held += size if kind < 2 else 2**17
            at += 3 + (1 if kind == 1 else size)
        at += 4 * bool(descriptor & 4)
        # The unpacker takes as much memory as is stated. Where nothing is, the blocks bound it, of which most are full.
        total += stated if width else max(0, held - 2**17) // 2
    return total


def _streamed_size(start: Callable[[], Any], packed: memoryview, limit: int) -> int:
    """Unpack stream after stream in small pieces, which are thrown away, until there are more than the limit.

    Raises:
        ValueError: there are more streams than any writer makes; each takes a copy of all that follow it.
    """
    total, rest, streams = 0, bytes(packed), 0
    while rest and total <= limit:
        streams += 1
        if streams > _MAX_STREAMS:
            msg = f"it holds more than {_MAX_STREAMS} packed streams"
            raise ValueError(msg)
        stream = start()
        while not stream.eof and total <= limit:
            piece = stream.decompress(rest, _PIECE)
            # zlib keeps what it did not get to apart; the others keep it themselves.
            rest = getattr(stream, "unconsumed_tail", b"")
            total += len(piece)
            if not piece and not rest:
                break
        rest = stream.unused_data
    return total


def _zlib_size(packed: memoryview, limit: int) -> int:
    return _streamed_size(lambda: zlib.decompressobj(zlib.MAX_WBITS | 32), packed, limit)


def _bz2_size(packed: memoryview, limit: int) -> int:
    return _streamed_size(bz2.BZ2Decompressor, packed, limit)


def _lzma_size(packed: memoryview, limit: int) -> int:
    return _streamed_size(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), packed, limit)


_SIZES: dict[str, Callable[[memoryview, int], int]] = {
    "blosc": _blosc_size,
    "lz4": _lz4_size,
    "zstd": _zstd_size,
    "zlib": _zlib_size,
    "gzip": _zlib_size,
    "bz2": _bz2_size,
    "lzma": _lzma_size,
}
