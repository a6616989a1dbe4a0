"""What a Zarr store says of an array, read as a schema before anything is decoded: sizes, type and codecs.

A description comes from a stranger. Codecs are taken from a list: some of numcodecs' codecs make Python objects of
bytes, and one of them runs whatever the bytes say (``pickle``). The sizes say how large a chunk may be, packed and
unpacked. Both versions of the format are read (zarr-specs.readthedocs.io, versions 2 and 3).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.io.errors import StoreError

MAX_COORDINATE = 2**24
"""Most values of an array with one dimension: hours of 1900 years, or metres around half the globe."""
_MAX_CHUNK = 2**31
"""Most bytes of a chunk, which is Blosc's limit."""
_MAX_BEYOND = 2**26
"""Bytes that a chunk may have beyond its array; the last chunks reach over the edge."""
_MAX_DIMENSIONS = 32
_MAX_LENGTH = 2**62
_INDEX_ENTRY = 16
"""Bytes of a chunk's entry in the index of a shard: its place and its length."""
_CHECKSUM = 4
_MAX_CHECKSUMS = 64
"""Bytes of checksums that may be packed with a chunk."""

PACKERS = ("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma")
"""Codecs whose output may be larger than what they are given."""
# Bytes that checksums put before or behind what they protect.
_CHECKSUMS = ("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3")
_AT_START = ("crc32", "adler32")
# Filters that turn numbers into numbers of another type, and those that keep the size.
_CONVERTERS = ("delta", "fixedscaleoffset", "quantize", "astype", "packbits")
_ARRANGERS = ("bytes", "transpose", "endian", "shuffle", "bitround")
_WIDEST = 8
"""Factor by which a filter may widen values, such as from one byte to eight."""
_TEXT = ("vlen-utf8", "vlen-bytes", "vlen-array")
"""Codecs of text and ragged rows: an array with one may be there, and is not decoded."""
_SHARDING = "sharding_indexed"
_KNOWN = (*PACKERS, *_CHECKSUMS, *_CONVERTERS, *_ARRANGERS, *_TEXT, _SHARDING)

# Numbers, times and text of fixed length, as NumPy writes them, and as version 3 names them.
_NUMPY_TYPE = re.compile(r"[<>|=]?(?P<kind>[biufcSUVMm])(?P<size>\d{1,5})(?:\[\w{1,12}\])?")
_NAMED_TYPE = re.compile(r"(?P<kind>bool|int|uint|float|complex|r)(?P<bits>\d{0,5})")


@dataclass(frozen=True)
class ChunkLayout:
    """How the chunks of an array, or those inside its shards, are stored.

    Attributes:
        size: Size in bytes of a chunk, unpacked.
        limit: Most bytes that its packer may make.
        packer: Codec among ``PACKERS``; None where nothing is packed.
        head: Bytes of checksums before the packed ones.
        tail: Bytes of checksums behind them.
        inner: Layout of the chunks inside a shard; None where an array has no shards.
        index: Size in bytes of a shard's index.
        index_first: Whether the index lies before the chunks.
        refusal: Why the chunks are not decoded; empty where they are.
    """

    size: int = 0
    limit: int = 0
    packer: str | None = None
    head: int = 0
    tail: int = 0
    inner: "ChunkLayout | None" = None
    index: int = 0
    index_first: bool = False
    refusal: str = ""

    @property
    def largest_stored(self) -> int:
        """Most bytes of a chunk as it is stored: packers add little to what cannot be packed."""
        return 2 * self.limit + self.index + 2**16


def read_layout(document: Any, name: str) -> ChunkLayout:
    """Read how the chunks of an array are stored.

    Args:
        document: Contents of ``.zarray``, or of an array's ``zarr.json``.
        name: Name of the array, for messages.

    Raises:
        StoreError: a size or a codec cannot be; names it.
    """
    if not isinstance(document, Mapping):
        raise StoreError(_wrong(name, "its description", "an object of JSON", document))
    if document.get("zarr_format") == 2:
        shape, chunks = _sizes(document.get("shape"), name), _sizes(document.get("chunks"), name)
        codecs = [*_listed(document.get("filters"), name), *_listed(document.get("compressor"), name)]
        width, refusal = _width(document.get("dtype"))
    else:
        shape = _sizes(document.get("shape"), name)
        grid = document.get("chunk_grid")
        configuration = grid.get("configuration") if isinstance(grid, Mapping) else None
        chunks = _sizes(configuration.get("chunk_shape") if isinstance(configuration, Mapping) else None, name)
        codecs = _listed(document.get("codecs"), name)
        width, refusal = _width(document.get("data_type"))
    if len(shape) != len(chunks):
        raise StoreError(_wrong(name, "chunks", f"{len(shape)} sizes, as its shape has", list(chunks)))
    values, chunk_values = math.prod(shape), math.prod(chunks)
    if len(shape) == 1 and values > MAX_COORDINATE:
        raise StoreError(_wrong(name, "its length", f"at most {MAX_COORDINATE} values of one dimension", values))
    size, whole = chunk_values * width, values * width
    if size > _MAX_CHUNK or size > 2 * whole + _MAX_BEYOND:
        wanted = f"at most {_MAX_CHUNK} bytes, and not far more than its {whole} bytes in all"
        raise StoreError(_wrong(name, "the size of a chunk", wanted, size))
    return _read_codecs(codecs, chunks, width, refusal, name)


