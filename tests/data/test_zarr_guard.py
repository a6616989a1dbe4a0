"""Zarr stores are read through a guard: what may be decoded is, with the same values, and nothing else."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.storage import LocalStore

from kit.data.zarr_guard import GuardedStore, open_group
from kit.data.zarr_layout import MAX_COORDINATE, read_layout
from kit.io.errors import StoreError

VALUES = (280 + np.arange(240).reshape(4, 6, 10) % 13).astype(np.float32)


def guarded(folder: Path) -> zarr.Group:
    return zarr.open_group(GuardedStore(LocalStore(folder, read_only=True), "a.zarr"), mode="r")


def written(folder: Path, form: Any, **options: Any) -> Path:
    """A group with one array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(folder, zarr_format=form)
        array = group.create_array("t", shape=VALUES.shape, dtype="f4", **({"chunks": (2, 6, 5)} | options))
        array[:] = VALUES
    return folder


PACKERS = (
    None, numcodecs.Blosc("zstd"), numcodecs.Blosc("lz4", shuffle=2), numcodecs.Zstd(), numcodecs.LZ4(),
    numcodecs.Zlib(), numcodecs.GZip(), numcodecs.BZ2(), numcodecs.LZMA(),
)  # fmt: skip
FILTERS: tuple[list[Any], ...] = (
    [],
    [numcodecs.Shuffle(4)],
    [numcodecs.Delta("f4")],
    [numcodecs.FixedScaleOffset(offset=280, scale=1, dtype="f4", astype="u1")],
    [numcodecs.AsType("f8", "f4")],
    [numcodecs.BitRound(20)],
    [numcodecs.CRC32()],
    [numcodecs.Fletcher32()],
)


@pytest.mark.parametrize("packer", PACKERS, ids=repr)
@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_what_unpacks_numbers_is_read(packer: Any, filters: list[Any], tmp_path: Path) -> None:
    compressors = () if packer is None else (packer,)
    store = written(tmp_path / "a.zarr", 2, filters=filters or None, compressors=compressors)
    np.testing.assert_array_equal(guarded(store)["t"][:], VALUES)  # type: ignore[index]


@pytest.mark.parametrize(
    "options",
    (
        {"compressors": ()},
        {"compressors": (GzipCodec(),)},
        {"compressors": (ZstdCodec(), Crc32cCodec())},
        {"compressors": (Crc32cCodec(), BloscCodec())},
        {"shards": (4, 6, 10)},
        {"shards": (4, 6, 10), "compressors": (GzipCodec(), Crc32cCodec())},
    ),
    # Names of our own: a codec's repr shows sets, whose order is another in every process.
    ids=("plain", "gzip", "zstd-crc32c", "crc32c-blosc", "sharded", "sharded-gzip-crc32c"),
)
def test_version_3_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    array = guarded(written(tmp_path / "a.zarr", 3, **options))["t"]
    np.testing.assert_array_equal(array[:], VALUES)  # type: ignore[index]
    # A part of a shard is read by ranges.
    np.testing.assert_array_equal(array[1, 2:4], VALUES[1, 2:4])  # type: ignore[index]


def described(**changed: Any) -> dict[str, Any]:
    """An array of version 2, as ``.zarray`` describes it."""
    plain = {"zarr_format": 2, "shape": [4, 6, 10], "chunks": [2, 6, 5], "dtype": "<f4", "filters": None}
    return {**plain, "compressor": None, **changed}


def described_3(*codecs: Any, **changed: Any) -> dict[str, Any]:
    grid = {"name": "regular", "configuration": {"chunk_shape": [2, 6, 5]}}
    return {
        "zarr_format": 3,
        "shape": [4, 6, 10],
        "chunk_grid": grid,
        "data_type": "float32",
        "codecs": list(codecs),
    } | changed


def sharded(*codecs: Any, **changed: Any) -> dict[str, Any]:
    inner = {"chunk_shape": [1, 2, 5], "codecs": list(codecs), "index_codecs": ["bytes", "crc32c"]} | changed
    return described_3({"name": "sharding_indexed", "configuration": inner})


@pytest.mark.parametrize(
    ("document", "message"),
    (
        (described(filters=[{"id": "pickle"}]), "codec 'pickle'"),
        (described(filters=[{"id": "shuffle"}, {"id": "msgpack2"}]), "codec 'msgpack2'"),
        (described(compressor={"id": "json2"}), "codec 'json2'"),
        (described_3("bytes", {"name": "numcodecs.pickle"}), "codec 'pickle'"),
        (described_3({"name": "rot13"}), "codec 'rot13'"),
        (sharded("bytes", {"name": "numcodecs.pickle"}), "codec 'pickle'"),
        (sharded("bytes", index_codecs=["bytes", "gzip"]), "packs their index"),
        (sharded({"name": "sharding_indexed"}), "shards in shards"),
        (described(filters=[{"id": "zlib"}], compressor={"id": "zstd"}), "packed twice, with zlib and zstd"),
        (described(filters=[{"id": 7}]), "names with options"),
        (described(shape=[-4, 6, 10]), "lists of lengths"),
        (described(shape=[4.0, 6, 10]), "lists of lengths"),
        (described(chunks=[2, 6]), "3 sizes, as its shape has"),
        (described(shape=[MAX_COORDINATE + 1], chunks=[100]), f"at most {MAX_COORDINATE} values"),
        (described(chunks=[1, 10**5, 10**4]), "the size of a chunk"),
        (described(shape=[4, 10**5, 10**5], chunks=[1, 10**5, 10**5]), "the size of a chunk"),
        ([], "an object of JSON"),
    ),
)  # fmt: skip
def test_what_no_array_has(document: Any, message: str) -> None:
    with pytest.raises(StoreError, match=f"the array t.*{message}"):
        read_layout(document, "t")


@pytest.mark.parametrize(
    "document",
    (
        described(dtype="|O", filters=[{"id": "vlen-utf8"}]),
        described(dtype=[["a", "<f4"]]),
        described(filters=[{"id": "astype", "encode_dtype": "<f4", "decode_dtype": "|O"}]),
        described_3({"name": "vlen-bytes"}, data_type="string"),
        described(dtype="<f8,(1000,1000)f8"),
    ),
)
def test_arrays_that_are_not_decoded_may_be_there(document: Any, tmp_path: Path) -> None:
    assert read_layout(document, "t").refusal


def zstd(blocks: int, size: int | None) -> bytes:
    """A frame of repeated blocks of 128 KiB each, which states a size or none (RFC 8878, section 3.1.1)."""
    head = b"\x28\xb5\x2f\xfd" + (b"\x00\x58" if size is None else b"\xa0" + struct.pack("<I", size))
    return head + b"".join(
        struct.pack("<I", 2**17 << 3 | 1 << 1 | (n == blocks - 1))[:3] + b"\0" for n in range(blocks)
    )


@pytest.mark.parametrize(
    ("codec", "chunk"),
    (
        ("blosc", b"\x02\x01\x21\x04" + struct.pack("<III", 2**30, 2**18, 40) + bytes(24)),
        ("lz4", struct.pack("<I", 2**30) + bytes(40)),
        ("zlib", zlib.compress(bytes(2**20))),
        ("gzip", gzip.compress(bytes(100), mtime=0) * 10),
        ("gzip", gzip.compress(b"", mtime=0) * 100),
        ("bz2", bz2.compress(bytes(2**20))),
        ("lzma", lzma.compress(bytes(2**20))),
        ("lzma", lzma.compress(bytes(100), lzma.FORMAT_ALONE)[:1] + struct.pack("<I", 2**31) + bytes(40)),
        ("zstd", zstd(2, 2**30)),
        ("zstd", zstd(100, None)),
        ("zstd", b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstd(2, 2**30)),
    ),
)
def test_chunks_that_unpack_to_more(codec: str, chunk: bytes, tmp_path: Path) -> None:
    """A chunk has 2 x 6 x 5 values of 4 bytes."""
    folder = written(tmp_path / "a.zarr", 2, compressors=())
    file = folder / "t" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compressor": {"id": codec}}))
    # Alone: chunks are read side by side, and another one, which was never packed, might fail first.
    for other in (folder / "t").glob("?.?.?"):
        other.unlink()
    (folder / "t" / "0.0.0").write_bytes(chunk)
    array = guarded(folder)["t"]
    with pytest.raises(ValueError, match=r"t/0.0.[0-9] (unpacks to|cannot be unpacked)|packed streams"):
        array[:]  # type: ignore[index]


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def hole(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(2**32)


@pytest.mark.parametrize("spoil", (pipe, endless, hole))
@pytest.mark.parametrize("name", ("t/c/0/0/0", "zarr.json"))
def test_files_that_have_no_end(spoil: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "a.zarr", 3)
    spoil(folder / name)
    with pytest.raises((OSError, ValueError), match="is no file|holds 4294967296 bytes"):
        open_group(folder)["t"][:]  # type: ignore[index]