def _read_codecs(
    codecs: Sequence[tuple[str, Mapping[str, Any]]], chunks: tuple[int, ...], width: int, refusal: str, name: str
) -> ChunkLayout:
    """Go through codecs in the order in which they encode."""
    size = math.prod(chunks) * width
    widest, packer, head, tail = 1, None, 0, 0
    for codec, options in codecs:
        if codec not in _KNOWN:
            known = ", ".join((*PACKERS, *_CHECKSUMS, *_CONVERTERS, *_ARRANGERS))
            msg = (
                f"the array {name} is packed with the codec {codec!r}, which the kit does not decode: codecs of other "
                f"kinds can make objects of bytes and run what these say. Nothing was decoded. Write the store again "
                f"with some of {known}"
            )
            raise StoreError(msg)
        if codec in _TEXT:
            refusal = f"it holds text or rows of several lengths ({codec})"
        elif codec == _SHARDING:
            return _read_shards(options, chunks, width, refusal, name)
        elif codec in _CONVERTERS:
            for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
                # A filter that gives bytes another type could make pointers of them.
                if key in options and (problem := _width(options[key])[1]):
                    refusal = f"the filter {codec} makes {options[key]!r} of it, and {problem}"
            widest = _WIDEST
        elif codec in PACKERS and packer is not None:
            msg = f"the array {name} is packed twice, with {packer} and {codec}; write the store again with one of them"
            raise StoreError(msg)
        elif codec in PACKERS:
            packer, head, tail = codec, 0, 0
        elif codec in _CHECKSUMS:
            # A checksum that is made before the packer packs is part of what is packed.
            at_start = codec in _AT_START and options.get("location", "start") == "start"
            head, tail = head + _CHECKSUM * at_start, tail + _CHECKSUM * (not at_start)
    return ChunkLayout(size, widest * size + _MAX_CHECKSUMS, packer, head, tail, refusal=refusal)


def _read_shards(
    options: Mapping[str, Any], chunks: tuple[int, ...], width: int, refusal: str, name: str
) -> ChunkLayout:
    inner = _sizes(options.get("chunk_shape"), name)
    if len(inner) != len(chunks):
        raise StoreError(_wrong(name, "chunks in shards", f"{len(chunks)} sizes, as the shards have", list(inner)))
    codecs = _listed(options.get("codecs"), name)
    index_codecs = [codec for codec, _ in _listed(options.get("index_codecs"), name)]
    if _SHARDING in dict(codecs) or not set(index_codecs) <= {"bytes", "crc32c"}:
        msg = f"the array {name} has shards in shards, or packs their index; write the store again without that"
        raise StoreError(msg)
    layout = _read_codecs(codecs, inner, width, refusal, name)
    count = math.prod(-(-length // part) for length, part in zip(chunks, inner, strict=True))
    index = count * _INDEX_ENTRY + _CHECKSUM * ("crc32c" in index_codecs)
    size = math.prod(chunks) * width
    if index > max(2 * size, 2**20):
        raise StoreError(_wrong(name, "the number of chunks in a shard", "no more than its bytes", count))
    first = options.get("index_location") == "start"
    return ChunkLayout(size, count * layout.limit, None, 0, 0, layout, index, first, layout.refusal)


def _sizes(sizes: Any, name: str) -> tuple[int, ...]:
    """Read lengths along dimensions."""
    are_sizes = isinstance(sizes, list) and len(sizes) <= _MAX_DIMENSIONS
    if not are_sizes or not all(type(size) is int and 0 <= size < _MAX_LENGTH for size in sizes):
        raise StoreError(_wrong(name, "shape and chunks", "lists of lengths", sizes))
    return tuple(sizes)


def _listed(codecs: Any, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read a codec, or a list of them, as names and options; names of numcodecs' own without its prefix."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for codec in codecs if isinstance(codecs, list) else [codecs]:
        if codec is None:
            continue
        described = codec if isinstance(codec, Mapping) else {"name": codec}
        # Version 2 has the options beside the name, version 3 below it.
        codec_name, options = described.get("id", described.get("name")), described.get("configuration", described)
        if not isinstance(codec_name, str) or not isinstance(options, Mapping):
            raise StoreError(_wrong(name, "codecs", "names with options", codec))
        found.append((codec_name.removeprefix("numcodecs."), options))
    return found


def _width(kind: Any) -> tuple[int, str]:
    """Read the bytes of a value; with the reason why values are not decoded, where they are no numbers."""
    if isinstance(kind, Mapping):
        options = kind.get("configuration")
        length = options.get("length_bytes") if isinstance(options, Mapping) else None
        if kind.get("name") in ("numpy.datetime64", "numpy.timedelta64"):
            return 8, ""
        if type(length) is int and 0 < length < 2**16:
            return length, ""
    elif isinstance(kind, str):
        if (found := _NUMPY_TYPE.fullmatch(kind)) is not None:
            return int(found["size"]) * (4 if found["kind"] == "U" else 1), ""
        if (found := _NAMED_TYPE.fullmatch(kind)) is not None:
            return max(1, int(found["bits"] or 8) // 8), ""
    return 1, f"its type {str(kind)[:40]!r} is neither a number nor a time nor text of fixed length"


def _wrong(name: str, what: str, expected: str, got: Any) -> str:
    return f"the array {name}: {what}: expected {expected}, got {str(got)[:80]}; write the store again"
